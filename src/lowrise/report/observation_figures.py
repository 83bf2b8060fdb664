"""The charts of what was seen of the layers before anything was changed (observation.json).

edits: what was done then, to be marked; none for `lowrise observe`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowrise.plan import Drop, Edit, Merge
from lowrise.report.charts import (
    COMPRESSED,
    DENSE,
    MERGED,
    REMOVED,
    REPLACED,
    SERIES,
    Axis,
    Band,
    Chart,
    HeatMap,
    Points,
    Rule,
)
from lowrise.results import Observation, Seen


def layers_chart(seen: Observation | Seen, edits: Sequence[Edit] = ()) -> Chart:
    values = seen.input_output
    low, high = _without_outliers(values)
    sentence = "The nearer to 1, the less a layer changes what passes through it. The band marks what was taken out."
    if seen.norms.writers:
        sentence += " A dashed line marks a layer that writes massive activations."
    below = [f"layer {layer} ({value:.2f})" for layer, value in enumerate(values) if value < low]
    if below:
        sentence += f" Below the picture: {', '.join(below)}."
    return Chart(
        id="layers",
        title="How alike is what enters and leaves a layer?",
        sentence=sentence,
        x=Axis("layer", low=-0.7, high=len(values) - 0.3, whole=True),
        y=Axis("cosine of input and output", low=low, high=high),
        marks=[Points(label="one layer", x=range(len(values)), y=values, colour=COMPRESSED)],
        rules=[Rule(one, DENSE, "writes massive activations", upright=True) for one in seen.norms.writers],
        bands=_bands(edits),
        hover=[("layer", "@x"), ("cosine", "@y{0.0000}")],
        along_x=True,
        height=220,
    )


def _without_outliers(values: list[float]) -> tuple[float, float]:
    """What an axis shows so that one odd layer does not flatten all others: from five interquartile ranges down on."""
    ordered = sorted(filter(math.isfinite, values)) or [0.0]  # a state of zeros has no cosine
    quartile, upper = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    low = min(value for value in ordered if value >= quartile - 5 * (upper - quartile))
    margin = max(0.06 * (ordered[-1] - low), 1e-4)
    return low - margin, ordered[-1] + margin


def pairs_chart(seen: Observation | Seen, edits: Sequence[Edit] = ()) -> Chart:
    states = len(seen.pairs)
    lowest = min((value for row in seen.pairs for value in row if math.isfinite(value)), default=0.0)
    cosines = HeatMap(
        label="cosine, mean over tokens; below 0 drawn as 0",
        values=seen.pairs,
        low=max(0.0, math.floor(10 * lowest) / 10),
        high=1.0,
        squares=[(edit.start, edit.stop) for edit in edits],
    )
    return Chart(
        id="pairs",
        title="How alike are any two places?",
        sentence="Bright blocks are stretches of the model that change little. h[l] is what enters layer l; the white "
        "square is what was taken out.",
        x=Axis("state h[j]", low=-0.5, high=states - 0.5, whole=True),
        y=Axis("state h[i]", low=-0.5, high=states - 0.5),
        marks=[cosines],
        hover=[("states", "h[$y{0}], h[$x{0}]"), ("cosine", "@image{0.0000}")],
        height=None,
        tall=True,
    )


def norms_chart(seen: Observation | Seen, edits: Sequence[Edit] = ()) -> Chart:
    norms = seen.norms
    states = range(len(norms.largest))
    sentence = "No layer of this model writes massive activations on this text."
    if norms.writers:
        layers = " and ".join(map(str, norms.writers))
        sentence = (
            "A few tokens have norms far above the others'. They are written in layer "
            f"{layers}; nothing small can replace a span that holds it."
        )
    return Chart(
        id="norms",
        title="Massive activations",
        sentence=sentence,
        x=Axis("state h[l]", low=-0.7, high=len(states) - 0.3, whole=True),
        y=Axis("norm of a token", log=True),
        marks=[
            Points(label="largest token", x=states, y=norms.largest, colour=REMOVED, marker="square"),
            Points(label="median token", x=states, y=norms.median, colour=COMPRESSED),
        ],
        bands=_bands(edits),
        hover=[("", "@label"), ("state", "h[@x]"), ("norm", "@y{0,0.0}")],
        along_x=True,
        height=220,
    )


def matrices_charts(seen: Seen) -> list[Chart]:
    """Every matrix of a layer against that of the next: two measures of how alike they are."""
    measures = {
        "similarity": ("Similarity of matrices", "1 - ‖A - B‖/(‖A‖ + ‖B‖)"),
        "cosine": ("Cosine of matrices", "⟨A, B⟩/(‖A‖‖B‖)"),
    }
    return [
        Chart(
            id=f"matrices-{which}",
            title=title,
            sentence="Each matrix of a layer against that of the layer above.",
            x=Axis("layer l, against l + 1", whole=True),
            y=Axis(axis),
            marks=[
                Points(
                    label=name.removesuffix(".weight"),
                    x=range(len(rows.cosine)),
                    y=[math.nan if value is None else value for value in getattr(rows, which)],
                    colour=SERIES[index % len(SERIES)],
                    marker=None,
                )
                for index, (name, rows) in enumerate(seen.matrices.items())
            ],
            hover=[("", "@label"), ("layer", "@x"), (which, "@y{0.0000}")],
        )
        for which, (title, axis) in measures.items()
    ]


def _bands(edits: Sequence[Edit]) -> list[Band]:
    def colour(edit: Edit) -> str:
        return REMOVED if isinstance(edit, Drop) else MERGED if isinstance(edit, Merge) else REPLACED

    return [Band(edit.start - 0.5, edit.stop - 0.5, colour(edit)) for edit in edits]
