"""Layers on disk: the same numbers, the same bytes of every preset, no more memory than was allowed, nothing left."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lowrise
import made_gguf
import mixtures
import tiny
from lowrise.model.cached import uncached_logits
from lowrise.model.decoder import Decoder
from lowrise.model.shards import save_model
from lowrise.model.source import OpenModel, open_model
from lowrise.model.weights import state_sha256
from lowrise.observe import passes
from lowrise.observe.passes import logits_of_batches, states_of_batches, through
from lowrise.recipe import presets
from lowrise.store import Memory, OnDisk, on_disk
from lowrise.store.choosing import least_bound
from lowrise.store.scratch import Scratch
from refusals import PLAIN, assert_one_line

Main = Callable[..., tuple[int, str, str]]
ROOMY = "64GB"  # a bound that is never reached: layers lie on disk all the same


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if memory were full whenever one looks: all pages are given back before every layer."""
    monkeypatch.setattr(on_disk, "reserve_of", lambda bound: bound)


def on_disk_of(source: object) -> OpenModel:
    return open_model(str(source), device="cpu", memory=Memory(ROOMY))


# -- the file ---------------------------------------------------------------------------------------------------------


def test_tensors_begin_at_pages_and_keep_what_is_changed_in_place(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, expected=1000)
    values = [torch.randn(3, 5), torch.randn(2000).bfloat16(), torch.arange(4), torch.tensor(2.5)]  # more than expected
    kept = [scratch.put(value) for value in values]
    assert all(one.data_ptr() % mmap.PAGESIZE == 0 for one in kept)
    kept[0].add_(1)
    for one in kept:
        stretch = scratch.stretch(one)
        assert stretch is not None
        stretch.give_back()
    assert torch.equal(kept[0], values[0] + 1)
    assert all(torch.equal(one, value) for one, value in zip(kept[1:], values[1:], strict=True))
    assert list(tmp_path.iterdir()) == []  # it has no name


def test_a_tensor_in_another_format_takes_its_place(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, expected=1 << 20)
    value = torch.randn(64, 64)
    kept = scratch.put(value)
    size = scratch.size
    assert torch.equal(scratch.replace(kept, kept.bfloat16()), value.bfloat16())
    assert scratch.size == size


# -- a model ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("crowded")
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])  # tied embeddings are among them
def test_a_model_on_disk_is_the_same(tmp_path: Path, family: str) -> None:
    folder = tiny.save(tmp_path / "model", family)
    ours, theirs = on_disk_of(folder).decoder, open_model(str(folder), device="cpu").decoder
    assert isinstance(ours.store, OnDisk)
    assert all(parameter.data_ptr() % mmap.PAGESIZE == 0 for parameter in ours.model.parameters())
    assert torch.equal(uncached_logits(ours.model, tiny.ids()), uncached_logits(theirs.model, tiny.ids()))
    assert state_sha256(ours.model, ours.store) == state_sha256(theirs.model, theirs.store)
    assert ours.parameters() == theirs.parameters()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2", "qwen3moe"])
def test_a_gguf_file_is_read_layer_by_layer(tmp_path: Path, kind: str) -> None:
    file = made_gguf.save_gguf(tmp_path / "model.gguf", kind, "Q8_0" if kind != "gpt2" else "F32")
    ours, theirs = on_disk_of(file), open_model(str(file), device="cpu")
    assert state_sha256(ours.model, ours.decoder.store) == state_sha256(theirs.model, theirs.decoder.store)
    assert ours.model.config.to_dict() == theirs.model.config.to_dict()
    assert ours.model.generation_config.to_dict() == theirs.model.generation_config.to_dict()
    assert all(parameter.data_ptr() % mmap.PAGESIZE == 0 for parameter in ours.model.parameters())


# -- passes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Decoder]:
    """On disk, and in memory."""
    folder = tiny.save(tmp_path_factory.mktemp("models") / "model")
    return on_disk_of(folder).decoder, open_model(str(folder), device="cpu").decoder


