"""LaCo's search: the same decisions as a naive Algorithm 1, plans that reproduce it, and its contract."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from lowrise.calibration.sentences import Sentences, pad_right
from lowrise.edit.merge import merge
from lowrise.model.decoder import Decoder
from lowrise.observe.representation import flattened_cosine, per_token_cosine
from lowrise.plan import Merge, read_plan
from lowrise.progress import Reporter
from lowrise.recipe import build_recipe
from lowrise.select.merge_search import Search, merge_search
from lowrise.settings import MergeSearch

LAYERS = tiny.LAYERS
FAMILIES = ["llama", "qwen2", "gpt2", "opt", "phi3"]
PLAIN = {"qwen2": {"use_sliding_window": False}}


@functools.cache
def original(family: str) -> Any:
    return tiny.model(family, **PLAIN.get(family, {}))


def make(family: str) -> Decoder:
    return Decoder(copy.deepcopy(original(family)))


def sentences(rows: int = 5, seed: int = 0) -> Sentences:
    """Of unlike lengths, so that padding matters."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randint(2, tiny.VOCABULARY, (4 + 3 * row,), generator=generator).tolist() for row in range(rows)]
    return Sentences(*pad_right(made), "made up", seed, 64)


@torch.no_grad()
def representations(model: Any, texts: Sentences, kind: str) -> list[torch.Tensor]:
    """One state a sentence, each run by itself without padding; per token: taken where the final norm is entered."""
    seen: list[torch.Tensor] = []
    norms = {name: module for name, module in model.base_model.named_modules() if name.endswith(("norm", "ln_f"))}
    norm = norms[min(norms, key=lambda name: name.count("."))]  # the outermost: the final one
    hook = norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    found = []
    for row, mask in zip(texts.ids, texts.mask, strict=True):
        final = model.base_model(input_ids=row[mask][None], use_cache=False).last_hidden_state
        found.append((final if kind == "flattened-final" else seen[-1])[0])
    hook.remove()
    return found


def naive_search(family: str, texts: Sentences, settings: MergeSearch) -> tuple[list[Any], Any]:
    """Algorithm 1 (METHODS 2.2) with a model made anew for every trial and all its merges repeated on it."""
    dense = representations(make(family).model, texts, settings.representation)
    accepted: list[Merge] = []
    trials, count = [], LAYERS
    high = settings.high or LAYERS
    assert settings.threshold is not None
    layer = high - settings.combine
    while layer >= settings.low:
        more = min(settings.combine - 1, count - layer - 1)
        edit = Merge(start=layer, stop=layer + more + 1, rule=settings.rule, norms=settings.norms)
        decoder = make(family)
        for one in [*accepted, edit]:
            merge(decoder, one)
        ours = representations(decoder.model, texts, settings.representation)
        if settings.representation == "flattened-final":
            values = [
                torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in zip(ours, dense, strict=True)
            ]
        else:
            values = [torch.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(ours, dense, strict=True)]
        similarity = float(torch.stack(values).mean())
        trials.append((layer, more + 1, similarity > settings.threshold, similarity))
        if similarity > settings.threshold:
            accepted.append(edit)
            count -= more
            layer = min(layer - settings.interval, count - settings.combine)
        else:
            layer -= 1
    decoder = make(family)
    for one in accepted:
        merge(decoder, one)
    return trials, decoder.model


def search(family: str, texts: Sentences, settings: MergeSearch, remove: int | None = None) -> tuple[Search, Decoder]:
    decoder = make(family)
    return merge_search(decoder, texts, settings, remove, Reporter(quiet=True)), decoder


SETTINGS = {
    "sum": MergeSearch(combine=3, threshold=0.3, interval=1),
    "mean": MergeSearch(combine=3, threshold=0.5, rule="mean", low=0, interval=2),
    "last": MergeSearch(combine=2, threshold=0.6, rule="last", high=5, interval=1, norms="merge"),
    "per-token": MergeSearch(combine=3, threshold=0.4, rule="mean", interval=1, representation="per-token"),
}
CASES = [(family, name) for family in FAMILIES for name in ("sum", "mean")]
CASES += [(family, name) for family in ("llama", "gpt2") for name in ("last", "per-token")]


