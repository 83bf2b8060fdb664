"""The path, top to bottom: recipe, model, calibration, observe, select, plan, edit, heal, measure, save.

Each arrow is one function here. `run` is `plan` and `apply` in one process, with both models measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lowrise.calibration import Windows, calibration_windows, check_known, text_windows
from lowrise.calibration.sentences import Sentences, calibration_sentences
from lowrise.edit.count import parameters_after
from lowrise.edit.merge import merge
from lowrise.edit.replace import check_replacement, make_trainee
from lowrise.errors import RecipeError
from lowrise.files import check_output, output_folder, writing
from lowrise.heal.mse import TrainingCurve, train
from lowrise.heal.pairs import collect_pairs, ram_limit
from lowrise.measure.perplexity import perplexity
from lowrise.measure.size import size
from lowrise.measure.system import peak_memory, versions
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.decoder import Decoder
from lowrise.model.source import OpenModel, open_model
from lowrise.observe.analysis import analyse
from lowrise.observe.stream import observe
from lowrise.plan import Drop, Merge, Plan, Replace, check_plan_fits, network_edit
from lowrise.progress import Reporter
from lowrise.recipe import Recipe, layers_to_remove
from lowrise.report.card import describe, model_card
from lowrise.report.curve import draw_training_curve
from lowrise.report.observation import draw_observation
from lowrise.select.collapse import check_settings, collapse
from lowrise.select.cosine import SpanChoice, choose_span


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - began, 3)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": round(time.perf_counter() - self._began, 3)}


def run(recipe: Recipe, out: Path, force: bool, report: Reporter) -> dict[str, Any]:
    """Everything: plan, edit, heal, write, and both models measured on the same windows. Returns results.json."""
    check_output(out, force, recipe.model)
    clock = Clock()
    opened = _open_for_planning(recipe, clock)
    texts = _evaluation_texts(recipe, opened)
    windows = _windows_or_sentences(recipe, opened, report, clock)
    if not texts:
        texts = _calibration_texts(recipe, windows)
    plan = _make_plan(recipe, opened, windows, report, clock)
    dense = _measure(opened.decoder, opened, texts, recipe.windows, report, clock)
    trained_on = windows if isinstance(windows, Windows) else None
    return _apply_and_write(plan, opened, trained_on, texts, dense, recipe, out, force, report, clock)


def make_plan(recipe: Recipe, report: Reporter) -> Plan:
    """Choose what to do to which layers; nothing is changed."""
    clock = Clock()
    opened = _open_for_planning(recipe, clock)
    windows = _windows_or_sentences(recipe, opened, report, clock)
    return _make_plan(recipe, opened, windows, report, clock)


def apply(plan: Plan, recipe: Recipe, out: Path, force: bool, report: Reporter) -> dict[str, Any]:
    """Do what a plan says. Calibration tokens are made only if an edit is trained, as the plan recorded them."""
    check_output(out, force, recipe.model)
    clock = Clock()
    with clock.stage("open"):
        opened = _open(recipe)
    check_plan_fits(plan, opened.record)
    texts = _evaluation_texts(recipe, opened)
    windows = None
    if any(isinstance(edit, Replace) for edit in plan.edits):
        windows = _calibrate(recipe, opened, report, clock)
        windows.split(recipe.training.validation)
        if windows.sha256() != plan.calibration.sha256:
            report.warn(f"trained on {windows.source}, not on the tokens that the plan was made from")
    dense = _measure(opened.decoder, opened, texts, recipe.windows, report, clock)
    return _apply_and_write(plan, opened, windows, texts, dense, recipe, out, force, report, clock)


def measure(recipe: Recipe, dense_source: str | None, report: Reporter) -> dict[str, Any]:
    """Perplexity, layers, parameters and bytes of a model, and beside them those of a dense one if it is named."""
    clock = Clock()
    both = []
    for source in [recipe.model, dense_source] if dense_source else [recipe.model]:
        with clock.stage("open"):
            opened = _open(recipe.model_copy(update={"model": source}))
        texts = _evaluation_texts(recipe, opened)
        both.append(_measure(opened.decoder, opened, texts, recipe.windows, report, clock))
    return _results(str(recipe.model), both[0], both[1] if dense_source else None, clock)


def observe_model(recipe: Recipe, out: Path, force: bool, report: Reporter) -> dict[str, Any]:
    """How alike a model's layers are, in what they put out and in their weights: observation.json and pictures."""
    check_output(out, force, recipe.model)
    clock = Clock()
    with clock.stage("open"):
        opened = _open(recipe)
    windows = _calibrate(recipe, opened, report, clock)
    with clock.stage("observe"):
        found = analyse(opened.decoder, windows, report)
    about = {"model": opened.record.model_dump(), "calibration": windows.record().model_dump()}
    results = {**about, **found, "versions": versions(), "seconds": clock.total()}
    with output_folder(out, force) as folder, writing(out):
        (folder / "observation.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
        draw_observation(found, folder)
    return results


# -- stages -------------------------------------------------------------------------------------------------------


def _open(recipe: Recipe) -> OpenModel:
    if recipe.model is None:
        raise RecipeError("MODEL", "a hub id, a folder or a .gguf file", "none", "name one")
    return open_model(
        recipe.model,
        dtype=recipe.dtype,
        device=recipe.device,
        trust_remote_code=recipe.trust_remote_code,
        allow_pickle=recipe.allow_pickle,
    )


def _open_for_planning(recipe: Recipe, clock: Clock) -> OpenModel:
    """The model, with every wish that it cannot fulfil refused before anything is computed."""
    ram_limit(recipe.max_ram)
    with clock.stage("open"):
        opened = _open(recipe)
    if recipe.select == "collapse":
        check_settings(recipe.collapse, len(opened.decoder), _layers_to_collapse(recipe, opened.decoder))
        return opened
    span = layers_to_remove(recipe.remove, len(opened.decoder)) + recipe.put_back
    edit = network_edit(0, span, recipe.network, recipe.form, recipe.training)
    if isinstance(edit, Replace):
        check_replacement(opened.decoder, edit)
    return opened


def _layers_to_collapse(recipe: Recipe, decoder: Decoder) -> int | None:
    """None: as many as the threshold lets go."""
    return None if recipe.remove is None else layers_to_remove(recipe.remove, len(decoder))


def _windows_or_sentences(recipe: Recipe, opened: OpenModel, report: Reporter, clock: Clock) -> Windows | Sentences:
    """What the preset's criterion looks at."""
    if recipe.select != "collapse":
        return _calibrate(recipe, opened, report, clock)
    with clock.stage("calibration"):
        return calibration_sentences(
            opened.decoder,
            opened.tokenizer,
            text=recipe.text,
            dataset=recipe.dataset,
            samples=recipe.samples,
            words=recipe.collapse.words,
            length=recipe.length,
            seed=recipe.seed,
            report=report,
        )


def _calibrate(recipe: Recipe, opened: OpenModel, report: Reporter, clock: Clock) -> Windows:
    with clock.stage("calibration"):
        return calibration_windows(
            opened.decoder,
            opened.tokenizer,
            text=recipe.text,
            dataset=recipe.dataset,
            samples=recipe.samples,
            length=recipe.length,
            seed=recipe.seed,
            report=report,
        )


def _evaluation_texts(recipe: Recipe, opened: OpenModel) -> dict[str, Windows]:
    """The texts that perplexity is measured on, by file name."""
    length = min(recipe.length, opened.decoder.max_length)
    texts: dict[str, Windows] = {}
    for path in recipe.eval_text:
        windows = text_windows(opened.tokenizer, path, length)
        check_known(windows.ids, opened.decoder, path)
        texts[path if windows.source in texts else windows.source] = windows
    return texts


def _calibration_texts(recipe: Recipe, windows: Windows | Sentences) -> dict[str, Windows]:
    """What is measured where no evaluation text is named: what training holds out, or the sentences."""
    if isinstance(windows, Sentences):
        return {"calibration sentences": windows.joined(windows.length)}
    return {"calibration, held out": windows.split(recipe.training.validation)[1]}


def _make_plan(recipe: Recipe, opened: OpenModel, windows: Windows | Sentences, report: Reporter, clock: Clock) -> Plan:
    if isinstance(windows, Sentences):
        return _collapse_plan(recipe, opened, windows, report, clock)
    if recipe.put_back:
        windows.split(recipe.training.validation)  # refuses, before anything is computed, what training cannot split
    decoder = opened.decoder
    n = layers_to_remove(recipe.remove, len(decoder)) + recipe.put_back
    with clock.stage("observe"):
        observation = observe(decoder, windows, report)
    choice = choose_span(observation, n, recipe.avoid_massive)
    _tell_choice(choice, n, report)
    edit = network_edit(choice.start, choice.stop, recipe.network, recipe.form, recipe.training)
    return Plan(
        model=opened.record,
        preset=recipe.preset,
        calibration=windows.record(),
        edits=[edit],
        scores=choice.scores,
        layers_after=len(decoder) - n + recipe.put_back,
        parameters_before=decoder.parameters(),
        parameters_after=parameters_after(decoder, [edit]),
        loads_plainly=recipe.loads_plainly,
    )


def _collapse_plan(recipe: Recipe, opened: OpenModel, sentences: Sentences, report: Reporter, clock: Clock) -> Plan:
    decoder = opened.decoder
    with clock.stage("search"):
        search = collapse(decoder, sentences, recipe.collapse, _layers_to_collapse(recipe, decoder), report)
    search.tell(report, recipe.strict)
    return Plan(
        model=opened.record,
        preset=recipe.preset,
        calibration=sentences.record(),
        edits=[*search.edits],
        scores=search.scores(recipe.collapse),
        layers_after=len(decoder) - sum(edit.stop - edit.start - 1 for edit in search.edits),
        parameters_before=decoder.parameters(),
        parameters_after=parameters_after(decoder, search.edits),
    )


def _tell_choice(choice: SpanChoice, n: int, report: Reporter) -> None:
    report.say(f"chosen: layers [{choice.start}, {choice.stop})")
    inside = [writer for writer in choice.writers if choice.start <= writer < choice.stop]
    if inside:
        other = choice.without_writers
        way_out = "every span of this length holds one"
        if other is not None:
            way_out = f"the best span without one is [{other}, {other + n}): --avoid-massive takes it"
        report.warn(
            f"the span [{choice.start}, {choice.stop}) of the highest cosine holds layer {inside[0]}, which writes "
            f"massive activations, so that cosine says little of it; {way_out}"
        )


def _apply_and_write(
    plan: Plan,
    opened: OpenModel,
    windows: Windows | None,
    texts: dict[str, Windows],
    dense: dict[str, Any],
    recipe: Recipe,
    out: Path,
    force: bool,
    report: Reporter,
    clock: Clock,
) -> dict[str, Any]:
    compute = opened.decoder.dtype
    curves = _edit(plan, opened.decoder, windows, recipe, report, clock)
    with output_folder(out, force) as folder:
        with clock.stage("write"):
            decoder = save_and_prove(
                opened.decoder, opened.tokenizer, folder, out=out, dtype=opened.save_dtype, compute=compute
            )
        after = _measure(decoder, opened, texts, recipe.windows, report, clock)
        results = _results(str(out), after, dense, clock)
        results["training"] = [
            {key: value for key, value in curve.data().items() if key not in ("train", "validation")}
            for curve in curves
        ]
        with writing(out):
            _write_side_files(folder, plan, recipe, results, curves, report)
    return results


def _edit(
    plan: Plan, decoder: Decoder, windows: Windows | None, recipe: Recipe, report: Reporter, clock: Clock
) -> list[TrainingCurve]:
    """All edits in place, the last span first, so that the layers below an edit are still the dense model's."""
    curves = []
    for edit in sorted(plan.edits, key=lambda edit: edit.start, reverse=True):
        report.say(describe(edit.model_dump()))
        if isinstance(edit, Merge):
            merge(decoder, edit)
            continue
        if isinstance(edit, Drop):
            decoder.drop(edit.start, edit.stop)
            continue
        assert windows is not None
        with clock.stage("pairs"):
            pairs = collect_pairs(decoder, windows, edit.start, edit.stop, ram_limit(recipe.max_ram), report)
        with clock.stage("training"):
            trainee = make_trainee(decoder, edit, plan.calibration.seed)
            curves.append(train(decoder, trainee, pairs, edit.training, plan.calibration.seed, report))
            del pairs
            trainee.install()
    return curves


def _measure(
    decoder: Decoder,
    opened: OpenModel,
    texts: dict[str, Windows],
    limit: int | None,
    report: Reporter,
    clock: Clock,
) -> dict[str, Any]:
    with clock.stage("measure"):
        values = {name: perplexity(decoder, windows, limit, report) for name, windows in texts.items()}
    return {**size(decoder, opened.save_dtype), "perplexity": values}


def _results(name: str, after: dict[str, Any], dense: dict[str, Any] | None, clock: Clock) -> dict[str, Any]:
    results: dict[str, Any] = {"model": name, **after}
    if dense is not None:
        ratios = {
            text: value["value"] / dense["perplexity"][text]["value"] for text, value in after["perplexity"].items()
        }
        results["dense"] = dense
        results["retained"] = {
            "layers": after["layers"] / dense["layers"],
            "parameters": after["parameters"] / dense["parameters"],
            "perplexity_ratio": ratios,
        }
    return {**results, "memory": peak_memory(), "versions": versions(), "seconds": clock.total()}


def _write_side_files(
    folder: Path, plan: Plan, recipe: Recipe, results: dict[str, Any], curves: list[TrainingCurve], report: Reporter
) -> None:
    side = folder / "lowrise"
    side.mkdir()
    (side / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    (side / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(), sort_keys=False), encoding="utf-8")
    (side / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(plan, results, report.warnings), encoding="utf-8")
    for index, curve in enumerate(curves):
        name = "training" if len(curves) == 1 else f"training-{index}"
        (side / f"{name}.json").write_text(json.dumps(curve.data()) + "\n", encoding="utf-8")
        draw_training_curve(curve.data(), side / f"{name}.svg")
