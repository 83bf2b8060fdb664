"""The stages of every command, in their order, under the names that its clock gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lowrise.calibration.written import rows_for
from lowrise.cost import criteria, networks, repairs
from lowrise.cost.job import Job, Text, batch_bytes, loss_bytes, passes
from lowrise.cost.shape import ModelShape
from lowrise.cost.work import Stage, Work
from lowrise.measure import greedy_text, samples
from lowrise.model.batching import CPU_CACHE
from lowrise.quality import LOSS_TOKENS

_PROBED = 10.0  # times that opening and its proofs of cuts go through the weights, a few tokens at a time
_PROVEN = 14.0  # the same of saving: logits before and after, and through the cache
_SAMPLED = 2.0  # of a head: what drawing a token from its logits takes besides
_PAGE = 2.0  # seconds: pictures, page, card
_PROMPT = 16  # tokens of a sample's prompt, about
_TASK_LENGTH = 64  # tokens of one answer with its question, about


def opened(shape: ModelShape) -> Stage:
    """Read, hashed, checked, and a few tokens run to see what it can be cut into. Its file is mapped meanwhile."""
    on_disk = shape.parameters * shape.stored
    work = Work(read=on_disk, hashed=on_disk, touched=(3 + _PROBED) * shape.bytes)
    return Stage("open", work, memory=on_disk)


def written_text(shape: ModelShape, rows: int, length: int, name: str) -> Stage:
    """`calibration/written.py`: so many windows, token by token, as many at once as fit."""
    row = shape.layers * shape.key_bytes * length
    at_once = min(rows, rows_for(row, CPU_CACHE))
    times = -(-rows // max(1, at_once))
    work = times * decoded(shape, at_once, length, 0) + Work(head=(_SAMPLED - 1) * rows * length)
    return Stage(name, work, at_once * (row + 4 * 4 * shape.vocabulary))


def decoded(shape: ModelShape, rows: float, new: int, prompt: int) -> Work:
    """New tokens, one after the other, of rows side by side; behind a prompt that is read first."""
    steps = new * shape.layers
    cached = rows * steps * (prompt + new / 2) * shape.key_bytes
    head = Work(head=rows * new, touched=new * shape.head_parameters * shape.compute)
    return (
        Work(decoded=rows * steps, decode_calls=steps, cached=cached, visits=steps)
        + head
        + (passes(rows * prompt, shape.layers, prompt) if prompt else Work())
    )


def calibration(job: Job) -> Stage:
    return (
        written_text(job.shape, job.written, job.length, "calibration") if job.written else Stage("calibration", Work())
    )


def held_out_loss(job: Job, shape: ModelShape) -> Stage:
    tokens = min(LOSS_TOKENS, job.held_out)
    return Stage("held_out_loss", scored(shape, tokens, job.length), loss_bytes(job) + batch_bytes(job, job.length))


def scored(shape: ModelShape, tokens: float, length: float) -> Work:
    """Tokens through a model, and their loss."""
    return passes(tokens, shape.layers, length) + Work(head=tokens)


def perplexity(shape: ModelShape, texts: Sequence[Text]) -> Work:
    """Of texts; the weights are hashed before."""
    return sum((scored(shape, text.tokens, text.length) for text in texts), Work(hashed=shape.bytes))


def generation(shape: ModelShape, length: int) -> Work:
    """`measure/greedy_text.py` behind texts of windows of so many tokens, and behind questions, all at once."""
    rows, questions, new = greedy_text.PROMPTS, len(greedy_text.QUESTIONS), greedy_text.NEW_TOKENS
    read = min(greedy_text.PROMPT_TOKENS, max(1, length // 2))
    asked = passes(questions * read, shape.layers, read)
    followed = scored(shape, rows * (read + new), read + new)
    # questions are answered in half as many tokens
    return decoded(shape, rows + questions / 2, new, read) + asked + followed


def tasks(shape: ModelShape, tokens: float) -> Work:
    return scored(shape, tokens, _TASK_LENGTH)


def samples_of(shape: ModelShape) -> Stage:
    return Stage("samples", len(samples.PROMPTS) * decoded(shape, 1, samples.NEW_TOKENS, _PROMPT))


def measured(job: Job, shape: ModelShape, *, samples_too: bool = True) -> list[Stage]:
    """Perplexity, generation, tasks and samples of one model."""
    found = [Stage("measure", perplexity(shape, job.texts), loss_bytes(job) + batch_bytes(job, _longest(job)))]
    if job.texts:
        length = min(text.length for text in job.texts)
        found.append(Stage("generation", generation(shape, length), loss_bytes(job)))
    if job.task_tokens:
        found.append(Stage("tasks", tasks(shape, job.task_tokens), loss_bytes(job)))
    return [*found, samples_of(shape)] if samples_too else found


def _longest(job: Job) -> int:
    return max((text.length for text in job.texts), default=job.length)


def saved(shape: ModelShape) -> Stage:
    """Written, read again, and proven equal; a model in another format is read twice."""
    on_disk = shape.parameters * shape.stored
    again = 1 if shape.stored == shape.compute else 2
    work = Work(written=on_disk, read=again * on_disk, touched=_PROVEN * shape.bytes)
    return Stage("write", work, memory=on_disk, keeps=on_disk)


def _planned(job: Job) -> list[Stage]:
    return [opened(job.shape), calibration(job), *criteria.stages_of(job), held_out_loss(job, job.shape)]


def _edited(job: Job) -> list[Stage]:
    return [*networks.stages_of(job), *(repairs.stages_of(job) if job.recipe.network == "none" else [])]


def _made(job: Job) -> list[Stage]:
    """From the dense model's measurement to the end."""
    after = job.after
    found = [*measured(job, job.shape), *_edited(job)]
    found = [_beside(stage, job.shape) for stage in [*found, held_out_loss(job, after)]]
    return [*found, *(_beside(stage, after) for stage in [saved(after), *measured(job, after)]), page(after)]