@pytest.mark.parametrize("family, name", CASES)
def test_it_decides_as_the_naive_version_does(family: str, name: str) -> None:
    texts, settings = sentences(), SETTINGS[name]
    expected, model = naive_search(family, texts, settings)
    threshold = pytest.approx(settings.threshold, abs=1e-3)
    assert all(similarity != threshold for *_, similarity in expected), "a tie says nothing: choose another threshold"
    found, decoder = search(family, texts, settings)
    assert [(one["layer"], one["count"], one["accepted"]) for one in found.trials] == [trial[:3] for trial in expected]
    assert [one["similarity"] for one in found.trials] == pytest.approx([trial[3] for trial in expected], abs=1e-4)
    # the plan's edits make the model that the naive search ended with
    for edit in sorted(found.edits, key=lambda edit: edit.start, reverse=True):
        merge(decoder, edit)
    with torch.no_grad():
        ours, theirs = (one(input_ids=tiny.ids()).logits for one in (decoder.model, model))
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_some_of_those_searches_merge_merged_layers() -> None:
    found, _ = search("llama", sentences(), MergeSearch(combine=3, threshold=-0.99, interval=1, rule="mean"))
    assert any(len(set(edit.weights)) > 1 for edit in found.edits)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_search_changes_no_weight_and_its_loss_is_the_applied_models(family: str) -> None:
    texts = sentences()
    decoder = make(family)
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    found = merge_search(decoder, texts, MergeSearch(combine=3, rule="mean"), 4, Reporter(quiet=True))
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
    for edit in sorted(found.edits, key=lambda edit: edit.start, reverse=True):
        merge(decoder, edit)
    total, count = 0.0, 0
    with torch.no_grad():
        for row, mask in zip(texts.ids, texts.mask, strict=True):
            ids = row[mask][None]
            logits = decoder.model(input_ids=ids).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.numel() - 1
    assert found.loss == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("remove", [1, 2, 3, 4])
def test_remove_takes_exactly_so_many_and_the_most_similar_first(remove: int) -> None:
    found, _ = search("llama", sentences(), MergeSearch(combine=3, rule="mean"), remove)
    assert sum(edit.stop - edit.start - 1 for edit in found.edits) == remove
    rounds: list[list[dict[str, Any]]] = [[]]
    for trial in found.trials:
        if rounds[-1] and trial["layer"] <= rounds[-1][-1]["layer"]:
            rounds.append([])
        rounds[-1].append(trial)
    for one in rounds:
        best = max(one, key=lambda trial: trial["similarity"])
        assert [trial["accepted"] for trial in one] == [trial is best for trial in one]
    assert found.threshold is not None
    assert found.threshold < min(trial["similarity"] for trial in found.accepted) < found.threshold + 1e-9
    assert all(edit.start >= 1 for edit in found.edits)


def test_layers_of_two_kinds_are_merged_each_among_their_own() -> None:
    """The first three layers see all tokens, the last three a window: no merge spans the border, and all fits after."""
    decoder = Decoder(tiny.model("qwen2"))
    found = merge_search(decoder, sentences(), MergeSearch(combine=3, low=0, rule="mean"), 4, Reporter(quiet=True))
    assert [(edit.start, edit.stop) for edit in found.edits] == [(0, 3), (3, 6)]
    assert {"start": 1, "stop": 4} in found.skipped
    for edit in reversed(found.edits):
        merge(decoder, edit)
    assert decoder.config.layer_types == ["full_attention", "sliding_attention"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_finishing_the_last_state_gives_what_the_head_reads(family: str) -> None:
    model, ids = tiny.model(family), tiny.ids()
    decoder = Decoder(model)
    *_, (_, last) = decoder.states(ids)
    assert torch.equal(
        decoder.final_norm(last, ids), model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    )


def test_padding_is_not_looked_at() -> None:
    texts = sentences()
    ids = torch.where(texts.mask, texts.ids, 7)
    pad = torch.nn.functional.pad
    other = Sentences(pad(ids, (0, 5), value=9), pad(texts.mask, (0, 5)), "", 0, 64)
    assert other.sha256() == texts.sha256()
    ours, theirs = (search("opt", one, MergeSearch(combine=3, threshold=0.3))[0].trials for one in (texts, other))
    assert [one["similarity"] for one in ours] == pytest.approx([one["similarity"] for one in theirs], abs=1e-6)


def test_representations_by_hand() -> None:
    """Two tokens at right angles, one of norm 3: flattened 9/10 of the square agrees; per token one of two."""
    reference = torch.tensor([[[3.0, 0.0], [1.0, 0.0], [5.0, 5.0]]])
    ours = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [-5.0, 5.0]]])
    mask = torch.tensor([[True, True, False]])
    assert flattened_cosine(ours, reference, mask) == pytest.approx(9 / 10)
    assert per_token_cosine(ours, reference, mask) == pytest.approx(1 / 2)


def test_layers_of_several_kinds_are_skipped_with_a_note(tmp_path: Path, main: Any) -> None:
    folder = tiny.save(tmp_path / "gemma2", "gemma2")
    text = tmp_path / "text.txt"
    text.write_text(tiny.text(400), encoding="utf-8")
    status, _, err = main("plan", folder, "--preset", "laco", "--combine", 3, "--text", text, "--out", tmp_path / "p")
    assert status == 0 and "several kinds: not tried" in err and "none tried" in err
    status, _, err = main("plan", folder, "--preset", "laco", "--remove", 2, "--text", text, "--out", tmp_path / "q")
    assert status == 2 and "one kind" in err.strip().splitlines()[-1]


