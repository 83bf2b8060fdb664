"""Edit, heal, write: a plan becomes an output folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowrise.calibration import Windows
from lowrise.edit.context import Repaired
from lowrise.edit.fit import Fit
from lowrise.edit.maps import attach_networks
from lowrise.edit.merge import merge
from lowrise.edit.replace import make_trainee
from lowrise.edit.student import layers_left
from lowrise.files import output_folder, writing
from lowrise.heal.mse import train
from lowrise.heal.output_matrix import refit_output_matrix
from lowrise.heal.pairs import collect_pairs, ram_limit
from lowrise.measure.system import peak_memory
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.inherited import inherited_metadata
from lowrise.model.source import OpenModel
from lowrise.model.wrappers import hub_task
from lowrise.observe.stream import Observation
from lowrise.pipeline.context import Run
from lowrise.pipeline.engines import engine_verdicts
from lowrise.pipeline.measuring import Measured, make_results, measure_model, refuse_collapse, tell_collapse, with_speed
from lowrise.pipeline.opening import open_from
from lowrise.pipeline.records import write_records
from lowrise.pipeline.repairing import HeldOutLoss, held_out_windows, repair_model, tell_fits
from lowrise.plan import Drop, Merge, Plan
from lowrise.report.edits import describe, describe_repair
from lowrise.report.page import build_report
from lowrise.report.static_charts import write_svg
from lowrise.report.training_figure import training_chart
from lowrise.results import Curve, RepairFit, Results


def apply_and_write(
    run: Run,
    plan: Plan,
    opened: OpenModel,
    windows: Windows | None,
    texts: dict[str, Windows],
    dense: Measured,
    held_out_loss: HeldOutLoss | None,
    observation: Observation | None = None,
) -> Results:
    """The results, which lie in the folder too.

    held_out_loss: measures what the edits did to the loss, where the plan does not know it already.
    observation: what `run` saw of the layers before it planned, if it looked at them.
    """
    recipe, out, clock = run.recipe, run.place, run.clock
    compute = opened.decoder.dtype
    curves, fits = edit_model(run, plan, opened, windows)
    if held_out_loss is not None and plan.scores.get("held_out", {}).get("after") is None:
        plan = held_out_loss.noted(plan, opened.decoder)
    with output_folder(out, run.force) as folder:
        with clock.stage("write"):
            decoder = save_and_prove(opened, folder, out=out, compute=compute)
        until_written = peak_memory("_until_written")
        after = measure_model(run, decoder, opened, texts, dense.tasks, dense=dense)
        results = make_results(str(out), after, dense, clock)
        if recipe.strict:
            refuse_collapse(results, plan.scores)
        if recipe.speed:
            # the dense model in memory was edited and given up: its source is opened again
            results = with_speed(run, results, decoder, open_from(recipe, run).decoder)
        results = results.but(
            **came_of_edits(curves, fits),
            memory=results.memory | until_written,
            command="apply" if run.command == "apply" else "run",
            base=inherited_metadata(opened.place) | hub_task(decoder.model.config),
            engines=engine_verdicts(run, folder),
            warnings=run.progress.warnings,
            seconds=clock.total(),
        )
        with writing(out):
            _write_side_files(run, folder, plan, results, curves, observation)
            for name, text in build_report(folder).items():
                (folder / name).write_text(text, encoding="utf-8")
    tell_collapse(results, plan.scores, run.progress)
    return results


def came_of_edits(curves: list[Curve], fits: list[Fit]) -> dict[str, Any]:
    """`training` and `repairs` of results.json."""
    return {
        "training": [curve.summary for curve in curves],
        "repairs": [RepairFit(**asdict(fit)) for fit in fits],
    }


def edit_model(run: Run, plan: Plan, opened: OpenModel, windows: Windows | None) -> tuple[list[Curve], list[Fit]]:
    """All edits in place, the last span first, so that the layers below an edit are as they were when it was planned.

    What drops and merges need is repaired before all of them, while no layer is gone; networks that a repair puts on
    the stream come after them.
    """
    curves, decoder, progress, clock = [], opened.decoder, run.progress, run.clock
    left = layers_left(len(decoder), plan.edits)
    repaired = Repaired([]) if windows is None else repair_model(run, plan, opened, windows)
    fits = repaired.fits
    with decoder.several_cuts():
        for edit in sorted(plan.edits, key=lambda edit: edit.start, reverse=True):
            progress.say(describe(edit))
            assert windows is not None or edit.repair == "none"
            if isinstance(edit, Merge) and edit.repair != "none":
                decoder.drop(edit.start + 1, edit.stop)
                continue
            if isinstance(edit, Merge):
                merge(decoder, edit)
                continue
            if isinstance(edit, Drop):
                decoder.drop(edit.start, edit.stop)
                continue
            assert windows is not None
            with clock.stage("pairs"):
                limit = decoder.store.at_most(ram_limit(run.recipe.max_ram))
                pairs = collect_pairs(decoder, windows, edit.start, edit.stop, limit, progress)
            with clock.stage("training"):
                trainee = make_trainee(decoder, edit, plan.calibration.seed)
                kept = run.work.part(f"span-{edit.start}")
                curves.append(train(decoder, trainee, pairs, edit.training, plan.calibration.seed, progress, kept))
            if edit.repair != "none":
                with clock.stage("repair"):
                    fit = refit_output_matrix(decoder, trainee, edit, pairs, len(held_out_windows(run.recipe, windows)))
                tell_fits([fit], plan.model.layers, progress)
                fits.append(fit)
            del pairs
            trainee.install()
    attach_networks(decoder, left, repaired.networks)
    sentence = describe_repair(plan.edits, fits)
    if sentence is not None:
        progress.say(sentence)
    return curves, fits


def _write_side_files(
    run: Run,
    folder: Path,
    plan: Plan,
    results: Results,
    curves: list[Curve],
    observation: Observation | None,
) -> None:
    side = write_records(folder, plan, run.recipe, results)
    if observation is not None:
        (side / "observation.json").write_text(observation.data().to_json(indent=None) + "\n", encoding="utf-8")
    for index, curve in enumerate(curves):
        name = "training" if len(curves) == 1 else f"training-{index}"
        (side / f"{name}.json").write_text(curve.to_json(indent=None) + "\n", encoding="utf-8")
        write_svg([training_chart(curve)], side / f"{name}.svg")
