"""The charts of the searches of refit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lowrise.errors import PlanError
from lowrise.plan import Plan
from lowrise.report.charts import Chart
from lowrise.report.figures import scores_chart
from lowrise.report.page_charts import chart_item
from lowrise.scores import scores_of


def plan(span: int, scores: dict[str, Any]) -> Plan:
    """Of six layers, [2, 2 + span) gone."""
    return Plan.model_validate(
        {
            "model": {"source": "m", "revision": None, "family": "llama", "layers": 6, "sha256": "0" * 64},
            "preset": "refit-span",
            "calibration": {"source": "t", "tokens": 64, "sha256": "0" * 64, "seed": 0, "samples": 2, "length": 32},
            "edits": [{"start": 2, "stop": 2 + span, "kind": "refit"}],
            "scores": scores,
            "layers_after": 6 - span,
            "parameters_before": 6,
            "parameters_after": 5,
        }
    )


def chart_of(plan: Plan) -> Chart | None:
    return scores_chart(plan, scores_of(plan))


def sources(item: Any) -> Iterator[dict[str, Any]]:
    """The columns of every source of a figure's JSON."""
    if isinstance(item, dict) and item.get("name") == "ColumnDataSource":
        yield dict(item["attributes"]["data"]["entries"])
    for part in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
        yield from sources(part)


@pytest.mark.parametrize(
    ("span", "bridged", "says"),
    [
        (2, True, "Each without 2 layers, what the layer before writes solved anew;"),
        (1, True, "Each without one layer, what the layer before writes solved anew;"),
        (2, False, "Each without 2 layers, nothing repaired;"),
    ],
)
def test_it_marks_what_went_and_says_what_a_trial_was(span: int, bridged: bool, says: str) -> None:
    divergences = [None, 0.4, 0.3, 0.5, 0.6]
    scores = {"criterion": "repaired-span", "span": span, "bridged": bridged, "divergences": divergences}
    chart = chart_of(plan(span, scores))
    assert chart is not None
    assert chart.sentence.startswith(says)
    columns = [(one["x"], one["y"]) for one in sources(chart_item(chart))]
    assert ([1, 2, 3, 4], divergences[1:]) in columns
    assert ([2], [0.3]) in columns


@pytest.mark.parametrize(
    "scores",
    [
        {},
        {"criterion": "repaired-span", "span": 2, "bridged": True, "divergences": [None, None]},
        {"criterion": "one of a plug-in", "span": 2, "bridged": True, "divergences": ["a", None]},
        {"criterion": 3, "rounds": []},
        {"criterion": "taylor", "layers": [2], "importance": [0.0, None]},
    ],
)
def test_it_is_left_out_where_nothing_can_be_drawn(scores: dict[str, Any]) -> None:
    assert chart_of(plan(2, scores)) is None


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ({"criterion": "repaired-span", "span": -2, "bridged": True, "divergences": [None, 0.1]}, "scores.span"),
        ({"criterion": "repaired-span", "span": 2, "bridged": True, "divergences": ["a"]}, "scores.divergences.0"),
        ({"criterion": "cosine", "span": 2, "cosine": [0.1], "published_start": 1}, "none of the spans"),
        (
            {
                "criterion": "greedy-perplexity",
                "layers": [0],
                "loss": {"dense": 1, "after": 2},
                "rounds": [{"removed": 0, "losses": [None, 1.0]}],
            },
            "was not tried",
        ),
        ({"held_out": {"tokens": "many"}}, "scores.held_out.tokens"),
    ],
)
def test_scores_that_their_criterion_does_not_find_are_refused(scores: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        scores_of(plan(2, scores))


def test_a_criterion_from_outside_keeps_what_it_says() -> None:
    found = scores_of(plan(2, {"criterion": "one of a plug-in", "weights": [1, 2]}))
    assert found.model_dump(exclude_unset=True) == {"criterion": "one of a plug-in", "weights": [1, 2]}


@pytest.mark.parametrize("finalists", [[], [([[1, 2], [3, 4]], 0.25), ([[2, 4]], 0.125)]])
def test_rounds_and_what_was_repaired_in_the_end_are_told_apart(finalists: list[tuple[list[list[int]], float]]) -> None:
    tried = [None, 0.1, 0.3, 0.2, None, None]
    scores = {
        "criterion": "repaired",
        "layers": [1, 3],
        "loss": {"dense": 1.0, "after": 1.5},
        "rounds": [{"removed": layer, "losses": tried, "divergences": tried} for layer in (1, 3)],
        "finalists": [{"spans": spans, "loss": 1.0, "divergence": missed} for spans, missed in finalists],
    }
    chart = chart_of(plan(2, scores))
    assert chart is not None
    said = (
        "In the end whole choices were repaired: without layers 2–3 held-out divergence is 0.1250, "
        "without layer 1, layer 3 it is 0.2500; the lowest was taken."
    )
    assert chart.sentence.endswith(said if finalists else "left.")
    labels = [label for label, _colour, _shape in chart.keys]
    assert ("lowest of its round" in labels) == bool(finalists)
    assert ("taken out" in labels) != bool(finalists)
