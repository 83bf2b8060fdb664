"""What `lowrise observe` found, as pictures. Layers are 0-based; h[l] enters layer l."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowrise.results import Seen


def draw_observation(found: Seen, folder: Path) -> list[str]:
    """Four SVG files in `folder`; their names. found: what `observe.analysis.analyse` returns."""
    from matplotlib.figure import Figure

    pictures: dict[str, Callable[[Any, Seen], None]] = {
        "input-output.svg": _input_output,
        "pairs.svg": _pairs,
        "matrices.svg": _matrices,
        "norms.svg": _norms,
    }
    for name, draw in pictures.items():
        figure = Figure(figsize=(7.5, 6.5) if name == "pairs.svg" else (7.5, 4.2), layout="constrained")
        draw(figure, found)
        figure.savefig(folder / name)
    return list(pictures)


def _input_output(figure: Any, found: Seen) -> None:
    axes = figure.subplots()
    axes.plot(found.input_output, "o-", color="#1f4e8c", markersize=4, label="a token at a time")
    axes.plot(found.flattened, "s--", color="#b04a3a", markersize=3, label="a window as one vector")
    for index, writer in enumerate(found.norms.writers):
        label = "writes massive activations" if index == 0 else None
        axes.axvline(writer, color="#999999", linestyle=":", label=label)
    axes.set_xlabel("layer")
    axes.set_ylabel("cosine of its input and output")
    axes.legend(frameon=False)


def _pairs(figure: Any, found: Seen) -> None:
    axes = figure.subplots()
    image = axes.imshow(found.pairs, vmin=0, vmax=1, cmap="viridis", origin="lower")
    axes.set_xlabel("state h[j]")
    axes.set_ylabel("state h[i]")
    figure.colorbar(image, label="cosine, mean over tokens; below 0 drawn as 0", shrink=0.85)


def _matrices(figure: Any, found: Seen) -> None:
    left, right = figure.subplots(1, 2, sharex=True)
    for name, rows in found.matrices.items():
        for axes, values in ((left, rows.similarity), (right, rows.cosine)):
            axes.plot(
                [float("nan") if value is None else value for value in values],
                linewidth=1.2,
                label=name.removesuffix(".weight"),
            )
    left.set_ylabel("L2 similarity, 1 - ‖A - B‖/(‖A‖ + ‖B‖)")
    right.set_ylabel("cosine ⟨A, B⟩/(‖A‖‖B‖)")
    for axes in (left, right):
        axes.set_xlabel("layer l, against l + 1")
    right.legend(frameon=False, fontsize="x-small")


def _norms(figure: Any, found: Seen) -> None:
    axes = figure.subplots()
    norms = found.norms
    axes.plot(norms.largest, "o-", color="#b04a3a", markersize=4, label="largest token")
    axes.plot(norms.median, "o-", color="#1f4e8c", markersize=4, label="median token")
    axes.set_yscale("log")
    axes.set_xlabel("state h[l]")
    axes.set_ylabel("norm")
    axes.legend(frameon=False)