@torch.no_grad()
def test_states_come_as_batch_by_batch(both: tuple[Decoder, Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnDisk, "size", 1 << 30)  # room for all states beside the layers
    batches = [*tiny.windows().batches(128)]
    assert len(batches) == 4
    calls: list[int] = []
    for number, layer in enumerate(both[0].layers):
        layer.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    for ids, (_, states), expected in zip(batches, states_of_batches(both[0], batches), batches, strict=True):
        assert torch.equal(ids, expected)
        found = [(layer, h.clone()) for layer, h in states]
        wanted = [*both[1].states(ids)]
        assert [layer for layer, _ in found] == [layer for layer, _ in wanted]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, wanted, strict=True))
    assert calls == [layer for layer in range(tiny.LAYERS) for _ in batches]  # each layer once, for all batches


@torch.no_grad()
def test_as_many_states_lie_on_disk_as_layers(both: tuple[Decoder, Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [*tiny.windows().batches(64)]  # 8 of 64 tokens: (7 + 1) states of 8 KiB each
    monkeypatch.setattr(OnDisk, "size", 3 * 8 * 64 * 32 * 4)
    assert [len(group) for group in passes._groups(both[0], batches, tiny.LAYERS + 1)] == [3, 3, 2]
    monkeypatch.setattr(OnDisk, "size", 1)
    assert [len(group) for group in passes._groups(both[0], batches, tiny.LAYERS + 1)] == [1] * 8


@torch.no_grad()
def test_a_pass_tells_what_enters_each_layer(both: tuple[Decoder, Decoder]) -> None:
    batches, layers = [*tiny.windows().batches(128)], [1, 2, 4]
    told: list[dict[tuple[int, int], torch.Tensor]] = [{}, {}]
    ends = []
    for decoder, seen in zip(both, told, strict=True):

        def note(number: int, layer: int, h: torch.Tensor, seen: dict[Any, torch.Tensor] = seen) -> None:
            seen[number, layer] = h.clone()

        begin = [
            torch.randn(len(ids), 32, 32, generator=torch.Generator().manual_seed(n)) for n, ids in enumerate(batches)
        ]
        ends.append([h for _, _, h in through(decoder, batches, layers, decoder.step, begin.__getitem__, note, 5)])
    assert told[0].keys() == told[1].keys() == {(n, layer) for n in range(4) for layer in (1, 2, 4, 5)}
    assert all(torch.equal(told[0][key], told[1][key]) for key in told[0])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@torch.no_grad()
def test_logits_are_the_models_own(both: tuple[Decoder, Decoder]) -> None:
    batches = [*tiny.windows().batches(128)]
    for (_, ours), (_, theirs) in zip(*(logits_of_batches(decoder, batches) for decoder in both), strict=True):
        assert torch.equal(ours, theirs)


# -- written ----------------------------------------------------------------------------------------------------------


def _experts(folder: Path) -> Path:
    """Whose layers are kept otherwise than files have them."""
    mixtures.model("qwen3_moe").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


MADE: dict[str, Callable[[Path], Path]] = {
    "bfloat16": lambda folder: tiny.save(folder, "llama", torch.bfloat16),
    "tied": lambda folder: tiny.save(folder, "gpt2"),
    "experts": _experts,
}


@pytest.mark.parametrize("largest", ["50GB", "100KB"])
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_weights_are_written_as_save_pretrained_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], largest: str
) -> None:
    folder = make(tmp_path / "model")
    decoder = on_disk_of(folder).decoder
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    monkeypatch.setattr("lowrise.model.shards._LARGEST_SHARD", largest)
    save_model(decoder, ours, original=True)
    decoder.model.save_pretrained(theirs, max_shard_size=largest)
    expected = {file.name: file.read_bytes() for file in theirs.iterdir()}
    assert {file.name: file.read_bytes() for file in ours.iterdir()} == expected
    assert len(expected) > 4 or largest == "50GB"


def test_the_format_is_the_librarys(tmp_path: Path) -> None:
    from lowrise.model.shards import _header, _in_order

    formats = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    tensors = {f"{name}.é": torch.ones(2, 3).to(kind) for kind in formats for name in ("b", "a")}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    header = _header({name: tensors[name] for name in _in_order(tensors)})
    assert (tmp_path / "a.safetensors").read_bytes()[8 : 8 + len(header)] == header


# -- the command line -------------------------------------------------------------------------------------------------

