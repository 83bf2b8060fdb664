"""What a model does and weighs, dense and compressed side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from lowrise.calibration import Windows
from lowrise.calibration import prefix as prefix_module
from lowrise.errors import RecipeError
from lowrise.measure import perplexity as perplexity_module
from lowrise.measure import samples as samples_module
from lowrise.measure.cache import Cache, cache_folder
from lowrise.measure.identity import files_sha256, model_identity
from lowrise.measure.perplexity import perplexity
from lowrise.measure.retained import retained
from lowrise.measure.samples import continuations, side_by_side
from lowrise.measure.size import size
from lowrise.measure.speed import speed
from lowrise.measure.system import peak_memory, versions
from lowrise.measure.tasks import TaskSet
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel
from lowrise.pipeline.clock import Clock
from lowrise.pipeline.context import Run
from lowrise.pipeline.evaluating import Answers, answer_tasks, compare_answers, paired_scores, task_rows
from lowrise.pipeline.generating import Continuations, measure_generation
from lowrise.progress import Reporter
from lowrise.quality import collapsed_on, remedy
from lowrise.report import words
from lowrise.report.verdict import collapse_notice
from lowrise.results import MeasuredModel, Perplexity, Results, Retained
from lowrise.settings import Bos


@dataclass(frozen=True)
class Measured:
    """One model. summary: its part of results.json; answers: what comparing two models needs; samples: by prompt.

    written: behind the prompts of its generation.
    """

    summary: MeasuredModel
    tasks: TaskSet
    answers: Answers
    samples: dict[str, str]
    written: Continuations | None = None


def measure_model(
    run: Run,
    decoder: Decoder,
    opened: OpenModel,
    texts: dict[str, Windows],
    tasks: TaskSet,
    *,
    writes: bool = True,
    dense: Measured | None = None,
) -> Measured:
    """Size, perplexity, generation, tasks and samples of its text, these if it `writes`. dense: what it is compared to.

    What was measured before, of the same model on the same data, is not run again.
    """
    progress, clock, bos = run.progress, run.clock, run.recipe.bos
    cache = Cache(cache_folder(), progress)
    label = f"{opened.record.source}, {decoder.depth} layers"
    texts = {name: windows.first(run.recipe.windows) for name, windows in texts.items()}
    with clock.stage("measure"):
        identity = model_identity(decoder, opened.tokenizer) if texts or tasks or writes else {}
        values = _perplexities(decoder, identity, texts, cache, label, progress)
    summary = size(decoder, opened.save_dtype).but(perplexity=values)
    written: Continuations | None = None
    if texts:
        with clock.stage("generation"):
            before = dense.written if dense is not None else None
            how = (identity, texts, before, cache, label, progress)
            generated = measure_generation(decoder, opened.tokenizer, *how)
        if generated is not None:
            summary, written = summary.but(generation=generated[0]), generated[1]
    answers: Answers = {}
    if tasks:
        with clock.stage("tasks"):
            answers = answer_tasks(decoder, opened.tokenizer, identity, tasks, cache, label, progress, bos)
        summary = summary.but(tasks=task_rows(tasks, answers))
    samples: dict[str, str] = {}
    if writes:
        with clock.stage("samples"):
            samples = _kept_samples(decoder, opened.tokenizer, identity, bos, cache, label, progress)
    return Measured(summary, tasks, answers, samples, written)


def perplexities(run: Run, opened: OpenModel, texts: dict[str, Windows]) -> dict[str, Perplexity]:
    """By text; of the same model on the same data it is not run again."""
    decoder, cache = opened.decoder, Cache(cache_folder(), run.progress)
    label = f"{opened.record.source}, {decoder.depth} layers"
    texts = {name: windows.first(run.recipe.windows) for name, windows in texts.items()}
    with run.clock.stage("measure"):
        return _perplexities(decoder, model_identity(decoder, opened.tokenizer), texts, cache, label, run.progress)


def make_results(name: str, after: Measured, dense: Measured | None, clock: Clock) -> Results:
    used = {**versions(), **({"lm_eval": version("lm_eval")} if after.tasks else {})}
    between = {} if dense is None else _between(after, dense)
    about = {"memory": peak_memory(), "versions": used, "seconds": clock.total()}
    return Results(model=name, **after.summary.given(), **between, **about)


def _between(after: Measured, dense: Measured) -> dict[str, Any]:
    """The parts of results.json that take two models."""
    found: dict[str, Any] = {"dense": dense.summary}
    if after.samples:
        found["samples"] = side_by_side(dense.samples, after.samples)
    kept = Retained(
        layers=after.summary.layers / dense.summary.layers,
        parameters=after.summary.parameters / dense.summary.parameters,
        perplexity_ratio={
            text: value.value / dense.summary.perplexity[text].value for text, value in after.summary.perplexity.items()
        },
    )
    if after.tasks:
        found |= compare_answers(after.tasks, dense.answers, after.answers)
        kept = kept.but(**retained(paired_scores(after.tasks, dense.answers, after.answers)))
    return {**found, "retained": kept}


def refuse_collapse(results: Results, scores: Mapping[str, Any]) -> None:
    """For `--strict`. Raises RecipeError for a model that has collapsed."""
    healed = results.healing is not None
    found = collapsed_on(results.perplexity_ratio, scores, healed=healed)
    if found is not None:
        expected = "a model that keeps what the dense one knows"
        lost = f"perplexity {words.ratio(found[1])} the dense model's on {found[0]}"
        raise RecipeError("--strict", expected, lost, remedy(healed))


def tell_collapse(results: Results, scores: Mapping[str, Any], progress: Reporter) -> None:
    """The last word before results. Not among their `warnings`: pages and tables see it in the numbers."""
    found = collapse_notice(results.perplexity_ratio, scores, healed=results.healing is not None)
    if found is not None:
        progress.alarm(f"{found.headline.upper()}: {found.text}")


def with_speed(run: Run, results: Results, compressed: Decoder, dense: Decoder | None) -> Results:
    """Last of all, so that `memory` says what the rest took, before both models were held for this."""
    with run.clock.stage("speed"):
        timed = speed(compressed, dense, run.progress)
    return results.but(speed=timed, seconds=run.clock.total())


def _perplexities(
    decoder: Decoder,
    identity: dict[str, Any],
    texts: dict[str, Windows],
    cache: Cache,
    label: str,
    progress: Reporter,
) -> dict[str, Perplexity]:
    return {
        name: _kept_perplexity(decoder, identity, windows, cache, label, progress) for name, windows in texts.items()
    }


def _kept_perplexity(
    decoder: Decoder, identity: dict[str, Any], windows: Windows, cache: Cache, label: str, progress: Reporter
) -> Perplexity:
    key = {
        "what": "perplexity",
        "model": identity,
        "windows": windows.sha256(),
        "bos": windows.prefix,
        "code": files_sha256([str(perplexity_module.__file__)]),
    }
    kept: dict[str, Any] | None = cache.read(key)
    if kept is None:
        kept = perplexity(decoder, windows, progress)
        about = f"perplexity of {windows.source}, {len(windows)} windows of {windows.length}"
        cache.write(key, kept, {"what": about, "model": label})
    else:
        progress.say(f"perplexity of {windows.source}: kept from before")
    return Perplexity(**kept)


def _kept_samples(
    decoder: Decoder, tokenizer: Any, identity: dict[str, Any], bos: Bos, cache: Cache, label: str, progress: Reporter
) -> dict[str, str]:
    """Prompts, their number of tokens and the way of writing are code, so the code is in the key."""
    code = files_sha256([str(samples_module.__file__), str(prefix_module.__file__)])
    key = {"what": "samples", "model": identity, "bos": bos, "code": code}
    kept: dict[str, str] | None = cache.read(key)
    if kept is None:
        kept = continuations(decoder, tokenizer, bos)
        cache.write(key, kept, {"what": f"samples of text, {len(kept)} prompts", "model": label})
    else:
        progress.say("samples of text: kept from before")
    return kept
