"""What edits and repairs did, in a line each, for the card and the terminal: layers 0-based, spans half-open."""

from __future__ import annotations

from collections.abc import Sequence

from lowrise.plan import Drop, Edit, Merge
from lowrise.report.folder import Repair


def describe(edit: Edit) -> str:
    """One edit, without what repairs it together with all others (`describe_repair`)."""
    span = f"layers [{edit.start}, {edit.stop})"
    if isinstance(edit, Drop):
        return f"{span} dropped"
    if isinstance(edit, Merge):
        mix = " ".join(f"{weight:+.3g}·θ{edit.start + i}" for i, weight in enumerate(edit.weights) if weight)
        norms = "its norms kept" if edit.norms == "keep" else "norms merged too"
        return f"{span} merged into layer {edit.start} by the rule `{edit.rule}`: {mix}, {norms}"
    repaired = {
        "none": "",
        "fold": f"; a linear map folded into the MLP output matrix of layer {edit.start}",
        "refit": "; a ridge regression refit its last matrix",
    }[edit.repair]
    form = "" if edit.network == "layer" else f" in its {edit.form} form"
    return f"{span} replaced by one trained `{edit.network}` network{form}{repaired}"


def describe_repair(edits: Sequence[Edit]) -> str | None:
    """What a closed-form repair of drops and merges did to layers of the original model; None if there was none."""
    repaired = [edit for edit in edits if isinstance(edit, Drop | Merge) and edit.repair != "none"]
    layers = sorted({edit.start - (edit.kind != "merge") for edit in repaired})
    if not repaired:
        return None
    if repaired[0].repair == "refit":
        where = "all layers that are left" if layers[0] < 0 else f"the layers that are left from {layers[0]} on"
        return f"ridge regressions refit the matrices of {where}"
    before = [str(layer) for layer in layers if layer >= 0]
    if not before:
        return None
    matrices = f"matrix of layer {before[0]}" if len(before) == 1 else f"matrices of layers {', '.join(before)}"
    return f"a linear map folded into the MLP output {matrices}"


def neurons_taken(repairs: Sequence[Repair]) -> str | None:
    """Which layers took over neurons of those that go, and how many; None if none did."""
    by = [f"{repair.neurons:,} by layer {repair.layer}" for repair in repairs if repair.neurons]
    return f"MLP neurons taken over from layers that go: {', '.join(by)}" if by else None
