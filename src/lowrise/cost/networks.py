"""How much work a network in a span's place is: its pairs, and its training. A row of `methods/rows.py` names each."""

from __future__ import annotations

from lowrise.cost.job import Job, adam, batch_bytes, passes
from lowrise.cost.work import Stage, Work
from lowrise.heal.mse import MICRO_TOKENS, VALIDATIONS
from lowrise.heal.schedule import make_schedule
from lowrise.methods import load, method


def layer(job: Job) -> list[Stage]:
    return _trained(job, job.shape.layer_parameters)


def ffn(job: Job) -> list[Stage]:
    return _trained(job, 8 * job.shape.hidden**2)


def swiglu(job: Job) -> list[Stage]:
    return _trained(job, 3 * job.shape.hidden * job.shape.inner)


def _trained(job: Job, parameters: float) -> list[Stage]:
    """Pairs by one pass to the span's end; then epochs, and the held-out loss so many times.

    A network that is no layer counts as much of one as it has of its parameters.
    """
    shape, d = job.shape, job.shape.hidden
    share = parameters / shape.layer_parameters
    pairs = 2 * job.tokens * d * shape.compute
    windows = max(1, job.fitted // job.length)
    schedule = make_schedule(windows, job.length, job.recipe.training)
    trained = schedule.epochs * windows * job.length
    steps = adam(schedule.steps, parameters)
    checked = min(schedule.steps, VALIDATIONS) + 2
    work = Work(backward=share * trained) + share * checked * passes(job.held_out, 1, job.length) + steps
    activations = 4 * MICRO_TOKENS * (8 * d + 4 * shape.inner)
    to_stop = passes(job.tokens, max(stop for _, stop in job.gaps), job.length)
    return [
        Stage("pairs", to_stop + Work(touched=pairs), pairs + batch_bytes(job, job.length)),
        Stage("training", work, pairs + 6 * 4 * parameters + activations, disk=4 * 4 * parameters),
    ]


def stages_of(job: Job) -> list[Stage]:
    """Of the recipe's network."""
    if job.recipe.network == "none":
        return []
    row = method("network", job.recipe.network)
    return list(load(row.cost or "lowrise.cost.networks:layer")(job))
