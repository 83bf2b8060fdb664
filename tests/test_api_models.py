"""The Python API: models that were in memory already, measuring, and what is seen of the work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

import lowrise
import made_tasks
import tiny
from comparisons import steps_inside
from lowrise import api
from lowrise.errors import ModelError, TaskError, TextError

Main = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.filterwarnings("ignore::lowrise.api.progress.LowriseWarning")


@pytest.fixture
def model(here: Path) -> lowrise.Model:  # noqa: ARG001 - the folder it lies in
    return lowrise.open("org/name", device="cpu")


@pytest.fixture
def live() -> Any:
    return tiny.model(max_position_embeddings=32)


def weights(folder: Path | str) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


def windows(rows: int = 8, seed: int = 0) -> Any:
    return lowrise.tokens(tiny.ids(rows, 16, seed))


# -- models that were in memory already -----------------------------------------------------------------------------


def test_a_wrapped_model_stays_what_and_where_it_was(tmp_path: Path) -> None:
    tiny.save(tmp_path / "dense", num_hidden_layers=8, max_position_embeddings=32)
    live = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.bfloat16).train()
    live.model.layers[1].mlp.eval()
    live.model.embed_tokens.weight.requires_grad_(False)
    live.lm_head.weight.grad = gradient = torch.ones_like(live.lm_head.weight)
    before = {name: (id(p), p.dtype, p.device, p.data_ptr()) for name, p in live.named_parameters()}
    modes = {name: module.training for name, module in live.named_modules()}

    model = lowrise.wrap(live, tiny.tokenizer())
    plan = lowrise.plan(model, windows(), preset="taylor", remove=1, repair="fold", seed=3)
    assert {name: (id(p), p.dtype, p.device, p.data_ptr()) for name, p in live.named_parameters()} == before
    small = lowrise.apply(model, plan, windows())
    small.save(tmp_path / "saved")
    lowrise.measure(small)

    assert small is model
    assert small.hf_model is live
    assert len(live.model.layers) == 7
    kept = [layer for layer in range(8) if layer != plan.edits[0].start]
    for name, parameter in live.named_parameters():
        old = re.sub(r"layers\.(\d+)", lambda found: f"layers.{kept[int(found[1])]}", name)
        assert (id(parameter), parameter.dtype, parameter.device, parameter.data_ptr()) == before[old]
        assert parameter.requires_grad == ("embed_tokens" not in name)
    assert live.lm_head.weight.grad is gradient
    for name, module in live.named_modules():
        assert module.training == modes[re.sub(r"layers\.(\d+)", lambda found: f"layers.{kept[int(found[1])]}", name)]


@pytest.mark.usefixtures("here")
def test_what_a_wrapped_model_saves_opens_as_it_is(tmp_path: Path) -> None:
    live = AutoModelForCausalLM.from_pretrained("org/name", dtype=torch.bfloat16)
    live.name_or_path = ""
    live.generation_config.temperature, live.generation_config.do_sample = 0.5, True
    model = lowrise.wrap(live, tiny.tokenizer())
    assert (model.source, model.wrapped, model.dtype) == ("a model in memory", True, torch.bfloat16)
    lowrise.apply(model, lowrise.plan(model, layers="1-2", samples=4, length=16))
    folder = model.save(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.dtype == torch.bfloat16
    assert again.generation_config.temperature == 0.5
    ids = tiny.ids()
    assert torch.equal(again(ids).logits, live(ids).logits)
    assert lowrise.open(folder).tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert model.save(folder, force=True) == folder  # it is usable still, and the folder known as lowrise's


@pytest.mark.usefixtures("here")
def test_an_opened_model_is_after_save_what_was_read_back(model: lowrise.Model) -> None:
    lowrise.apply(model, lowrise.plan(model, layers=[0], samples=4, length=16))
    model.save("saved")
    again, ids = lowrise.open("saved", device="cpu"), tiny.ids()
    assert torch.equal(model.hf_model(ids).logits, again.hf_model(ids).logits)
    with pytest.raises(lowrise.LowriseError, match="choose another or say --force"):
        model.save("saved")
    model.save("saved", force=True)
    assert lowrise.measure(model, text="b.txt", length=16).layers == 5


@pytest.mark.parametrize(
    ("spoil", "fragment"),
    [
        (lambda live: live.model, "found LlamaModel, which has no head"),
        (lambda _live: torch.nn.Linear(2, 2), "expected a PreTrainedModel of transformers, found Linear"),
        (lambda live: live.model.norm.weight.data.fill_(torch.nan) is None or live, "NaN or Inf in model.norm.weight"),
        (lambda live: setattr(live.config, "quantization_config", {"a": 1}) or live, "found quantised ones"),
        (lambda live: live.to("meta"), "offloaded"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_in_a_line(spoil: Callable[[Any], Any], fragment: str, live: Any) -> None:
    with pytest.raises(ModelError, match=re.escape(fragment)):
        lowrise.wrap(spoil(live), tiny.tokenizer())


@pytest.mark.parametrize("spoil", [lambda live: live.to(torch.bfloat16), lambda live: live.model.norm.double()])
def test_a_wrapped_model_in_formats_that_no_load_gives_is_not_saved(
    spoil: Callable[[Any], Any], live: Any, tmp_path: Path
) -> None:
    spoil(live)
    with pytest.warns(lowrise.LowriseWarning, match="this model cannot be saved"):
        model = lowrise.wrap(live, tiny.tokenizer())
    with pytest.raises(ModelError, match="load the model in the format that it is to have"):
        model.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# -- measuring ------------------------------------------------------------------------------------------------------


def test_a_dense_model_may_be_a_model_a_source_or_results(model: lowrise.Model, here: Path) -> None:
    how: dict[str, Any] = {"text": ["b.txt"], "length": 16, "tasks": ["made_choice"]}
    how["task_dir"] = made_tasks.write_tasks(here / "tasks")
    before = lowrise.measure(model, **how)
    small = lowrise.apply(model, lowrise.plan(model, windows(), preset="tail", remove=2))
    found = [lowrise.measure(small, dense=dense, **how) for dense in (before, "org/name", model)]
    assert found[0].dense is not None
    assert found[0].dense.perplexity["b.txt"].value == before.perplexity["b.txt"].value
    for one in found:
        assert one.retained == found[0].retained
        assert one.stability == found[0].stability
        assert one.dense == found[0].dense
    assert isinstance(found[0], lowrise.Results)

    plain = lowrise.Results.model_validate(before.model_dump())
    with pytest.raises(TaskError, match=r"results without the answers to each item"):
        lowrise.measure(small, dense=plain, **how)
    with pytest.raises(TextError, match=r"expected results on a.txt, .* found none"):
        lowrise.measure(small, dense=plain, text="a.txt", length=16)
    with pytest.raises(TextError, match=r"windows of 16, found .* windows of 32"):
        lowrise.measure(small, dense=lowrise.measure("org/name", text="b.txt"), text="b.txt", length=16)
    assert lowrise.measure(small, dense=plain, text="b.txt", length=16).retained is not None


def test_a_wrapped_dense_model_that_was_edited_is_refused(live: Any) -> None:
    model = lowrise.wrap(live, tiny.tokenizer())
    before = lowrise.measure(model)
    lowrise.apply(model, lowrise.plan(model, windows(), preset="tail", remove=2))
    with pytest.raises(ModelError, match=r"measure it before lowrise.apply, and give these results as dense"):
        lowrise.measure(model, dense=model)
    found = lowrise.measure(model, dense=before)
    assert found.dense is not None
    assert (found.layers, found.dense.layers) == (4, 6)
    with pytest.raises(ModelError, match=r"4 layers after a plan was applied; wrap its hf_model anew"):
        lowrise.run(model, "out")


def state(live: Any) -> dict[str, tuple[int, torch.Tensor]]:
    return {name: (id(one), one.detach().clone()) for name, one in live.named_parameters()}


@pytest.mark.usefixtures("here")
def test_a_run_of_a_wrapped_model_is_that_of_its_source_and_leaves_it_alone(here: Path) -> None:
    how: dict[str, Any] = {"preset": "replaceme", "remove": 2, "text": ["a.txt"], "samples": 8, "length": 16}
    lowrise.run("org/name", "by-source", **how)
    live = AutoModelForCausalLM.from_pretrained("org/name")
    before = state(live)
    results = lowrise.run(lowrise.wrap(live, tiny.tokenizer()), "wrapped", **how)
    assert (results.layers, len(live.model.layers)) == (4, 6)
    for name, (number, value) in state(live).items():
        assert number == before[name][0]
        assert torch.equal(value, before[name][1])
    assert weights("wrapped") == weights("by-source")
    plans = [json.loads(Path(out, "lowrise/plan.json").read_text()) for out in ("wrapped", "by-source")]
    assert Path(plans[0]["model"].pop("source")).name == "name"
    assert plans[1]["model"].pop("source") == "org/name"
    assert plans[0].pop("versions")["dtype"] == plans[1].pop("versions")["dtype"]
    assert [plan["settings"].pop("dtype") for plan in plans] == ["float32", "auto"]
    assert plans[0] == plans[1]
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("here")
def test_a_wrapped_model_is_run_in_its_number_format() -> None:
    live = AutoModelForCausalLM.from_pretrained("org/name", dtype=torch.bfloat16)
    model = lowrise.wrap(live, tiny.tokenizer())
    lowrise.run(model, "new/place/out", preset="tail", remove=1, text=["a.txt"], samples=4, length=16)
    plan = json.loads(Path("new/place/out/lowrise/plan.json").read_text())
    assert plan["versions"]["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained("new/place/out").dtype == torch.bfloat16
    with pytest.raises(lowrise.LowriseError, match="choose another or say --force"):
        lowrise.run(model, "new/place/out", preset="tail", remove=1)
    with pytest.raises(lowrise.LowriseError, match=r"nowhere\.txt"):
        lowrise.run(model, "other/place/out", preset="tail", remove=1, text=["nowhere.txt"])
    assert not Path("other").exists()
    assert [path.name for path in Path("new/place").iterdir()] == ["out"]


@pytest.mark.usefixtures("here")
def test_an_interrupted_run_of_a_wrapped_model_goes_on(
    live: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = lowrise.wrap(live, tiny.tokenizer())
    how: dict[str, Any] = {"preset": "tail", "remove": 2, "text": ["a.txt"], "samples": 4, "length": 16}

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lowrise.pipeline.apply_and_write", stop)
        lowrise.run(model, "out", **how)
    (work,) = (path for path in here.iterdir() if path.name.startswith("."))
    lowrise.run(model, "out", progress=True, **how)
    assert f"going on with what is kept in {work}" in capfd.readouterr().err
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("here")
def test_a_comparison_of_a_wrapped_model_goes_on_and_takes_more_rows(
    live: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = steps_inside(monkeypatch)
    model = lowrise.wrap(live, tiny.tokenizer())
    how: dict[str, Any] = {"text": ["a.txt"], "eval_text": ["b.txt"], "samples": 4, "length": 16, "windows": 1}
    found = lowrise.compare(model, ["tail"], [2], "compared", **how)
    assert [row.status for row in found.rows] == ["done"]
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []
    titles.clear()
    found = lowrise.compare(model, ["tail"], [2, 1], "compared", **how)
    assert [row.status for row in found.rows] == ["done", "done"]
    assert titles == ["preparing", "tail, 1 layer"]
    assert len(live.model.layers) == 6


def test_results_are_those_of_the_command(model: lowrise.Model, main: Main) -> None:
    status, out, err = main("measure", "org/name", "--text", "b.txt", "--length", 16, "--device", "cpu", "--json")
    assert status == 0, err
    apart = ("seconds", "memory")
    of_command = {key: value for key, value in json.loads(out).items() if key not in apart}
    found = lowrise.measure(model, text=["b.txt"], length=16)
    assert {key: value for key, value in found.model_dump().items() if key not in apart} == of_command
    with pytest.raises(ValidationError, match="frozen"):
        found.layers = 3


# -- what is seen ---------------------------------------------------------------------------------------------------


def test_a_function_is_told_every_step(model: lowrise.Model, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[lowrise.Event] = []
    lowrise.calibrate(model, samples=4, length=16, progress=events.append)
    steps = [event for event in events if event.stage == "writing"]
    assert [event.done for event in steps] == [4 * step for step in range(17)]
    assert {event.total for event in steps} == {64}
    assert any(event.note.startswith("the model writes its own text") for event in events)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_shown_outside_a_terminal(live: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = lowrise.wrap(live, tiny.tokenizer())
    small = lowrise.apply(model, lowrise.plan(model, windows(), preset="refit-span", remove=2), windows())
    small.save(tmp_path / "out")
    lowrise.measure(small)
    assert capfd.readouterr() == ("", "")


def test_warnings_go_to_the_function_or_else_to_python_s(model: lowrise.Model) -> None:
    low = lowrise.plan(model, windows(), preset="tail", remove=1)
    low.versions["torch"] = "1.0"
    low.edits = [edit.model_copy(update={"repair": "fold", "kind": "fold"}) for edit in low.edits]
    events: list[lowrise.Event] = []
    small = lowrise.apply(lowrise.open("org/name", device="cpu"), low, windows(), progress=events.append)
    assert [event.note for event in events if event.warning] == small.warnings
    assert "made with torch 1.0" in small.warnings[0]
    with pytest.warns(lowrise.LowriseWarning, match="made with torch 1"):
        lowrise.apply(model, low, windows())


def test_bars_of_a_notebook_are_opened_moved_and_closed_in_turn() -> None:
    class Made(list[tuple[str, Any]]):
        n = 0

        def __init__(self, **how: Any) -> None:
            super().__init__([("made", how["desc"])])
            bars.append(self)

        def update(self, steps: int) -> None:
            self.n += steps

        def set_postfix_str(self, note: str, **_how: bool) -> None:
            self.append(("note", note))

        def close(self) -> None:
            self.append(("closed", self.n))

    bars: list[Made] = []
    show = api.progress.NotebookBars(Made)
    for event in [("a", 0, 2), ("a", 1, 2), ("", 0, None), ("b", 0, 5), ("b", 5, 5), ("b", 0, 5)]:
        show(lowrise.Event(*event))
    assert [bar[0][1] for bar in bars] == ["a", "b", "b"]
    assert [bar[-1] for bar in bars] == [("closed", 1), ("closed", 5), ("note", "")]


@pytest.mark.usefixtures("here")
def test_a_notebook_shows_the_layers_and_the_table_escaped(model: lowrise.Model) -> None:
    Path("<b>.txt").write_text(tiny.text(), encoding="utf-8")
    plan = lowrise.plan(model, windows(), preset="tail", remove=2)
    plan.model.source = "<script>alert(1)</script>"
    found = lowrise.measure(model, text="<b>.txt", length=16)
    dense = model._repr_html_()
    assert "<svg" not in dense
    model.plan = plan
    shown = [plan._repr_html_(), model._repr_html_(), found._repr_html_()]
    for html in [dense, *shown]:
        assert "<script" not in html
        assert not re.search(r"(https?:)?//|url\(|@import|\bon\w+=", html)
        assert html.count("<div") == html.count("</div")
    assert all("6 layers before, 4 after" in html for html in shown[:2])
    assert "perplexity, &lt;b&gt;.txt" in shown[2]
    assert "&lt;script&gt;" in shown[0]
