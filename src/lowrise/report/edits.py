"""What edits and repairs did, in a line each, for the card and the terminal: layers 0-based, spans half-open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lowrise.methods import method
from lowrise.plan import Drop, Edit, Merge
from lowrise.report import words


class Solved(Protocol):
    """What a repair did at one layer of the original model. written: whether what it writes was solved too."""

    @property
    def layer(self) -> int: ...
    @property
    def written(self) -> bool: ...
    @property
    def neurons(self) -> int: ...
    @property
    def descended(self) -> bool: ...
    @property
    def experts(self) -> int: ...
    @property
    def few(self) -> int: ...


def describe(edit: Edit) -> str:
    """One edit, without what repairs it together with all others (`describe_repair`)."""
    span = f"layers [{edit.start}, {edit.stop})"
    if isinstance(edit, Drop):
        return f"{span} dropped"
    if isinstance(edit, Merge):
        mix = " ".join(f"{weight:+.3g}·θ{edit.start + i}" for i, weight in enumerate(edit.weights) if weight)
        norms = "its norms kept" if edit.norms == "keep" else "norms merged too"
        return f"{span} merged into layer {edit.start} by the rule `{edit.rule}`: {mix}, {norms}"
    repaired = "" if edit.repair == "none" else f"; {method('repair', edit.repair).did_to_network}"
    form = f" in its {edit.form} form" if "form" in method("network", edit.network).settings else ""
    return f"{span} replaced by one trained `{edit.network}` network{form}{repaired}"


def describe_repair(edits: Sequence[Edit], fits: Sequence[Solved]) -> str | None:
    """What a closed-form repair of drops and merges did to layers of the original model; None if it did nothing."""
    how = next((edit.repair for edit in edits if isinstance(edit, Drop | Merge)), "none")
    if how == "none" or not fits:
        return None
    return method("repair", how).sentence([fit.layer for fit in fits], reading=not fits[0].written)


def repair_sentences(edits: Sequence[Edit], fits: Sequence[Solved]) -> list[str]:
    """What a repair did, where neurons were transplanted and which layers were trained by themselves, as sentences."""
    found = describe_repair(edits, fits), transplanted_neurons(fits), few_tokens(fits), reconstructed(fits)
    return [f"{words.capitalize_first(one)}." for one in found if one is not None]


def transplanted_neurons(fits: Sequence[Solved]) -> str | None:
    """Which layers were given neurons of removed layers, and how many; None if none was."""
    by = [f"{fit.neurons:,} into layer {fit.layer}" for fit in fits if fit.neurons]
    return f"MLP neurons transplanted from removed layers: {', '.join(by)}" if by else None


def few_tokens(fits: Sequence[Solved]) -> str | None:
    """In which layers few calibration tokens came to experts, and to how many; None where that is nowhere so."""
    few = [f"{fit.few:,} of {fit.experts:,} in layer {fit.layer}" for fit in fits if fit.few]
    return f"experts that few calibration tokens came to, which hardly moved: {', '.join(few)}" if few else None


def reconstructed(fits: Sequence[Solved]) -> str | None:
    """Which layers were trained by block reconstruction; None if none was."""
    layers = [str(fit.layer) for fit in fits if fit.descended]
    if not layers:
        return None
    named = f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(layers)}, each"
    gap = "the gap" if len(layers) == 1 else "its gap"
    how = "block reconstruction (Adam, one layer at a time)"
    return f"{how} then trained {named} toward the dense model's states behind {gap}"
