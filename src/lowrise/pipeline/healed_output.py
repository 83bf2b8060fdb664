"""What the command `heal` writes: the shallow model with the weights that are kept, its numbers, page and card."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lowrise.calibration import Windows
from lowrise.files import output_folder, writing
from lowrise.heal.standing import Standing
from lowrise.measure.system import peak_memory
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.inherited import inherited_metadata
from lowrise.model.source import OpenModel
from lowrise.model.wrappers import hub_task
from lowrise.pipeline.context import Run
from lowrise.pipeline.engines import engine_verdicts
from lowrise.pipeline.healing_steps import Models, Ready, tell_if_not_kept
from lowrise.pipeline.measuring import Measured, make_results, measure_model, refuse_collapse, tell_collapse, with_speed
from lowrise.pipeline.opening import open_from
from lowrise.pipeline.records import write_records
from lowrise.recipe import Recipe
from lowrise.report.folder import Contents, read_folder
from lowrise.report.healing import healing_charts, sentences
from lowrise.report.page import build_report
from lowrise.report.static_charts import write_svg
from lowrise.results import Healing, Results


@dataclass(frozen=True)
class Cut:
    """The first half of a command that cuts and heals: `recipe`, of both halves, and the `command`."""

    recipe: Recipe
    command: Literal["run", "apply"]


def dense_of(recipe: Recipe, cut: Cut | None) -> Recipe:
    """How the dense model is opened: a modelling file that our own cut brings says nothing of what the user trusts."""
    assert recipe.heal is not None
    trusted = (recipe if cut is None else cut.recipe).trust_remote_code
    return recipe.model_copy(update={"model": recipe.heal.dense, "trust_remote_code": trusted})


def with_kept_weights(run: Run, done: Standing, ready: Ready) -> OpenModel:
    """The shallow model, opened anew, with the weights that are to be kept."""
    with run.clock.stage("open"):
        student = open_from(run.recipe.model_copy(update={"memory": None}), run)
    tell_if_not_kept(done, run.progress)
    if done.best:
        student.model.float()
        merge = ready(student)
        student.model.load_state_dict(done.best, strict=False)
        merge()
    return student


def write_healed(
    run: Run,
    student: OpenModel,
    models: Models,
    texts: dict[str, Windows],
    dense: Measured,
    healing: Healing,
    cut: Cut | None,
) -> Results:
    """dense: as it was measured. cut: what made the shallow model, in the same command."""
    before = _of_the_cut(models)
    out, clock, progress = run.place, run.clock, run.progress
    with output_folder(out, run.force) as folder:
        with clock.stage("write"):
            decoder = save_and_prove(student, folder, out=out, compute=models.compute)
        until_written = peak_memory("_until_written")
        after = measure_model(run, decoder, student, texts, dense.tasks, dense=dense)
        healing = healing.but(after=after.summary.perplexity)
        results = make_results(str(out), after, dense, clock).but(healing=healing)
        if run.recipe.strict:
            refuse_collapse(results, {})
        if run.recipe.speed:
            results = with_speed(run, results, decoder, open_from(dense_of(run.recipe, cut), run).decoder)
        results = results.but(
            memory=results.memory | until_written,
            command="heal" if cut is None else cut.command,
            base=inherited_metadata(student.place) | hub_task(decoder.model.config),
            engines=engine_verdicts(run, folder),
            training=[] if before is None else before.results.training,
            repairs=[] if before is None else before.results.repairs,
            warnings=progress.warnings,
            seconds=clock.total() if cut is None or before is None else _sum(before.results.seconds, clock.total()),
        )
        with writing(out):
            side = write_records(folder, models.plan, run.recipe if cut is None else cut.recipe, results)
            if before is not None:
                _take_along(student, side)
            write_svg(healing_charts(healing), side / "healing.svg")
            for name, text in build_report(folder).items():
                (folder / name).write_text(text, encoding="utf-8")
    for sentence in sentences(healing):
        progress.say(sentence)
    tell_collapse(results, {}, progress)
    return results


def _of_the_cut(models: Models) -> Contents | None:
    """What is known of how the shallow model was made, where lowrise made it of this dense one."""
    place = models.student.place
    if models.plan is None or place is None or not (place / "lowrise" / "results.json").is_file():
        return None  # of Model.save, for one, which writes a plan alone
    return read_folder(place)


def _take_along(student: OpenModel, side: Path) -> None:
    """Files that say how the cut was chosen and what was trained in it."""
    assert student.place is not None
    for pattern in ("observation.json", "training*.json", "training*.svg"):
        for file in sorted((student.place / "lowrise").glob(pattern)):
            shutil.copyfile(file, side / file.name)


def _sum(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {name: round(first.get(name, 0.0) + second.get(name, 0.0), 3) for name in {**first, **second}}
