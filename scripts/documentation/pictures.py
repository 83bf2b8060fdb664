"""Pictures of the documentation, drawn as SVG from docs/data by what draws those of output folders; with their CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lowrise.report.charts import COMPRESSED, DENSE, MARKERS, REMOVED, REPLACED, SERIES, Axis, Bars, Chart, Points, Rule
from lowrise.report.healing import healing_charts
from lowrise.report.static_charts import svg
from lowrise.results import Healing

WIDE = 4.6  # inches, so that text is 9 points and more on a telephone
SIZES = {4: REPLACED, 8: COMPRESSED, 12: REMOVED}  # layers gone, and the colour


def pictures(data: Path) -> Iterator[tuple[Path, str]]:
    """(file, content) of every picture, and of the CSV files that are not data themselves."""
    measured = yaml.safe_load((data / "results.yaml").read_text(encoding="utf-8"))
    place = data.parent / "pictures"
    yield data / "depth.csv", depth_csv(measured)
    yield place / "depth.svg", svg(depth_charts(measured), 1, (WIDE, 6.6))
    yield place / "which-layers.svg", which_layers(data / "which-layers.csv")
    healing = Healing.model_validate(json.loads((data / "healing.json").read_text(encoding="utf-8")))
    yield data / "healing.csv", healing_csv(healing)
    yield place / "healing.svg", svg(healing_charts(healing), 1, (WIDE, 6.4))
    yield place / "time.svg", time_picture(data / "time.csv")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return made.getvalue()


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# -- quality against depth ------------------------------------------------------------------------------------------


def depth_points(measured: dict[str, Any]) -> Iterator[tuple[str, str, int, float]]:
    """(text, preset, layers gone, multiple of the dense perplexity)."""
    depth = measured["tables"]["depth"]
    for place, column in enumerate(depth["columns"][2:], 2):
        for row in depth["rows"]:
            if row[0]:
                yield column["name"], row[1].strip("`"), row[0], row[place] / column["dense"]
    alone = measured["tables"]["presets"]  # other windows of the same texts, other presets
    known = {row[1] for row in depth["rows"]}
    for place, column in enumerate(alone["columns"][1:], 1):
        for row in alone["rows"]:
            if row[0] not in known and row[place] < 10:
                yield column["name"], row[0].replace("`", ""), 8, row[place]


def depth_csv(measured: dict[str, Any]) -> str:
    rows = [(text, preset, gone, f"{value:.3f}") for text, preset, gone, value in depth_points(measured)]
    return table(("text", "preset", "layers gone of 30", "perplexity, times dense"), rows)


def depth_charts(measured: dict[str, Any]) -> list[Chart]:
    points = list(depth_points(measured))
    lines = list(dict.fromkeys(preset for _, preset, _, _ in points if sum(p == preset for _, p, _, _ in points) > 2))
    peers = [preset for preset in dict.fromkeys(preset for _, preset, _, _ in points) if preset not in lines]
    lines = [*lines, *(preset for preset in peers if preset in ("refit-span", "block-influence"))]
    charts = []
    for text in dict.fromkeys(text for text, *_ in points):
        marks = []
        for number, preset in enumerate(lines):
            own = sorted((gone, value) for where, name, gone, value in points if (where, name) == (text, preset))
            x, y = [gone for gone, _ in own], [value for _, value in own]
            if len(own) > 1:
                x, y = [0, *x], [1.0, *y]
            marks.append(Points(label=preset, x=x, y=y, colour=SERIES[number], marker=MARKERS[number], hover=False))
        rest = [value for where, name, _, value in points if where == text and name not in lines]
        other = Points(
            label="other presets of peers", x=[8] * len(rest), y=rest, colour=DENSE, marker="dash", dash=None
        )
        charts.append(
            Chart(
                id=text.replace(" ", "-"), title=f"Perplexity on {text}", sentence="",
                x=Axis("layers gone of 30", low=-0.5, high=12.8, whole=True),
                y=Axis("times the dense model's", log=True), marks=[*marks, other], rules=[Rule(1.0, DENSE, "dense")],
            )
        )  # fmt: skip
    return charts


# -- which layers go ------------------------------------------------------------------------------------------------


def layers_of(text: str) -> list[int]:
    """`12-19 21` → the numbers."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def which_layers(file: Path) -> str:
    """One row a preset, in it one line a size: a mark on every layer that goes."""
    rows = read(file)
    names = tuple(reversed(dict.fromkeys(row["preset"] for row in rows)))
    marks = []
    for number, (size, colour) in enumerate(SIZES.items()):
        x, y = [], []
        for row in rows:
            if int(row["layers gone"]) == size:
                gone = layers_of(row["layers"])
                x += gone
                y += [row["preset"]] * len(gone)
        marks.append(
            Points(
                label=f"{size} gone", x=x, y=y, colour=colour, marker=MARKERS[1], size=6, dash=None,
                shift=0.27 * (1 - number), hover=False,
            )
        )  # fmt: skip
    chart = Chart(
        id="which-layers", title="Which layers go, by preset and size", sentence="",
        x=Axis("layer", low=-0.8, high=29.8, whole=True), y=Axis("", names=names), marks=marks,
    )  # fmt: skip
    return svg([chart], 1, (WIDE, 0.9 + 0.34 * len(names)))


# -- healing, and where time goes -----------------------------------------------------------------------------------


def healing_csv(healing: Healing) -> str:
    rows = [("training", tokens, f"{loss:.4f}") for tokens, loss in healing.train]
    rows += [(f"held out: {name}", *(tokens, f"{loss:.4f}")) for name, points in healing.held_out.items()
             for tokens, loss in points]  # fmt: skip
    return table(("curve", "tokens trained on", "loss"), rows)


def time_picture(file: Path) -> str:
    """One panel a command: the seconds of its stages."""
    rows = read(file)
    charts = []
    for command in dict.fromkeys(row["command"] for row in rows):
        own = [row for row in rows if row["command"] == command][::-1]
        names = [row["stage"] for row in own]
        charts.append(
            Chart(
                id=command, title=command, sentence="", x=Axis("seconds", low=0), y=Axis("", names=tuple(names)),
                marks=[Bars(label="seconds", names=names, values=[float(row["seconds"]) for row in own],
                            colour=COMPRESSED, hover=False)],
            )
        )  # fmt: skip
    return svg(charts, 1, (WIDE, 2.1 * len(charts)))
