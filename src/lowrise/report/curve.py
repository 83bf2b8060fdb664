"""The training curve as a picture (LLM-Streamline, Fig 3: loss of the put-back network against steps)."""

from __future__ import annotations

from pathlib import Path

from lowrise.results import Curve


def draw_training_curve(curve: Curve, path: Path) -> None:
    """Train and held-out loss over optimiser steps, log scale, with the loss of putting nothing back as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve.train, strict=True), color="#9db8d9", linewidth=0.8, label="training")
    axes.plot(*zip(*curve.validation, strict=True), color="#1f4e8c", linewidth=2, label="held out")
    axes.axhline(curve.dropped, color="#b04a3a", linestyle="--", label="nothing put back")
    axes.plot(curve.best_step, curve.best, "o", color="#1f4e8c", label=f"kept: {curve.best:.4g}")
    axes.set_yscale("log")
    axes.set_xlabel("optimiser steps")
    axes.set_ylabel({"mse": "mean squared error", "relative": "relative squared error"}[curve.loss])
    axes.legend(frameon=False)
    figure.savefig(path)
