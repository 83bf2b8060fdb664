"""The chart of a training (LLM-Streamline, Fig 3: loss of the put-back network against steps)."""

from __future__ import annotations

from lowrise.report import words
from lowrise.report.charts import COMPRESSED, DENSE, REMOVED, Axis, Chart, Points, Rule
from lowrise.results import Curve

_LOSSES = {"mse": "mean squared error", "relative": "relative squared error"}


def training_chart(curve: Curve, index: int = 0) -> Chart:
    """Train and held-out loss over optimiser steps, with the loss of putting nothing back. index: of several."""
    (steps, losses), (tried, held_out) = (map(list, zip(*one, strict=True)) for one in (curve.train, curve.validation))
    kept = Points(
        label="kept", x=[curve.best_step], y=[curve.best], colour=COMPRESSED, marker="diamond", size=14, dash=None,
        hover=False,
    )  # fmt: skip
    return Chart(
        id=f"training-{index}",
        title="Training what was put back",
        sentence=f"The dashed line is the loss of putting nothing back ({words.four_digits(curve.dropped)}); kept are "
        f"the weights of step {curve.best_step:,} ({words.four_digits(curve.best)}).",
        x=Axis("optimiser steps"),
        y=Axis(_LOSSES[curve.loss], log=True),
        marks=[
            Points(label="training", x=steps, y=losses, colour=DENSE, marker=None, width=1, alpha=0.7, hover=False),
            Points(label="held out", x=tried, y=held_out, colour=COMPRESSED),
            kept,
        ],
        rules=[Rule(curve.dropped, REMOVED, "nothing put back")],
        hover=[("step", "@x"), ("held-out loss", "@y{0.0000}")],
        along_x=True,
    )
