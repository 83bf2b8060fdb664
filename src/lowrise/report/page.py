"""The page of one run and its model card, from the files in the output folder alone. No torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from lowrise.files import held, write_file
from lowrise.plan import Plan
from lowrise.quality import worst_text
from lowrise.recipe import presets
from lowrise.report import words
from lowrise.report.again import again
from lowrise.report.card import model_card
from lowrise.report.document import render_page
from lowrise.report.edits import repair_sentences
from lowrise.report.engines import fates
from lowrise.report.figures import charts_of
from lowrise.report.folder import Contents, read_folder
from lowrise.report.healed import build_healed, is_healed_alone
from lowrise.report.healing import sentences
from lowrise.report.layer_diagram import LEFT, RIGHT, WIDTH, edit_sentence, layer_diagram
from lowrise.report.scores import costs, kept, scores, tiles, timings
from lowrise.report.verdict import notices

_LEGEND = {
    "kept": "kept",
    "dropped": "dropped",
    "replaced": "taken out for a network",
    "network": "trained network",
    "merged": "merged",
}


def write_report(folder: Path) -> list[Path]:
    """Write the page and the card of a finished folder anew, once both are whole; the files.

    Raises OutputError or PlanError, one line, when the folder is not what `run` or `apply` wrote; nothing is changed.
    """
    if not is_healed_alone(folder):
        read_folder(folder)  # which refuses what is no output, before a lock is made beside it
    with held(folder):
        made = build_report(folder)
        for name, text in made.items():
            write_file(folder / name, text)
    return [folder / name for name in made]


def build_report(folder: Path) -> dict[str, str]:
    """The text of page and card, by their place in the folder."""
    if is_healed_alone(folder):
        return build_healed(folder)
    contents = read_folder(folder)
    return {"lowrise/report.html": report_page(contents), "README.md": model_card(contents)}


def report_page(contents: Contents) -> str:
    """The page as HTML; the same bytes for the same contents."""
    plan, results = contents.plan, contents.results
    charts, diagram = charts_of(contents), layer_diagram(plan)
    return render_page(
        "report.html",
        title=f"{plan.model_name}, {plan.model.layers} to {plan.layers_after} layers",
        charts=charts,
        plan=plan,
        plan_text=plan.to_json(),
        results=results,
        recipe=contents.recipe,
        lead=_lead(contents),
        notices=notices(contents),
        tiles=tiles(contents),
        diagram=diagram,
        size=(WIDTH, LEFT, RIGHT),
        legend=[(kind, word) for kind, word in _LEGEND.items() if kind in diagram.kinds],
        edits=[edit_sentence(edit) for edit in plan.edits],
        repair=repair_sentences(plan.edits, results.repairs),
        preset=presets().get(plan.preset),
        repaired_by=_repaired_by(plan),
        costs=costs(results),
        tasks=scores(contents),
        kept=kept,
        speed=timings(contents),
        why=[charts[name] for name in _WHY if name in charts],
        absent=None if contents.observation is not None else _why_absent(contents),
        training=[chart for name, chart in charts.items() if name.startswith("training")],
        healing=[chart for name, chart in charts.items() if name.startswith("healing")],
        healed=[] if results.healing is None else sentences(results.healing),
        command=_command(contents),
        facts=_facts(contents),
    )


_WHY = ("spans", "trials", "search", "bridges", "weights", "pairs", "layers", "norms")


def _lead(contents: Contents) -> str:
    plan, ratios = contents.plan, contents.results.perplexity_ratio
    gone = plan.model.layers - plan.layers_after
    share = words.percent(plan.parameters_after / plan.parameters_before)
    are = "is" if gone == 1 else "are"
    sentence = f"{gone} of {plan.model.layers} layers {are} gone and {share} of the parameters are left"
    if not ratios:
        return f"{sentence}."
    worst = worst_text(ratios)
    return f"{sentence}. Perplexity on “{worst}” is {words.ratio(ratios[worst])} that of the dense model."


def _why_absent(contents: Contents) -> str:
    if contents.results.command == "heal":
        return "This model was healed after its cut: the page of the cut says how its layers were chosen."
    if contents.results.command == "apply":
        return (
            "This model was made from a finished plan: its layers were not looked at here. lowrise observe does that."
        )
    return "This method does not look at what layers put out one by one. lowrise observe draws how alike they are."


def _repaired_by(plan: Plan) -> str:
    """The repair that was asked for beside a preset, which says nothing of it; empty where there is none."""
    repair = next((edit.repair for edit in plan.edits if edit.repair != "none"), "none")
    known = presets().get(plan.preset)
    own = "none" if known is None else known.settings.get("repair", "none")
    return "" if repair in (own, "none") else repair


def _command(contents: Contents) -> str:
    plan, results = contents.plan, contents.results
    if results.command == "apply":
        given = " --text THE-SAME-TEXT" if plan.is_fitted and plan.settings is None else ""
        return again(results, f"apply {shlex.quote(plan.model.source)}", "plan.json", given)
    return again(results, "heal --recipe" if results.command == "heal" else "run --recipe", "recipe.yaml")


def _facts(contents: Contents) -> list[tuple[str, str]]:
    plan, results = contents.plan, contents.results
    seen = plan.calibration
    facts = [
        ("base model", plan.model.source),
        ("revision", plan.model.revision or ""),
        ("family", plan.model.family),
        ("licence of the base", results.base.get("license_name") or results.base.get("license", "")),
        ("weights, sha256", plan.model.sha256),
        ("calibration", f"{seen.source}: {seen.samples:,} × {seen.length:,} tokens, {seen.tokens:,} in all"),
        ("windows begin with BOS", "yes" if seen.bos else ""),
        ("seed", str(seen.seed)),
        ("calibration, sha256", seen.sha256),
        ("engines", fates(results)),
        ("loads plainly", "yes" if plan.loads_plainly else "no, with the modelling file it brings"),
        ("time", ", ".join(f"{stage} {words.seconds(value)}" for stage, value in results.seconds.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in results.versions.items())),
    ]
    return [(name, value) for name, value in facts if value]
