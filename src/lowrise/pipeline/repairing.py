"""Closed-form repairs as a run does them, and what they do to the loss on held-out calibration tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lowrise.calibration import Windows
from lowrise.edit.context import Repaired, RepairTask
from lowrise.edit.fit import Fit
from lowrise.edit.repair import repair
from lowrise.edit.student import Student, student_of
from lowrise.methods import load, method
from lowrise.model.decoder import Decoder
from lowrise.model.refittable import check_output_matrix
from lowrise.model.source import OpenModel
from lowrise.pipeline.clock import Clock
from lowrise.pipeline.context import Run
from lowrise.plan import Drop, Merge, Plan, Replace
from lowrise.progress import Reporter
from lowrise.quality import LOSS_TOKENS, is_collapse
from lowrise.recipe import Recipe


def held_out_windows(recipe: Recipe, windows: Windows) -> Windows:
    return windows.split(recipe.training.validation)[1]


def special_tokens(opened: OpenModel) -> list[int]:
    """Ids of the tokenizer's special tokens, those that the model knows."""
    known = opened.model.get_input_embeddings().weight.shape[0]
    return sorted(token for token in opened.tokenizer.all_special_ids if token < known)


def check_repairs(decoder: Decoder, edits: Iterable[Drop | Merge | Replace]) -> None:
    """Raises ModelError for a model that one of the edits' repairs cannot be solved for."""
    for edit in edits:
        if isinstance(edit, Replace):
            if edit.repair != "none" and edit.in_a_layer:  # any other network has a last matrix of its own
                check_output_matrix(decoder)
        else:
            check_repair(decoder, edit.repair)


def check_repair(decoder: Decoder, how: str) -> None:
    """Raises ModelError for a model whose drops and merges cannot be repaired so."""
    check = None if how == "none" else method("repair", how).check
    if check is not None:
        load(check)(decoder)


def repair_model(run: Run, plan: Plan, opened: OpenModel, windows: Windows) -> Repaired:
    """Repair all drops and merges that ask for it, in place, while no layer is gone; merged layers are whole then."""
    edits = [edit for edit in plan.edits if isinstance(edit, Drop | Merge)]
    if all(edit.repair == "none" for edit in edits):
        return Repaired([])
    how = edits[0].repair
    student = student_of(opened.decoder, edits)
    if method("repair", how).special_tokens:
        windows = windows.with_special_tokens(special_tokens(opened))
    held_out = len(held_out_windows(run.recipe, windows))
    with run.clock.stage("repair"):
        repaired = repair(how, RepairTask(student, windows, held_out, run.progress, run.work))
    tell_fits([fit for fit in repaired.fits if fit.stop != fit.layer + 1], len(opened.decoder), run.progress)
    tell_few(repaired.fits, run.progress)
    if repaired.fits and not any(fit.written for fit in repaired.fits):
        run.progress.say(
            "layers write through what is not known: closed forms refit what they read, not what they write"
        )
    return repaired


def tell_fits(fits: list[Fit], layers: int, progress: Reporter) -> None:
    """layers: of the dense model."""
    for fit in fits:
        if fit.before is None or fit.after is None:
            continue
        share = fit.after / fit.before if fit.before else math.nan
        where = f"layer {fit.layer}" if fit.layer >= 0 else "embedding"
        target = f"input of layer {fit.stop}" if fit.stop < layers else "output of the last layer"
        how = "" if fit.ridge is None else f", λ {fit.ridge:g}"
        how += f", {fit.neurons} neurons transplanted from removed layers" if fit.neurons else ""
        how += f", {'then' if fit.written else 'by'} block reconstruction" if fit.descended else ""
        progress.say(f"{where}: held-out reconstruction error × {share:.3f} (target: {target}){how}")
        if not fit.after <= fit.before:  # nor if one is not a number
            remedy = "give more --samples, or choose another repair"
            progress.warn(f"the repair behind {where} makes held-out tokens worse: {remedy}")


def tell_few(fits: list[Fit], progress: Reporter) -> None:
    """Experts that few tokens came to."""
    few = [f"{fit.few} of {fit.experts} in layer {fit.layer}" for fit in fits if fit.few]
    if few:
        progress.say(
            f"experts that fewer tokens came to than their last matrix has inputs, so that it hardly moves: "
            f"{', '.join(few)}; more --samples would bring more"
        )


class HeldOutLoss:
    """Next-token loss on held-out calibration tokens, of the dense model and of what became of it.

    dense: its loss, where that is known.
    """

    def __init__(self, decoder: Decoder, windows: Windows, clock: Clock, dense: float | None = None) -> None:
        self._windows = windows.first(max(1, LOSS_TOKENS // windows.length))
        self._clock = clock
        self.dense = self.loss(decoder) if dense is None else dense

    def loss(self, decoder: Decoder) -> float:
        """Of the decoder as it is now."""
        return self.student_loss(student_of(decoder, []))

    def student_loss(self, student: Student) -> float:
        with self._clock.stage("held_out_loss"):
            return student.loss(self._windows)

    def noted(self, plan: Plan, decoder: Decoder) -> Plan:
        """The plan with what its edits did to the loss, of the decoder that they were done to."""
        return plan.model_copy(update={"scores": {**plan.scores, "held_out": self.scores(self.loss(decoder))}})

    def scores(self, after: float | None) -> dict[str, Any]:
        """For the plan: mean next-token loss, natural log. after: None for what is not known before it is done."""
        ratio = None if after is None else math.exp(min(after - self.dense, 700.0))
        return {
            "tokens": self._windows.tokens,
            "dense": self.dense,
            "after": after,
            "perplexity_ratio": ratio,
            "collapsed": None if ratio is None else is_collapse(ratio),
        }
