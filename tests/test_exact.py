"""float64 on devices that have none. There is no such device here: a watch over every operation stands in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lowrise
import tiny
from lowrise.edit.student import Student
from lowrise.exact import exact, exact_sum
from lowrise.measure.perplexity import perplexity
from lowrise.model.decoder import Decoder
from lowrise.observe.representation import flattened_cosine, per_token_cosine
from lowrise.observe.stream import observe
from lowrise.progress import Reporter
from lowrise.select.refit_search import choose_by_refit, choose_span_by_refit
from lowrise.select.taylor import choose_by_taylor
from repairs import repair
from tiny import windows

QUIET = Reporter(quiet=True)
SOURCE = Path(lowrise.__file__).parent
MAY = {"exact.py", "gram.py"}  # what is made there is made on the CPU


class OnMps:
    """Of a tensor, what may be asked where it lies on a device without float64."""

    device = SimpleNamespace(type="mps")

    def __init__(self, value: torch.Tensor) -> None:
        self._value = value

    def to(self, device: torch.device) -> torch.Tensor:
        assert device.type == "cpu"
        return self._value


@pytest.mark.parametrize("place", [OnMps, lambda value: value], ids=["mps", "cpu"])
def test_float64_is_made_where_there_is_some(place: Any) -> None:
    value = torch.tensor([2.0**24, 1.0, 1.0])  # a float32 sum of which is 2²⁴
    assert torch.equal(exact(place(value)), value.double())
    assert exact_sum(place(value)).item() == 2**24 + 2


class Watch(TorchDispatchMode):
    """No operation that takes float32 has to do with float64, but where the code asks for the device first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        taken, seen = (
            {one.dtype for one in tree_leaves(part) if isinstance(one, torch.Tensor)}
            for part in ((args, kwargs), (args, kwargs, made))
        )
        if torch.float32 in taken and torch.float64 in seen and _place() not in MAY:
            raise AssertionError(f"{func} mixes float32 and float64 in {_place()}")
        return made


def _place() -> str:
    """The file of lowrise that the operation at hand belongs to."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and SOURCE not in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    return "" if frame is None else Path(frame.f_code.co_filename).name


def _representations(_decoder: Decoder) -> None:
    h, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    flattened_cosine(h, h + 1, mask), per_token_cosine(h, h + 1, mask)


def _finalists(decoder: Decoder) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lowrise.select.refit_search._one_gap", lambda *_search: SimpleNamespace(layers=[1, 4], divergence=0.0)
        )
        assert choose_by_refit(decoder, windows(), windows(4), 2, 1, QUIET).scores["finalists"]


@pytest.mark.parametrize(
    "use",
    [
        lambda decoder: observe(decoder, windows(), QUIET),
        lambda decoder: perplexity(decoder, windows(), QUIET),
        lambda _decoder: choose_by_taylor(Decoder(tiny.model("llama", num_hidden_layers=8)), windows(4), 1, QUIET),
        lambda decoder: choose_by_refit(decoder, windows(), windows(4), 2, 1, QUIET),
        lambda decoder: choose_span_by_refit(decoder, windows(), windows(4), 2, 1, QUIET),
        lambda decoder: repair(Student(decoder, [0, 1, 2, 4, 5]), windows(64), 4, "refit", QUIET),
        lambda decoder: repair(Student(decoder, [0, 1, 2, 4, 5]), windows(), 4, "fold", QUIET),
        lambda decoder: repair(Student(decoder, [0, 1, 2, 4, 5]), windows(), 4, "fold-cosine", QUIET),
        _representations,
        _finalists,
    ],
    ids=["observe", "perplexity", "taylor", "search", "span", "refit", "fold", "fold-cosine", "laco", "finalists"],
)
def test_float64_is_made_by_nothing_else(use: Any) -> None:
    decoder = Decoder(tiny.model("llama"))
    with torch.no_grad():
        decoder.layers[3].get_parameter("mlp.down_proj.weight").mul_(4)  # so that its neurons are transplanted
    with Watch():
        use(decoder)


def test_the_watch_sees_float64_where_it_is_made_carelessly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.measure.perplexity.exact_sum", lambda value: value.sum(dtype=torch.float64))
    with Watch(), pytest.raises(AssertionError, match=r"perplexity\.py"):
        perplexity(Decoder(tiny.model("llama")), windows(1), QUIET)