def page(shape: ModelShape) -> Stage:
    return Stage("page", Work(fixed=_PAGE), models=shape.bytes)


def _beside(stage: Stage, *shapes: ModelShape) -> Stage:
    """With these models in memory."""
    return replace(stage, models=sum(shape.bytes for shape in shapes))


def run(job: Job) -> list[Stage]:
    return [*(_beside(stage, job.shape) for stage in _planned(job)), *_made(job)]


def plan(job: Job) -> list[Stage]:
    return [_beside(stage, job.shape) for stage in _planned(job)]


def apply(job: Job) -> list[Stage]:
    fitted = job.recipe.repair != "none" or job.recipe.network != "none"
    made = [opened(job.shape), *([calibration(job), held_out_loss(job, job.shape)] if fitted else [])]
    return [*(_beside(stage, job.shape) for stage in made), *_made(job)]


def dense_alone(job: Job) -> list[Stage]:
    """What a comparison measures once for all rows."""
    return [_beside(stage, job.shape) for stage in [opened(job.shape), *measured(job, job.shape, samples_too=False)]]


def row(job: Job) -> list[Stage]:
    """Of a comparison: its tokens are at hand, and what is known of the dense model but for its samples."""
    known = replace(job, written=0)
    found = [*(_beside(stage, job.shape) for stage in _planned(known)), *_made(known)]
    twice = ("measure", "generation", "tasks")
    dense = {stage.name: stage for stage in measured(job, job.shape) if stage.name in twice}
    seen: set[str] = set()
    kept = []
    for stage in found:
        if stage.name in dense and stage.name not in seen:
            seen.add(stage.name)
            stage = replace(stage, work=Work(hashed=job.shape.bytes))
        kept.append(stage)
    return kept


COMMANDS: Mapping[str, Callable[[Job], list[Stage]]] = {"run": run, "plan": plan, "apply": apply}


def own_text(windows: int, length: int) -> tuple[Text, ...]:
    """What is measured where no text is named: the windows that are held out."""
    return (Text(max(1, windows), length),)
