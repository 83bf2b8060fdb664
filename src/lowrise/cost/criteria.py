"""How much work each criterion does: what it runs, in tokens and layers, as its function's docstring has it.

A function takes a `Job` and answers the `Stage`s that choosing layers is; a row of `methods/rows.py` names it.
"""

from __future__ import annotations

from lowrise.cost.job import Job, batch_bytes, loss_bytes, passes, to_mlp
from lowrise.cost.repairs import refit_work, sums_bytes, transplant, write_anew
from lowrise.cost.work import NOTHING, Stage, Work
from lowrise.edit.dry_run import DryRun
from lowrise.methods import load, method
from lowrise.select.refit_search import FIT_TOKENS, HELD_OUT_TOKENS, LENGTH, shortlist_of, tried_first
from lowrise.select.refit_trials import RIDGES

_COMPARED = 1.06  # passes that observing takes, with the statistics of all pairs of states
_LATER = 0.3  # of a shortlist, what a later round tries and has not solved before
_SEARCHED = 0.35  # of the layers, what a pass from the first change to the last candidate goes through
_LIKELIEST = 1.5  # of a loss: what the dense model's likeliest tokens are compared too
_SENTENCE = 24  # tokens of a sentence, about


def looked_at(job: Job) -> list[Stage]:
    """States: one pass."""
    work = _COMPARED * passes(job.tokens, job.shape.layers, job.length)
    rows = max(job.batch, job.length)
    states = rows * (job.shape.layers + 1) * job.shape.hidden * job.shape.compute
    return [Stage("observe", work, batch_bytes(job, job.length) + states)]


def windows(job: Job) -> list[Stage]:
    """What is known of a method of another package that looks at windows: at least a pass."""
    return [Stage("search", passes(job.tokens, job.shape.layers, job.length), batch_bytes(job, job.length))]


def nothing(_job: Job) -> list[Stage]:
    return [Stage("search", NOTHING)]


def greedy(job: Job) -> list[Stage]:
    """A trial runs the layers above the one that it leaves out, and the head; there are L - r in round r."""
    layers, k = job.shape.layers, job.taken
    left = [layers - done for done in range(k)]
    number, above = sum(left), sum(one * (one - 1) / 2 for one in left)
    work = passes(job.tokens, layers + above, job.length) + Work(head=number * job.tokens)
    store = 2 * layers * job.tokens * job.shape.hidden * job.shape.compute
    states = Work(states=(number * 1.5 / layers + 1) * store / 2)
    return [Stage("search", work + states, batch_bytes(job, job.length) + loss_bytes(job), disk=store)]


def taylor(job: Job) -> list[Stage]:
    """One pass with gradients of all layers, and the head's."""
    work = Work(backward=job.tokens * job.shape.layers, head=3 * job.tokens, visits=2 * job.shape.layers)
    kept = 12 * job.length * job.shape.layers * (2 * job.shape.hidden + job.shape.inner) * job.shape.compute / 4
    return [Stage("search", work, job.shape.layers * job.shape.layer_bytes + kept)]


