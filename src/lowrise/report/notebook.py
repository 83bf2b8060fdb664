"""What a notebook shows: HTML that stands by itself, everything in it escaped. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowrise.plan import Plan
from lowrise.report import words
from lowrise.report.comparison import columns
from lowrise.report.document import render
from lowrise.report.healing import sentences
from lowrise.report.layer_diagram import LEFT, RIGHT, WIDTH, edit_sentence, layer_diagram
from lowrise.report.table import rows
from lowrise.report.verdict import collapse_notice
from lowrise.results import Comparison, Healing, Results


def plan_html(plan: Plan, facts: Mapping[str, str] | None = None, *, healed: bool = False) -> str:
    """The layers before and after, and what becomes of its layers. facts: more rows of the table, before the plan's.
    healed: whether a healing came after, of which the plan's losses say nothing.
    """
    held_out = plan.scores.get("held_out", {})
    ratio = None if healed else held_out.get("perplexity_ratio")
    share = words.percent(plan.parameters_after / plan.parameters_before)
    found = {
        **(facts or {"model": plan.model.source}),
        "preset": plan.preset,
        "layers": f"{plan.model.layers} to {plan.layers_after}",
        "parameters": f"{words.count(plan.parameters_after)} ({share})",
        "edits": " ".join(map(edit_sentence, plan.edits)) or "none",
        "perplexity, held-out calibration": "" if ratio is None else f"{words.ratio(ratio)} the dense model's",
    }
    return _html(_filled(found), diagram=layer_diagram(plan), notices=_notices({}, plan.scores, healed=healed))


def facts_html(facts: Mapping[str, str]) -> str:
    return _html(_filled(facts))


def results_html(results: Results) -> str:
    """The table of the command line."""
    seconds = ("seconds", "", words.count(results.seconds["total"]))
    notices = _notices(results.perplexity_ratio, {}, healed=results.healing is not None)
    return _html([*rows(results), seconds], head=("", "dense", "compressed"), notices=notices)


def healing_html(healing: Healing) -> str:
    """What it did, and the losses and perplexities of the start and of what is kept."""
    found = [(sentence, "", "") for sentence in sentences(healing)]
    for name, points in healing.held_out.items():
        kept = dict(points)[healing.kept]
        found.append((f"held-out loss, {name}", f"{points[0][1]:.4f}", f"{kept:.4f}"))
    for name, before in healing.before.items():
        after = healing.after.get(name)
        value = "" if after is None else words.decimal(after.value)
        found.append((f"perplexity, {name}", words.decimal(before.value), value))
    return _html(found, head=("", "start", "kept"))


def comparison_html(results: Comparison) -> str:
    """The table of the command line."""
    found = columns(results)
    return _html([*zip(*(cells for _, cells in found), strict=True)], head=[name for name, _ in found])


def _notices(ratios: Mapping[str, float], scores: Mapping[str, Any], *, healed: bool) -> list[Any]:
    found = collapse_notice(ratios, scores, healed=healed)
    return [] if found is None else [found]


def _filled(facts: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in facts.items() if value]


def _html(table: Sequence[Sequence[str]], **values: Any) -> str:
    shown = {"head": (), "diagram": None, "notices": [], "size": (WIDTH, LEFT, RIGHT), **values}
    return render("notebook.html", rows=table, **shown)