MOST_USED = ("refit", "streamline-none", "laco-mean", "replaceme", "streamline")
QUIET = ["--device", "cpu", "--quiet"]
HOW = ["--samples", 10, "--length", 32, "--device", "cpu", "--quiet", "--json"]


def _made(main: Main, model: Path, text: Path, out: Path, preset: str, *options: object) -> dict[str, bytes]:
    sizes = ["--layers", "2,3"] if preset == "given" else ["--remove", 2]
    sizes += ["--heal", "2K"] if "heal" in presets()[preset].settings else []
    status, _, errors = main("run", model, "--preset", preset, *sizes, "--text", text, "--out", out, *HOW, *options)
    assert status == 0, errors
    plan = json.loads((out / "lowrise" / "plan.json").read_text())
    del plan["model"]["source"]
    weights = {file.name: file.read_bytes() for file in out.glob("model*")}
    return {"plan": json.dumps(plan).encode(), "config": (out / "config.json").read_bytes(), **weights}


@pytest.fixture(scope="session")
def nine_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "nine", num_hidden_layers=9)


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name in MOST_USED else pytest.mark.slow) for name in presets()]
)
def test_every_preset_makes_the_same_bytes(
    main: Main,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    nine_layers: Path,
    text_file: Path,
    preset: str,
) -> None:
    monkeypatch.setattr(Decoder, "batch_tokens", 64)  # several batches, so that passes go layer by layer
    resident = _made(main, nine_layers, text_file, tmp_path / "resident", preset)
    monkeypatch.setattr(on_disk, "reserve_of", lambda bound: bound)
    monkeypatch.setenv("LOWRISE_CACHE", str(tmp_path / "cache"))  # nothing is known of the other run
    streamed = _made(main, nine_layers, text_file, tmp_path / "streamed", preset, "--memory", ROOMY)
    assert streamed.keys() == resident.keys()
    assert [name for name in resident if streamed[name] != resident[name]] == []
    ours, theirs = (
        json.loads((tmp_path / name / "lowrise/results.json").read_text()) for name in ("streamed", "resident")
    )
    assert ours["perplexity"] == theirs["perplexity"]


@pytest.mark.usefixtures("crowded")
def test_observe_and_measure_find_the_same(main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path) -> None:
    data = ["--text", text_file, "--length", 32, "--device", "cpu", "--quiet"]
    found: list[list[dict[str, Any]]] = [[], []]
    for seen, memory in zip(found, ([], ["--memory", ROOMY]), strict=True):
        for command, file in (("observe", "observation.json"), ("measure", "results.json")):
            out = tmp_path / f"{command}{len(memory)}"
            place = [out, "--samples", 40] if command == "observe" else [out / file, "--windows", 40]
            if command == "measure":
                out.mkdir()
            status, _, errors = main(command, tiny_folder, *data, *memory, "--out", *place)
            assert status == 0, errors
            content = json.loads((out / file).read_text())
            seen.append({key: value for key, value in content.items() if key not in ("seconds", "memory")})
    assert found[0] == found[1]


