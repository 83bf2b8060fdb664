"""Page and card of a model that was healed, and cut by whoever: there is no plan that says where."""

from __future__ import annotations

from pathlib import Path

import yaml

from lowrise.errors import OutputError
from lowrise.reading import kind_of
from lowrise.report import words
from lowrise.report.again import again
from lowrise.report.card import cost_table, how_to_open
from lowrise.report.document import render_page
from lowrise.report.folder import read_healed
from lowrise.report.healing import healing_charts, sentences
from lowrise.report.scores import costs
from lowrise.report.verdict import Notice, collapse_notice, misread_notices
from lowrise.results import Healing, Results


def is_healed_alone(folder: Path) -> bool:
    """Whether `heal` wrote this folder, without a plan of the cut. Raises OutputError for a path that cannot be."""
    if kind_of(folder / "lowrise", OutputError, "an output folder of lowrise", "check the path") != "folder":
        return False
    side = folder / "lowrise"
    return not (side / "plan.json").exists() and (side / "healing.svg").exists()


def build_healed(folder: Path) -> dict[str, str]:
    """The text of page and card, by their place in the folder. Raises OutputError for what `heal` did not write."""
    results, recipe = read_healed(folder)
    healing = results.healing
    if healing is None or results.dense is None:
        raise OutputError(folder, "results of `lowrise heal`", "others", "heal anew")
    title = f"{Path(results.model or '').name}, {results.layers} of {results.dense.layers} layers, healed"
    return {"lowrise/report.html": _page(results, healing, title, recipe), "README.md": _card(results, healing, title)}


def _page(results: Results, healing: Healing, title: str, recipe: str) -> str:
    charts = {chart.id: chart for chart in healing_charts(healing)}
    return render_page(
        "healed.html",
        title=title,
        charts=charts,
        results=results,
        notices=_notices(results),
        sentences=sentences(healing),
        healing=list(charts.values()),
        costs=costs(results),
        command=again(results, "heal --recipe", "recipe.yaml"),
        recipe=recipe,
    )


def _notices(results: Results) -> list[Notice]:
    collapse = collapse_notice(results.perplexity_ratio, {}, healed=True)
    told = [Notice("warning", "Warning", words.capitalize_first(text)) for text in results.warnings]
    return [*([] if collapse is None else [collapse]), *told, *misread_notices(results)]


def _card(results: Results, healing: Healing, title: str) -> str:
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lowrise", "depth-pruning", "healed"],
        **results.base,
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {words.markdown(title)}",
        *(f"**{one.headline}.** {words.markdown(one.text)}" for one in _notices(results)),
        words.markdown(" ".join(sentences(healing))),
        cost_table(results),
        how_to_open(results.base),
        "`lowrise/report.html` shows the curves; beside it lie the recipe and every number.",
    ]
    return "\n\n".join(parts) + "\n"
