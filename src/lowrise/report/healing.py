"""What healing bought, as a chart, a picture and in words (LaCo, Fig 3: loss against tokens trained on)."""

from __future__ import annotations

from pathlib import Path

from lowrise.report import words
from lowrise.report.charts import COMPRESSED, DENSE, MARKERS, REMOVED, SERIES, Chart, canvas, finish, hover, line, rule
from lowrise.results import Healing

_SHOWN = 100  # points of the training loss: each the mean of so many steps that no more come to be


def healing_charts(healing: Healing) -> list[Chart]:
    """The held-out loss of every text, and the loss of training."""
    return [_held_out(healing), _training(healing)]


def _held_out(healing: Healing) -> Chart:
    made = canvas("tokens trained on", "held-out next-token loss")
    marks = []
    for number, (name, points) in enumerate(healing.held_out.items()):
        tokens, losses = map(list, zip(*points, strict=True))
        dash = "dashed" if name == healing.guard else "solid"
        marker = MARKERS[number % len(MARKERS)]
        marks.append(line(made, tokens, losses, name, SERIES[number % len(SERIES)], dash=dash, marker=marker))
    rule(made, healing.kept, REMOVED, upright=True)
    hover(made, marks, [("", "@label"), ("tokens", "@x{0,0}"), ("loss", "@y{0.0000}")])
    kept = f"those after {healing.kept:,} tokens" if healing.kept else "those of the start"
    sentence = f"Text that training never saw. The weights that are kept are {kept}, at the upright line."
    return finish(made, "healing", "Healing: text held out", sentence)


def _training(healing: Healing) -> Chart:
    made = canvas("tokens trained on", _loss(healing))
    tokens, losses = map(list, zip(*thinned(healing.train), strict=True))
    points = line(made, tokens, losses, "training", COMPRESSED if healing.train else DENSE, size=4)
    hover(made, [points], [("tokens", "@x{0,0}"), ("loss", "@y{0.0000}")], along_x=True)
    return finish(made, "healing-training", "Healing: training loss", f"The mean over every step: {_loss(healing)}.")


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means of as many neighbours as leave no more than a chart can show."""
    size = -(-len(points) // _SHOWN) or 1
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def _loss(healing: Healing) -> str:
    if healing.objective == "ce":
        return "next-token loss"
    kl = "KL(dense ‖ healed)"
    return kl if healing.objective == "kl" else f"{kl} and next-token loss"


def sentences(healing: Healing) -> list[str]:
    """What was done and what it bought."""
    what = {
        "all": "all weights",
        "lora": f"adapters of rank {healing.rank}",
        "network": "what was put in a span's place",
        "gaps": "the layers beside the gaps",
        "tail": "the head and the last layers",
    }[healing.trained]
    done = (
        f"Healed on {healing.tokens:,} tokens in {healing.steps:,} steps ({words.seconds(healing.seconds)}, "
        f"{words.rate(healing.tokens_per_second)} tokens a second): {what}, by {_loss(healing)}."
    )
    if healing.stopped is not None:
        done += f" {words.capitalize_first(healing.stopped)}."
    if not healing.kept:
        return [done, "Nothing of it is kept: no point was better on held-out text without being worse on the guard."]
    bought = [
        f"{words.decimal(before.value)} → {words.decimal(healing.after[name].value)} on {name}"
        for name, before in healing.before.items()
        if name in healing.after
    ]
    return [done, f"Perplexity: {', '.join(bought)}."] if bought else [done]


def draw_healing_curve(healing: Healing, path: Path) -> None:
    """Both charts as one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, points) in enumerate(healing.held_out.items()):
        style = "--" if name == healing.guard else "-"
        left.plot(*zip(*points, strict=True), style, marker="o", color=SERIES[number % len(SERIES)], label=name)
    left.axvline(healing.kept, color="#b04a3a", linestyle=":", label="kept")
    left.set_ylabel("held-out next-token loss")
    left.legend(frameon=False, fontsize=8)
    if healing.train:
        right.plot(*zip(*thinned(healing.train), strict=True), color="#1f4e8c")
    right.set_ylabel(_loss(healing))
    for axes in (left, right):
        axes.set_xlabel("tokens trained on")
    figure.savefig(path)