@pytest.mark.usefixtures("crowded")
def test_from_python(here: Path) -> None:
    made = []
    for name, memory in (("resident", None), ("streamed", ROOMY)):
        model = lowrise.open("org/name", device="cpu", memory=memory)
        assert model.opened.decoder.store.layer_by_layer == (memory is not None)
        plan = lowrise.plan(model, preset="block-influence", remove=2, text=["a.txt"], samples=8, length=16)
        folder = lowrise.apply(model, plan).save(here / name)
        assert model.opened.decoder.store.layer_by_layer == (memory is not None)
        made.append((folder / "model.safetensors").read_bytes())
    assert made[0] == made[1]


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_bound_that_is_too_small_says_the_least_that_would_do(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    out, room = tmp_path / "out", ["--memory", ROOMY]
    status, _, errors = main(
        "plan", tiny_folder, "--out", tmp_path / "first.json", *PLAIN, *room
    )  # takes what it takes
    assert status == 0, errors
    line = assert_one_line(
        *main("run", tiny_folder, "--out", out, *PLAIN, "--memory", "10MB"), ("--memory 10MB", "at least")
    )
    least = line.rpartition("say --memory ")[2].strip()
    assert not out.exists()
    status, _, errors = main("plan", tiny_folder, "--out", tmp_path / "plan.json", *PLAIN, "--memory", least)
    assert status == 0, errors


def test_what_a_repair_takes_is_asked_for_before(
    main: Main, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("lowrise.edit.working_set.refit", lambda _decoder: 1 << 40)
    ran = main("plan", tiny_folder, *PLAIN, "--repair", "refit", "--out", tmp_path / "plan.json", "--memory", ROOMY)
    assert_one_line(*ran, ("--memory 64GB", "for refit on this model", "say --memory 1"))


def test_a_disk_that_is_too_small_is_said_before_anything_is_read(
    main: Main, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("lowrise.store.choosing.shutil.disk_usage", lambda _: usage(10, 9, 1000))
    ran = main("run", tiny_folder, "--out", tmp_path / "out", *PLAIN, "--memory", ROOMY)
    assert_one_line(*ran, (tmp_path, "room for the layers", "1MB free"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_memory_is_no_place_for_layers(
    main: Main, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("lowrise.store.choosing.lies_in_memory", lambda _: True)
    ran = main("run", tiny_folder, "--out", tmp_path / "out", *PLAIN, "--memory", ROOMY)
    assert_one_line(*ran, (tmp_path, "lies in memory"))


def test_a_size_that_is_none_is_refused(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    ran = main("run", tiny_folder, "--out", tmp_path / "out", *PLAIN, "--memory", "plenty")
    assert_one_line(*ran, ("memory", "auto, or a size such as 2GB"))


def test_auto_stays_in_memory_where_there_is_room(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not open_model(str(tiny_folder), device="cpu", memory=Memory("auto")).decoder.store.layer_by_layer
    least = least_bound({"model.layers.0.weight": 1000})
    monkeypatch.setattr("lowrise.store.choosing.free_memory", lambda: least)
    monkeypatch.setattr("lowrise.store.choosing._OVERHEAD", 1e6)  # as if the model took a million times its size
    assert open_model(str(tiny_folder), device="cpu", memory=Memory("auto")).decoder.store.layer_by_layer


# -- memory and disk, in processes of their own -----------------------------------------------------------------------


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Any:
    """The installed command, whose fixture has the package's name."""
    return request.getfixturevalue("lowrise")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 MB of layers."""
    sizes = {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 24, "num_key_value_heads": 4}
    return tiny.save(tmp_path_factory.mktemp("models") / "large", **sizes)


@pytest.mark.slow
def test_no_more_memory_is_taken_than_the_bound(run: Any, large: Path, text_file: Path, tmp_path: Path) -> None:
    weights = large / "model.safetensors"
    data = ["--text", text_file, "--samples", 4, "--length", 64, "--eval-text", text_file, "--windows", 2, *QUIET]
    peaks = {}
    for name, memory in {"resident": [], "streamed": ["--memory", "900MB"]}.items():
        out = tmp_path / name
        ran = run("run", large, "--preset", "block-influence", "--remove", 4, *data, *memory, "--out", out)
        assert ran.returncode == 0, ran.stderr
        peaks[name] = json.loads((out / "lowrise" / "results.json").read_text())["memory"]["peak_resident_bytes"]
    assert weights.stat().st_size > 550_000_000
    assert peaks["streamed"] < 900_000_000 < peaks["resident"]
    made = [(tmp_path / name / "model.safetensors").read_bytes() for name in peaks]
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_killed_run_leaves_no_layers_behind(large: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [Path(sys.executable).with_name("lowrise"), "run", large, "--preset", "block-influence", "--remove", 4]
    command += ["--text", text_file, "--samples", 64, "--length", 64, "--memory", "2GB", "--out", out, *QUIET]
    with subprocess.Popen([*map(str, command)]) as child:
        while not any(size > 250_000_000 for size in _nameless(child.pid)):
            assert child.poll() is None
            time.sleep(0.1)
        child.kill()
    assert {path.suffix for path in tmp_path.iterdir()} <= {".work", ".lock"}


def _nameless(pid: int) -> list[int]:
    """Bytes on disk of the files without a name that a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            about = link.stat()
            found += [] if about.st_nlink else [about.st_blocks * 512]
    return found