def merges(job: Job) -> list[Stage]:
    """Every attempt mixes C layers and runs the sentences from there up; by size, all places a round."""
    settings, layers = job.recipe.merge_search, job.shape.layers
    high = settings.high if settings.high is not None else layers
    places = max(1, high - settings.low - settings.combine + 1)
    rounds = -(-job.removed // (settings.combine - 1)) if settings.threshold is None and job.recipe.remove else 1
    tokens = job.recipe.samples * _SENTENCE
    attempts = rounds * places
    mixed = Work(touched=(settings.combine + 2) * job.shape.layer_bytes)
    work = attempts * (passes(tokens, layers / 2, _SENTENCE) + mixed) + 3 * passes(tokens, layers, _SENTENCE)
    kept = 3 * job.shape.layer_bytes * max(1, job.removed // (settings.combine - 1))
    return [Stage("search", work + Work(head=2 * tokens), kept)]


def repaired(job: Job) -> list[Stage]:
    """`select/refit_search.choose_by_refit`: trials of single layers, of spans, and two repairs of the whole."""
    shape, length, layers = job.shape, _length(job), job.shape.layers
    fit, held = search_tokens(job)
    store = (fit + held) * shape.compute * shape.hidden * ((layers + 1) + (layers if shape.moves else 0))
    work = trials(job) + finalists(job) + Work(states=3 * store)
    memory = max(sums_bytes(shape, moves=shape.moves), loss_bytes(job)) + batch_bytes(job, length)
    changed = max(1, len(job.gaps)) * shape.layer_bytes
    return [
        Stage("search", work, memory + changed, disk=store + shortlist_of(job.recipe.search_budget) * shape.layer_bytes)
    ]


def trials(job: Job) -> Work:
    """Most layers alone, no neuron moving; k rounds of a shortlist, all of it in the first, in others as long as the
    next one could be better; and spans, of which the best gets one layer more.
    """
    shape, k, shortlist, layers = job.shape, job.taken, shortlist_of(job.recipe.search_budget), job.shape.layers
    fit, held = search_tokens(job)
    seen, length, tries = fit + held, _length(job), len(RIDGES)
    missed = passes(held, layers / 2, length) + Work(head=_LIKELIEST * held)
    plain = write_anew(shape, fit, held, length, tries) + missed
    moving = plain
    if shape.moves:
        moving = to_mlp(shape, seen, length) + transplant(shape, fit, held, tries) + missed
    first = tried_first(layers, k, shortlist)
    rounds = [min(layers - 1 - done, shortlist) for done in range(k)]
    way_up = passes(seen, _SEARCHED * layers, length)
    work = passes(seen, layers, length) + Work(head=_LIKELIEST * held) + first * plain + (k - 1) * way_up
    work += (rounds[0] + _LATER * sum(rounds[1:])) * moving
    if k > 1:
        spans = sum(min(layers - n, shortlist) for n in (k - 1, k))
        work += spans * plain + _LATER * min(layers - k, shortlist) * moving + way_up
    return work


def finalists(job: Job) -> Work:
    """Two cuts repaired on every other batch, as they mostly are two: layers that went one by one, and a long gap."""
    if job.taken < 2:
        return NOTHING
    fit, held = search_tokens(job)
    long = ((job.gaps[0][0], min(job.shape.layers, job.gaps[0][0] + job.taken)),)
    work = Work(head=2 * _LIKELIEST * held)
    for gone in (job.gaps, long):
        work += refit_work(job, fit / 2, held, _length(job), gone, from_start=True, epochs=DryRun.most_epochs)
    return work


def repaired_span(job: Job) -> list[Stage]:
    """`select/refit_search.choose_span_by_refit`: every span of k layers, the layer before it writing anew."""
    shape, k = job.shape, job.taken
    fit, held = search_tokens(job)
    length = _length(job)
    missed = passes(held, shape.layers / 2, length) + Work(head=_LIKELIEST * held)
    trial = write_anew(shape, fit, held, length, len(RIDGES)) + missed
    work = passes(fit + held, shape.layers, length) + Work(head=_LIKELIEST * held)
    store = (fit + held) * shape.compute * (shape.layers + 1) * shape.hidden
    work += max(1, shape.layers - k) * trial + Work(states=3 * store)
    memory = max(sums_bytes(shape, moves=False), loss_bytes(job)) + batch_bytes(job, length)
    return [Stage("search", work, memory, disk=store)]


def search_tokens(job: Job) -> tuple[float, float]:
    """Tokens that a search with repair fits on, and that decide."""
    search_budget = job.recipe.search_budget
    return min(FIT_TOKENS * search_budget, job.fitted), min(HELD_OUT_TOKENS * search_budget, job.held_out)


def _length(job: Job) -> int:
    return min(LENGTH, job.length)


def stages_of(job: Job) -> list[Stage]:
    """Of the recipe's criterion; of one whose row names no cost, by what it looks at."""
    row = method("criterion", job.recipe.select)
    if row.cost is not None:
        return list(load(row.cost)(job))
    return {"states": looked_at, "nothing": nothing}.get(row.looks_at, windows)(job)
