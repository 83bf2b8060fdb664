"""A measured model as the draft of its dense one."""

from __future__ import annotations

from torch import Tensor

from lowrise.calibration import Windows
from lowrise.errors import ModelError
from lowrise.measure.draft import LENGTH, measure_draft
from lowrise.measure.greedy_text import make_prompts
from lowrise.measure.samples import encoded_prompts
from lowrise.model.source import OpenModel
from lowrise.pipeline.context import Run
from lowrise.pipeline.opening import evaluation_texts, open_from
from lowrise.results import Draft, Results


def with_draft(run: Run, results: Results, draft: OpenModel, dense_source: str) -> Results:
    """Last of all, so that `memory` says what the rest took, before both models were held for this.

    Behind beginnings of the evaluation texts, where there are any, and fixed prompts.
    """
    with run.clock.stage("open"):
        dense = open_from(run.recipe.model_copy(update={"model": dense_source}), run)
    return tried_as_draft(run, results, draft, dense, dense_source)


def tried_as_draft(run: Run, results: Results, draft: OpenModel, dense: OpenModel, dense_source: str) -> Results:
    """The same with a dense model that is open."""
    prompts = _prompts(draft, dense, evaluation_texts(run.recipe, dense), run)
    with run.clock.stage("draft"):
        found = measure_draft(draft.decoder, dense.decoder, dense.tokenizer, prompts, dense_source, run.progress)
    if found.equal < found.prompts:
        run.progress.warn(
            f"with the draft {found.prompts - found.equal} of {found.prompts} texts are not the dense model's: several "
            "tokens in one pass are rounded otherwise than one by one"
        )
    run.progress.say(verdict(found, len(dense.decoder)))
    return results.but(draft=found, warnings=run.progress.warnings, seconds=run.clock.total())


def verdict(draft: Draft, layers: int) -> str:
    """What depth would pay, for people. layers: of the dense model."""
    if draft.chance is None or draft.expected is None or draft.best is None:
        return "as a draft it proposed nothing"
    costs = f"a token of the draft costs {draft.cost:.2f} of the dense model's"
    this = (
        f"{costs}: ×{draft.expected:.2f} with {LENGTH} a round, ×{draft.best:.2f} with {draft.best_length}, in theory"
    )
    if draft.layers_break_even is None:
        pays = "as often as it is accepted, no depth pays"
    else:
        pays = (
            f"as often as it is accepted ({draft.chance:.0%}), a draft pays that costs less than {draft.chance:.2f}, "
            f"so of at most {draft.layers_break_even} of {layers} layers"
        )
    return f"{this}; {pays}"


def _prompts(draft: OpenModel, dense: OpenModel, texts: dict[str, Windows], run: Run) -> list[Tensor]:
    """(1, tokens) each. Raises ModelError where the models can read none."""
    room = min(draft.decoder.max_length, dense.decoder.max_length)
    made = make_prompts(dense.decoder, dense.tokenizer, texts)
    rows = [row.unsqueeze(0) for batch in made.batches for row in batch]
    rows += encoded_prompts(dense.decoder, dense.tokenizer, run.recipe.bos).values()
    fitting = [row for row in rows if row.shape[1] + LENGTH < room]
    if not fitting:
        raise ModelError("--draft-for", "models with room for a prompt and what follows", "none", "leave it out")
    return fitting
