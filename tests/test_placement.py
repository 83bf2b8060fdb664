"""Models whose layers lie on several devices. There is one device here: hooks of accelerate are forced onto it, free
memory is pretended, and fake tensors, which have a device and a shape but no numbers, say where devices are mixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import AlignDevicesHook
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lowrise
import tiny
from lowrise.edit.merge import Mix, MixedParameters
from lowrise.edit.student import Student
from lowrise.errors import InputError, ModelError
from lowrise.model import placement
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.decoder import Decoder
from lowrise.model.networks import linear_network
from lowrise.model.passing import LayerArguments, LentStates, moved
from lowrise.model.placement import enough, how_to_load, pick_devices, settle
from lowrise.model.source import open_model

GPUS = [torch.device("cuda", number) for number in range(4)]
HALF = tiny.LAYERS // 2
pytestmark = pytest.mark.filterwarnings("ignore::lowrise.api.progress.LowriseWarning")


# -- which devices --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "count"), [(0, 1), (70, 1), (71, 2), (210, 3), (1000, 4)])
def test_as_many_are_taken_as_hold_the_weights(monkeypatch: pytest.MonkeyPatch, weights: int, count: int) -> None:
    """0.7 of each, all of 100 bytes: the rest is for batches and sums."""
    monkeypatch.setattr(placement, "free_memory", lambda _device: 100)
    assert enough(GPUS, weights) == GPUS[:count]


def test_where_free_memory_is_not_known_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda _device: None)
    assert enough(GPUS, 1000) == GPUS[:1]


def test_auto_without_an_accelerator_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert pick_devices("auto", 10**15) == [torch.device("cpu")]


def test_auto_takes_more_of_a_kind_if_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(placement, "free_memory", lambda _device: 100)
    assert pick_devices("auto", 70) == [torch.device("cuda")]
    assert pick_devices("auto", 140) == GPUS[:2]


def test_several_are_named_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_device", torch.device)
    assert pick_devices("cuda:0, cuda:1,cuda:0") == GPUS[:2]
    for mixed in ("cuda:0,cpu", "cpu,cpu:1", "cuda:0,xpu:1"):
        with pytest.raises(InputError, match="--device: expected one device, or several accelerators of one kind"):
            pick_devices(mixed)


def test_layers_are_spread_over_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda device: 100 * (device.index + 1))
    assert how_to_load(GPUS[:2]) == {"device_map": "balanced", "max_memory": {0: 70, 1: 140}}
    assert how_to_load([torch.device("cpu")]) == {}
    assert how_to_load(GPUS[:1]) == {"device_map": {"": GPUS[0]}}
    assert how_to_load(GPUS[:1], gguf=True) == {}


def test_what_does_not_fit_is_refused() -> None:
    left = nn.Module()
    left.hf_device_map = {"model.layers.0": 0, "model.layers.1": "disk"}
    with pytest.raises(ModelError, match=r"--device cuda:0, cuda:1: expected room for big, found layers left on disk"):
        settle(left, GPUS[:2], "big")


def test_a_checkpoint_is_read_to_its_device_at_once(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As onto an accelerator, by transformers' device map: the same weights."""
    expected = open_model(str(tiny_folder), device="cpu").model.state_dict()
    monkeypatch.setattr("lowrise.model.source.how_to_load", lambda devices, **_: {"device_map": {"": devices[0]}})
    opened = open_model(str(tiny_folder), device="cpu")
    assert not hasattr(opened.model, "_hf_hook")
    for name, value in opened.model.state_dict().items():
        assert torch.equal(value, expected[name])


# -- forced hooks ---------------------------------------------------------------------------------------------------


def hooked(model: Any) -> Any:
    """As accelerate leaves a model that is spread: a hook before every layer."""
    places = {name: "cpu" for name, module in model.named_modules() if name and not any(module.children())}
    places = {name: "cpu" for name in places if ".layers." not in name}
    places |= {f"model.layers.{index}": "cpu" for index in range(len(model.model.layers))}
    dispatch_model(model, device_map=places, main_device="cpu", force_hooks=True)
    del model.hf_device_map  # transformers takes "cpu" for offloaded there
    assert isinstance(model.model.layers[0]._hf_hook, AlignDevicesHook)
    return model


