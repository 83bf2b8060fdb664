"""How much work each criterion does: what it runs, in tokens and layers, as its function's docstring has it.

A function takes a `Job` and answers the `Stage`s that choosing layers is; a row of `methods/rows.py` names it.
"""

from __future__ import annotations

from lowrise.cost.job import Job, batch_bytes, loss_bytes, passes
from lowrise.cost.repairs import refit_work, sums_bytes, transplant, write_anew
from lowrise.cost.work import NOTHING, Stage, Work
from lowrise.methods import method
from lowrise.recipe import Recipe
from lowrise.select.refit_search import FIT_TOKENS, HELD_OUT_TOKENS, LENGTH, SHORTLIST
from lowrise.select.refit_trials import RIDGES

_COMPARED = 1.06  # passes that observing takes, with the statistics of all pairs of states
_AGAIN = 0.5  # of a round's trials, those that were not solved in the round before
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
    trials, above = sum(left), sum(one * (one - 1) / 2 for one in left)
    work = passes(job.tokens, layers + above, job.length) + Work(head=trials * job.tokens)
    store = 2 * layers * job.tokens * job.shape.hidden * job.shape.compute
    states = Work(states=(trials * 1.5 / layers + 1) * store / 2)
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
    shape, shortlist = job.shape, SHORTLIST * job.recipe.search_budget
    fit, held = search_tokens(job)
    seen, length, layers = fit + held, _length(job), shape.layers
    store = seen * shape.compute * ((layers + 1) * shape.hidden + (layers * shape.hidden if shape.moves else 0))
    work = trials(job) + finalists(job) + Work(states=3 * store)
    memory = max(sums_bytes(shape, moves=shape.moves), loss_bytes(job)) + batch_bytes(job, length)
    changed = max(1, len(job.gaps)) * shape.layer_bytes
    return [Stage("search", work, memory + changed, disk=store + shortlist * shape.layer_bytes)]


def trials(job: Job) -> Work:
    """Each layer alone, no neuron moving; k rounds of a shortlist; and spans, of which the best gets one layer more."""
    shape, effort, k = job.shape, job.recipe.search_budget, job.taken
    fit, held = search_tokens(job)
    seen, length, shortlist = fit + held, _length(job), SHORTLIST * effort
    tries, layers = len(RIDGES), shape.layers
    missed = passes(held, layers / 2, length) + Work(head=_LIKELIEST * held)
    plain = write_anew(shape, fit, held, length, tries) + missed
    moving = transplant(shape, seen, length, tries) if shape.moves else write_anew(shape, fit, held, length, tries)
    moving += missed
    one_by_one = sum(min(layers - 1 - done, shortlist) * (1.0 if done == 0 else _AGAIN) for done in range(k))
    way_up = passes(seen, _SEARCHED * layers, length)
    work = passes(seen, layers, length) + Work(head=_LIKELIEST * held)
    work += (layers - 1) * plain + one_by_one * moving + k * way_up
    if k > 1:
        spans = sum(min(layers - n, shortlist) for n in (k - 1, k))
        work += spans * plain + min(layers - k, shortlist) * moving + way_up
    return work


def finalists(job: Job) -> Work:
    """Two cuts repaired whole, as they mostly are two: layers that went one by one, and a long gap."""
    if job.taken < 2:
        return NOTHING
    fit, held = search_tokens(job)
    long = ((job.gaps[0][0], min(job.shape.layers, job.gaps[0][0] + job.taken)),)
    work = Work(head=2 * _LIKELIEST * held)
    for gone in (job.gaps, long):
        work += refit_work(job, fit, held, _length(job), gone, from_start=True)
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
    effort = job.recipe.search_budget
    return min(FIT_TOKENS * effort, job.fitted), min(HELD_OUT_TOKENS * effort, job.held_out)


def _length(job: Job) -> int:
    return min(LENGTH, job.length)


def stages_of(job: Job) -> list[Stage]:
    """Of the recipe's criterion; of one whose row names no cost, by what it looks at."""
    from lowrise.methods import load

    row = method("criterion", job.recipe.select)
    if row.cost is not None:
        return list(load(row.cost)(job))
    return {"states": looked_at, "nothing": nothing}.get(row.looks_at, windows)(job)


def is_known(recipe: Recipe) -> bool:
    """Whether the criterion's row says what it costs, or does nothing but look at states."""
    row = method("criterion", recipe.select)
    return row.cost is not None or row.looks_at in ("states", "nothing")
