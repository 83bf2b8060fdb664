"""Models in bfloat16 are solved in float32 with float64 sums: against float64 throughout, from what the models make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import mixtures
import tiny
from lowrise.calibration import Windows
from lowrise.edit import gram
from lowrise.edit.gram import Gram, damped_factor, solve
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter
from repairs import repair

QUIET = Reporter(quiet=True)
KEPT = [0, 1, 4, 5]


class Reference:
    """The same sums as a Gram's, all in float64."""

    def __init__(self, k: int, d: int) -> None:
        self.inputs = torch.zeros(k, k, dtype=torch.float64)
        self.cross = torch.zeros(k, d, dtype=torch.float64)
        self.squares = 0.0

    def add(self, a: Tensor, e: Tensor, weight: Tensor | None) -> None:
        a, e = a.flatten(0, -2).double(), e.flatten(0, -2).double()
        w = torch.ones(len(a), 1, dtype=torch.float64) if weight is None else weight.flatten().double().unsqueeze(1)
        self.inputs += a.T @ (w * a)
        self.cross += a.T @ (w * e)
        self.squares += float((w * e * e).sum())


@contextmanager
def referred(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Gram, Reference]]]:
    """While it lasts, every Gram has a reference that is given the same."""
    made: list[tuple[Gram, Reference]] = []
    of: dict[int, Reference] = {}
    start, add = Gram.__init__, Gram.add

    def begun(self: Gram, k: int, d: int, device: torch.device) -> None:
        start(self, k, d, device)
        of[id(self)] = Reference(k, d)
        made.append((self, of[id(self)]))

    def added(self: Gram, a: Tensor, e: Tensor, weight: Tensor | None = None) -> None:
        add(self, a, e, weight)
        of[id(self)].add(a, e, weight)

    with monkeypatch.context() as patch:
        patch.setattr(Gram, "__init__", begun)
        patch.setattr(Gram, "add", added)
        yield made


@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_sums_are_those_of_float64(family: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of a batch are rounded to float32, 2⁻²⁴; bfloat16 would be off by 2⁻⁹."""
    if (family, how) == ("gemma3_text", "fold"):
        pytest.skip("a norm stands behind what its layers write")
    decoder = Decoder(tiny.model(family).to(torch.bfloat16))
    with referred(monkeypatch) as sums:
        repair(Student(decoder, KEPT), Windows(tiny.ids(64, 32), "test", 0), 16, how, QUIET)
    compared = [(one, other) for one, other in sums if one.tokens and other.inputs.numel()]
    assert len(compared) >= 2
    for ours, reference in compared:
        assert ours.inputs.dtype == ours.cross.dtype == torch.float64
        scale = float(reference.inputs.diagonal().max())
        assert float((ours.inputs - reference.inputs).abs().max()) <= 1e-6 * scale
        assert float((ours.cross - reference.cross).abs().max()) <= 1e-5 * (scale * reference.squares) ** 0.5
        assert ours.squares == pytest.approx(reference.squares, rel=1e-5)


@torch.no_grad()
def test_solutions_are_those_of_float64_and_weights_are_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[tuple[Gram, float, Tensor]] = []
    plain = gram._toward

    def noted(fit: Gram, held_out: Gram, factor: Tensor, ridge: float, folded: Tensor | None) -> Any:
        made = plain(fit, held_out, factor, ridge, folded)
        if folded is None:
            solved.append((fit, ridge, made[2]))
        return made

    monkeypatch.setattr(gram, "_toward", noted)
    decoder = Decoder(tiny.model().to(torch.bfloat16))
    repair(Student(decoder, KEPT), Windows(tiny.ids(64, 32), "test", 0), 16, "refit", QUIET)
    assert len(solved) > 10
    for fit, ridge, change in solved:
        damped = fit.inputs + ridge * fit.inputs.diagonal().mean() * torch.eye(len(fit.inputs), dtype=torch.float64)
        expected = torch.linalg.solve(damped, fit.cross)
        assert change.dtype == torch.float64
        assert float((change - expected).norm()) <= 1e-6 * float(expected.norm()) + 1e-12
    assert {parameter.dtype for parameter in decoder.model.parameters()} == {torch.bfloat16}


def test_a_matrix_is_rounded_once() -> None:
    """W + X in float32 and then bfloat16; the change that is told is the one that was made."""
    decoder = Decoder(tiny.model().to(torch.bfloat16))
    write = decoder.layer(0).mlp_write
    own = write.matrix(decoder.layer(0).parameter(write.parameter)).float()
    change = 1e-3 * torch.randn(own.shape, dtype=torch.float64)
    weight, made = write.moved(own, change, torch.bfloat16)
    assert torch.equal(write.matrix(weight), (own + change.float()).to(torch.bfloat16))
    assert torch.equal(made, write.matrix(weight).float() - own)


@torch.no_grad()
@pytest.mark.parametrize("how", ["refit", "fold", "fold-cosine", "linear-patch", "ghosted", "prune-comp"])
def test_repairs_are_near_those_of_float32(how: Any) -> None:
    """Of one model, whose weights bfloat16 can say: held-out errors by 2% of what is missing without a repair."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        decoder = Decoder(tiny.model().to(torch.bfloat16).to(dtype))
        fits = repair(Student(decoder, KEPT), Windows(tiny.ids(64, 32), "test", 0), 16, how, QUIET)
        found.append([(fit.before, fit.after) for fit in fits if fit.stop != fit.layer + 1])
    for (before, exact), (_, rounded) in zip(*found, strict=True):
        assert before is not None
        assert rounded == pytest.approx(exact, abs=0.02 * before)


@torch.no_grad()
def test_of_mixtures_too() -> None:
    decoder = mixtures.decoder("mixtral")
    decoder.model.to(torch.bfloat16)
    fits = repair(
        Student(decoder, [0, *range(2, len(decoder))]), Windows(tiny.ids(32, 32), "test", 0), 8, "refit", QUIET
    )
    assert all(fit.after is not None and fit.before is not None and fit.after <= fit.before for fit in fits)


def test_tf32_is_not_taken_for_sums() -> None:
    seen: list[str] = []
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        sums = Gram(2, 2, torch.device("cpu"))

        class Watched(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func.__name__ in ("matmul", "__matmul__"):
                    seen.append(torch.get_float32_matmul_precision())
                return super().__torch_function__(func, types, args, kwargs or {})

        a = torch.ones(3, 2).as_subclass(Watched)
        sums.add(a, torch.ones(3, 2))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen
    assert set(seen) == {"highest"}
    assert solve(sums, sums).before > 0
    assert damped_factor(sums, 1.0) is not None