@pytest.mark.parametrize("preset", ["laco", "laco-last", "laco-mean"])
def test_run_writes_a_model_that_loads_plainly(preset: str, tmp_path: Path, tiny_folder: Path, main: Any) -> None:
    from transformers import AutoModelForCausalLM

    text = tmp_path / "ten.txt"
    text.write_text("\n".join(tiny.text(9, seed) for seed in range(10)), encoding="utf-8")
    out = tmp_path / "out"
    status, printed, err = main("run", tiny_folder, "--preset", preset, "--remove", 3, "--text", text, "--out", out,
                                "--json")  # fmt: skip
    assert status == 0, err
    results = json.loads(printed)
    assert results["layers"] == 3 and results["dense"]["layers"] == 6
    assert set(results["perplexity"]) == {"calibration sentences"}
    assert AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 3
    plan = read_plan(out / "lowrise" / "plan.json")
    assert plan.calibration.samples == 10
    assert plan.scores["threshold"] < min(t["similarity"] for t in plan.scores["trials"] if t["accepted"])
    # the plan alone makes the same model
    status, _, err = main("apply", tiny_folder, out / "lowrise" / "plan.json", "--out", tmp_path / "again")
    assert status == 0, err
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "again" / "model.safetensors").read_bytes()


def test_the_model_writes_its_own_sentences(tmp_path: Path, tiny_folder: Path, main: Any) -> None:
    status, _, err = main("plan", tiny_folder, "--preset", "laco", "--remove", 1, "--out", tmp_path / "plan.json")
    assert status == 0, err
    assert read_plan(tmp_path / "plan.json").calibration.source == "written by the model"


def test_nothing_accepted_is_said_and_strict_ends_in_two(tmp_path: Path, tiny_folder: Path, main: Any) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny.text(40), encoding="utf-8")
    asked = ["plan", tiny_folder, "--preset", "laco", "--threshold", 1, "--text", text, "--out", tmp_path / "plan.json"]
    status, _, err = main(*asked, "--strict")
    assert status == 2 and "no merge above the threshold 1" in err and not (tmp_path / "plan.json").exists()
    status, _, err = main(*asked)
    plan = read_plan(tmp_path / "plan.json")
    assert status == 0 and "warning: nothing is merged" in err
    assert plan.edits == [] and plan.layers_after == 6 and plan.scores["verdict"] == "nothing"
    status, _, err = main("apply", tiny_folder, tmp_path / "plan.json", "--out", tmp_path / "out")
    assert status == 0, err
    assert "nothing was changed" in (tmp_path / "out" / "README.md").read_text()


def test_a_collapsed_output_is_said_with_its_number() -> None:
    def verdict(loss: float) -> Search:
        edit = Merge(start=0, stop=2)
        return Search(0.5, [{"similarity": 0.7, "accepted": True}], [], [edit], dense_loss=3.0, loss=loss)

    assert verdict(3.1).verdict == "merged" and verdict(9.0).verdict == "collapsed"
    progress = Reporter(quiet=True)
    verdict(9.0).tell(progress, strict=False, repaired=False)
    assert "collapsed" in progress.warnings[0] and "×403.43" in progress.warnings[0]  # e⁶


BAD = {
    "C below 2": ["--combine", 1],
    "C above L": ["--combine", 7],
    "C above the range": ["--combine", 4, "--low", 1, "--high", 4],
    "low at high": ["--low", 3, "--high", 3],
    "low above L": ["--low", 6],
    "high above L": ["--high", 7],
    "T at -1": ["--threshold", -1],
    "T above 1": ["--threshold", 1.01],
    "T not a number": ["--threshold", "nan"],
    "I below 1": ["--interval", 0],
    "two goals": ["--threshold", 0.5, "--remove", 2],
    "too many": ["--remove", 5],
    "a representation of no name": ["--representation", "first"],
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD.keys())
def test_bad_settings_end_in_one_line(options: list[Any], tmp_path: Path, tiny_folder: Path, main: Any) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny.text(40), encoding="utf-8")
    status, _, err = main("plan", tiny_folder, "--preset", "laco", "--text", text, *options, "--out", tmp_path / "p")
    assert status == 2 and len(err.strip().splitlines()) == 1 and err.startswith("lowrise: ")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("content", ["", "\n \n", "x\ny\n"])
def test_no_usable_sentence(content: str, tmp_path: Path, tiny_folder: Path, main: Any) -> None:
    text = tmp_path / "text.txt"
    text.write_text(content, encoding="utf-8")
    status, _, err = main("plan", tiny_folder, "--preset", "laco", "--text", text, "--out", tmp_path / "p")
    assert status == 2 and len(err.strip().splitlines()) == 1


def test_search_options_belong_to_presets_that_search(tmp_path: Path, tiny_folder: Path, main: Any) -> None:
    status, _, err = main("plan", tiny_folder, "--preset", "streamline", "--combine", 3, "--out", tmp_path / "p")
    assert status == 2 and "streamline" in err
    recipe = build_recipe({"preset": "laco-mean"})
    assert recipe.remove is None and recipe.merge_search.rule == "mean" and recipe.loads_plainly
