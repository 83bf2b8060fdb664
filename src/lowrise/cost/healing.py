"""The stages of a healing: a student that learns from the dense model."""

from __future__ import annotations

from dataclasses import dataclass

from lowrise.cost.job import Text, adam
from lowrise.cost.shape import ModelShape
from lowrise.cost.stages import (
    generation,
    opened,
    own_text,
    page,
    perplexity,
    samples_of,
    saved,
    scored,
    tasks,
    written_text,
)
from lowrise.cost.work import Stage, Work
from lowrise.heal import defaults
from lowrise.heal.divergence import LIKELIEST
from lowrise.heal.head import FEWEST
from lowrise.heal.sources import most_held_out
from lowrise.heal.trainable import TAIL
from lowrise.settings import Heal, Precision, Trained

# Of a pass forward and backward through all layers, what one takes in which something else learns; of a tail whose head
# is the embedding too, so that gradients pass all layers. In bfloat16 it was timed on the demo model's student, 1,024
# tokens on one thread (docs/log.md): adapters are computed beside matrices that are small, which takes longer than what
# they save.
_PART = {"all": 1.0, "lora": 0.72, "network": 0.72, "gaps": 0.75, "tail": 0.75}
_PART_IN_SHORT = {"all": 1.0, "lora": 1.3, "network": 0.6, "gaps": 0.6, "tail": 0.85}
_LOSS_COPIES = 7  # of a chunk's logits, both models' and what the loss makes of them
_USUAL_LOGITS = 2**24  # numbers of a chunk, which the other parts have room for
_FORWARD = 1 / 3  # of it, what goes forward alone
_LEARNING = {"all": 1.0, "lora": 0.03, "network": 0.05, "gaps": 0.2, "tail": 0.2}  # of the parameters, about
_EVALUATED = 0.3  # of the budget, tokens that all held-out measurements read in forward passes
_ANSWER = 0.2  # of a student's head, loss and gradients: the dense model's logits
_LIKELIEST = 0.6  # the same, where the likeliest of them are looked for


@dataclass(frozen=True)
class Healing:
    """student, dense: the two models. sources: texts, datasets and conversations that are named. texts: measured.
    precision: that it computes in.
    """

    student: ModelShape
    dense: ModelShape
    settings: Heal
    sources: int
    texts: tuple[Text, ...] = ()
    task_tokens: int = 0
    free: float = float("inf")
    precision: Precision = "no"

    @property
    def length(self) -> int:
        return min(self.settings.window, self.student.longest)

    @property
    def windows(self) -> int:
        return max(1, self.settings.budget // self.length)

    @property
    def written(self) -> int:
        """Windows that the dense model writes, the guard's among them."""
        share = self.settings.synthetic_share if self.sources else 1.0
        guard = most_held_out(self.length) if self.settings.guard is None else 0
        return round(share * self.windows) + guard

    @property
    def stored(self) -> bool:
        """Whether the dense model answers before, and its answers lie on disk."""
        if self.settings.objective == "ce":
            return False
        if self.settings.teacher != "auto":
            return self.settings.teacher == "stored"
        return not defaults.fits_in_memory(self.student.parameters, self.free)


def stages(job: Healing) -> list[Stage]:
    """Of the whole command."""
    both = job.student.bytes + job.dense.bytes
    teaches = job.settings.objective != "ce"
    found = [opened(job.student), opened(job.dense)]
    found.append(written_text(job.dense, job.written, job.length, "tokens") if job.written else Stage("tokens", Work()))
    found += [*_measured(job, job.dense), _perplexity(job, job.student)]
    if job.stored:
        tokens = job.windows * job.length
        found.append(Stage("teacher", _asked(job, tokens, _LIKELIEST), keeps=tokens * (6 * LIKELIEST + 2)))
    found = [Stage(one.name, one.work, one.memory, both, one.disk, one.keeps) for one in found]
    healed = _trained(job)
    held = both if teaches and not job.stored else job.student.bytes
    found.append(Stage("healing", healed.work, healed.memory, held, healed.disk))
    last = [saved(job.student), *_measured(job, job.student), page(job.student)]
    return found + [Stage(one.name, one.work, one.memory, job.student.bytes, one.disk, one.keeps) for one in last]


def _trained(job: Healing) -> Stage:
    settings, shape = job.settings, job.student
    trains = defaults.trained(settings, round(shape.parameters))
    tokens = job.windows * job.length
    batch = defaults.batch_windows(settings, job.length, job.windows)
    steps = -(-job.windows // batch)
    learning = _LEARNING[trains] * shape.parameters
    work = Work(mixed=_part(job, trains) * tokens * shape.layers, taught=tokens, visits=2 * shape.layers)
    work += adam(steps, learning) + scored(shape, _EVALUATED * tokens, job.length)
    if settings.objective != "ce" and not job.stored:
        work += _asked(job, tokens, _ANSWER)
    if settings.checkpointing:
        work += Work(mixed=_FORWARD * tokens * shape.layers)
    # gradients, moments and the best so far; the model itself is brought to float32
    state = 16 * learning + 4 * shape.parameters - shape.bytes
    kept = 1 if settings.checkpointing else shape.layers
    activations = 4 * 1024 * kept * (8 * shape.hidden + 4 * shape.inner)
    logits = _LOSS_COPIES * 4 * max(0, FEWEST * shape.vocabulary - _USUAL_LOGITS)
    return Stage("healing", work, state + activations + logits, disk=4 * learning * 3)


def _part(job: Healing, trains: Trained) -> float:
    if trains == "tail" and not job.student.tied:
        return _FORWARD + (1 - _FORWARD) * min(1.0, TAIL / job.student.layers)
    return (_PART if job.precision == "no" else _PART_IN_SHORT)[trains]


def _asked(job: Healing, tokens: float, head: float) -> Work:
    """The dense model's answers. head: what its logits take, of a student's head, loss and gradients."""
    return Work(mixed=_FORWARD * tokens * job.dense.layers, taught=head * tokens)


def _texts(job: Healing) -> tuple[Text, ...]:
    return job.texts or own_text(max(1, job.sources) * most_held_out(job.length), job.length)


def _measured(job: Healing, shape: ModelShape) -> list[Stage]:
    found = [_perplexity(job, shape), Stage("generation", generation(shape, job.length))]
    if job.task_tokens:
        found.append(Stage("tasks", tasks(shape, job.task_tokens)))
    return [*found, samples_of(shape)]


def _perplexity(job: Healing, shape: ModelShape) -> Stage:
    return Stage("measure", perplexity(shape, _texts(job)), 3 * 2.0**28)
