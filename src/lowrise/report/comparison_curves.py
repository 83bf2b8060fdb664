"""A comparison as pictures: quality against depth removed (LLM-Streamline, Fig 4; LaCo) and against time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = ("#1f4e8c", "#b04a3a", "#2f7d4f", "#8a5fa8", "#c08a1e", "#3a8fa3", "#7a7a7a", "#c05a8a")
_MARKERS = "osD^vPX*"


def draw_comparison(results: dict[str, Any], folder: Path) -> list[str]:
    """depth.svg and time.svg in `folder`, from what compare.json holds; their names. Nothing without a finished row."""
    from matplotlib.figure import Figure

    rows = [row for row in results["rows"] if row["status"] == "done"]
    panels = quality_panels(results)
    if not rows or not panels:
        return []
    for name, draw in (("depth.svg", _against_depth), ("time.svg", _against_time)):
        figure = Figure(figsize=(4.6 * len(panels) + 0.4, 4.4), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes, panel, rows)
            axes.set_title(panel["title"], fontsize="medium")
            if panel["logarithmic"]:
                axes.set_yscale("log")
            axes.axhline(panel["dense"], color="#999999", linestyle=":", linewidth=1, label="dense")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
        figure.savefig(folder / name)
    return ["depth.svg", "time.svg"]


def quality_panels(results: dict[str, Any]) -> list[dict[str, Any]]:
    """What is drawn, one panel a measure: its title, scale, the dense model's value, and the value by row name."""
    rows = [row for row in results["rows"] if row["status"] == "done"]
    texts = list(dict.fromkeys(name for row in rows for name in row["perplexity_ratio"]))
    found = [
        _panel(f"perplexity / dense, {name}", {row["name"]: row["perplexity_ratio"].get(name) for row in rows}, True)
        for name in texts
    ]
    found.append(_panel("accuracy retained", {row["name"]: (row["retained"] or {}).get("ratio") for row in rows}))
    found.append(_panel("stability", {row["name"]: row["stability"] for row in rows}))
    return [panel for panel in found if panel["values"]]


def _panel(title: str, values: dict[str, float | None], logarithmic: bool = False) -> dict[str, Any]:
    known = {name: value for name, value in values.items() if value is not None}
    return {"title": title, "values": known, "logarithmic": logarithmic, "dense": 1.0}


def _against_depth(axes: Any, panel: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One line a preset, from the dense model at 0%."""
    for index, preset in enumerate(dict.fromkeys(row["preset"] for row in rows)):
        mine = [row for row in rows if row["preset"] == preset and row["name"] in panel["values"]]
        mine.sort(key=lambda row: row["removed"])
        points = [(0.0, panel["dense"]), *((100 * row["removed_share"], panel["values"][row["name"]]) for row in mine)]
        axes.plot(*zip(*points, strict=True), marker=_marker(index), color=_colour(index), label=preset, markersize=5)
    axes.set_xlabel("layers removed, %")


def _against_time(axes: Any, panel: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One point a row, beside it the layers removed."""
    for index, preset in enumerate(dict.fromkeys(row["preset"] for row in rows)):
        mine = [row for row in rows if row["preset"] == preset and row["name"] in panel["values"]]
        points = [(row["seconds_to_compress"], panel["values"][row["name"]]) for row in mine]
        seconds, values = [point[0] for point in points], [point[1] for point in points]
        axes.scatter(seconds, values, marker=_marker(index), color=_colour(index), label=preset, s=30)
        for row, point in zip(mine, points, strict=True):
            axes.annotate(f"{row['removed']}", point, xytext=(5, 3), textcoords="offset points", fontsize="small")
    axes.set_xscale("log")
    axes.set_xlabel("seconds to compress; beside it, layers removed")


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]