HOW: dict[str, dict[str, Any]] = {
    "block-influence": {"remove": 2, "repair": "refit"},
    "taylor": {"remove": 1, "repair": "fold"},
    "laco-mean": {"remove": 2, "merge_search": {"combine": 2}, "text": ["a.txt"]},
    "streamline": {"remove": 1},
    "ghosted": {"remove": 2},
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("preset", HOW)
def test_a_spread_model_is_planned_for_applied_and_measured_as_a_whole_one(preset: str) -> None:
    found = []
    for spread in (False, True):
        live = tiny.model(num_hidden_layers=8, max_position_embeddings=32)
        model = lowrise.wrap(hooked(live) if spread else live, tiny.tokenizer())
        windows = None if preset == "laco-mean" else lowrise.tokens(tiny.ids(16, 16))  # it makes sentences
        plan = lowrise.plan(model, windows, preset=preset, **HOW[preset])
        small = lowrise.apply(model, plan, windows)
        out = small.save(f"saved-{spread}")
        measured = lowrise.measure(small, text=["b.txt"])
        found.append((plan.edits, Path(out, "model.safetensors").read_bytes(), measured.perplexity["b.txt"].value))
        assert [hasattr(layer, "_hf_hook") for layer in live.model.layers] == [spread] * len(live.model.layers)
    assert found[0] == found[1]


def test_a_network_on_the_stream_of_a_spread_model_goes_with_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(hooked(tiny.model()))
    monkeypatch.setattr(decoder, "devices", [torch.device("cpu"), torch.device("cpu:1")])
    network = linear_network(2 * torch.eye(32))
    expected = decoder.layers[3](torch.ones(1, 2, 32), position_embeddings=_rotary(decoder))
    decoder.attach(network, 3)
    assert isinstance(network._hf_hook, AlignDevicesHook)
    doubled = decoder.layers[3](0.5 * torch.ones(1, 2, 32), position_embeddings=_rotary(decoder))
    torch.testing.assert_close(doubled, expected)


def _rotary(decoder: Decoder) -> Any:
    return decoder.model.model.rotary_emb(torch.ones(1, 2, 32), torch.arange(2).unsqueeze(0))


# -- fake devices ---------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A layer of few operations: others cannot be faked by a torch without CUDA."""

    def __init__(self, mode: FakeTensorMode, device: torch.device) -> None:
        super().__init__()
        with mode:
            self.weight = nn.Parameter(torch.empty(32, 32, device=device), requires_grad=False)

    def forward(self, hidden_states: Tensor, shift: Tensor) -> Tensor:
        return nn.functional.linear(hidden_states, self.weight) + shift


def test_states_go_from_device_to_device_and_layers_are_mixed_across_them() -> None:
    decoder, mode = Decoder(tiny.model()), FakeTensorMode()
    decoder.model.model.layers = nn.ModuleList(Plain(mode, GPUS[layer >= HALF]) for layer in range(tiny.LAYERS))
    decoder.devices = placement.devices_of(decoder.layers)
    assert decoder.devices == GPUS[:2]
    with mode, torch.no_grad():
        h = torch.empty(2, 8, 32, device=GPUS[0])
        calls = [LayerArguments((), {"shift": torch.empty(2, 8, 32, device=GPUS[0])})] * tiny.LAYERS
        for layer in range(tiny.LAYERS):
            assert decoder.device_of(layer) == GPUS[layer >= HALF]
            h = decoder.step(layer, h, calls)
            assert h.device == GPUS[layer >= HALF]
        mixed = dict(MixedParameters(decoder.layers, Mix(HALF - 1, (0.5, 0.5)), "merge"))
        assert {value.device for value in mixed.values()} == {GPUS[0]}
        student = Student(decoder, [0, HALF - 1, tiny.LAYERS - 1], {HALF - 1: mixed})
        assert student.run(torch.empty(2, 8, 32, device=GPUS[0]), calls).device == GPUS[1]


def test_what_a_layer_is_called_with_goes_where_it_lies() -> None:
    there = torch.device("meta")
    lent = LentStates()
    lent["keys"] = torch.ones(2)
    call = LayerArguments(
        (torch.ones(2), None), {"pair": (torch.ones(1), [torch.ones(1)]), "lent": lent, "word": "full"}
    )
    found = moved(call, there)

    def devices(value: Any) -> list[str]:
        if isinstance(value, Tensor):
            return [value.device.type]
        items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else []
        return [one for item in items for one in devices(item)]

    assert devices(list(found.args)) == ["meta"]
    assert devices(found.kwargs) == ["meta", "meta"]
    assert found.kwargs["lent"] is lent
    assert lent["keys"].device == there
    assert found.kwargs["word"] == "full"


def test_saving_keeps_the_devices(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof reloads onto all of them."""
    opened = open_model(str(tiny_folder), device="cpu")
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    opened.decoder.devices = devices
    asked: list[Any] = []

    def load(found: Any) -> dict[str, Any]:
        asked.append(found)
        return {}

    monkeypatch.setattr("lowrise.model.checkpoint.how_to_load", load)
    monkeypatch.setattr("lowrise.model.checkpoint.settle", lambda model, *_: model)
    save_and_prove(opened, tmp_path, out=tmp_path, compute=torch.float32)
    assert asked == [devices]
