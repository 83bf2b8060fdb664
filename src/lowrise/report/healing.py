"""What healing bought, as charts and in words (LaCo, Fig 3: loss against tokens trained on)."""

from __future__ import annotations

from lowrise.report import words
from lowrise.report.charts import COMPRESSED, MARKERS, REMOVED, SERIES, Axis, Chart, Points, Rule
from lowrise.results import Healing

_TOKENS = Axis("tokens trained on")
_SHOWN = 100  # points of the training loss: each the mean of so many steps that no more come to be


def healing_charts(healing: Healing) -> list[Chart]:
    """The held-out loss of every text, and the loss of training."""
    return [_held_out(healing), *([_training(healing)] if healing.train else [])]


def _held_out(healing: Healing) -> Chart:
    marks = []
    for number, (name, points) in enumerate(healing.held_out.items()):
        tokens, losses = map(list, zip(*points, strict=True))
        marks.append(
            Points(
                label=name, x=tokens, y=losses, colour=SERIES[number % len(SERIES)],
                marker=MARKERS[number % len(MARKERS)], dash="dashed" if name == healing.guard else "solid",
            )
        )  # fmt: skip
    kept = f"those after {healing.kept:,} tokens" if healing.kept else "those of the start"
    return Chart(
        id="healing",
        title="Healing: text held out",
        sentence=f"Text that training never saw. The weights that are kept are {kept}, at the upright line.",
        x=_TOKENS,
        y=Axis("held-out next-token loss"),
        marks=marks,
        rules=[Rule(healing.kept, REMOVED, "kept", upright=True)],
        hover=[("", "@label"), ("tokens", "@x{0,0}"), ("loss", "@y{0.0000}")],
    )


def _training(healing: Healing) -> Chart:
    tokens, losses = map(list, zip(*thinned(healing.train), strict=True))
    return Chart(
        id="healing-training",
        title="Healing: training loss",
        sentence=f"The mean over every step: {_loss(healing)}.",
        x=_TOKENS,
        y=Axis(_loss(healing)),
        marks=[Points(label="training", x=tokens, y=losses, colour=COMPRESSED, size=4)],
        hover=[("tokens", "@x{0,0}"), ("loss", "@y{0.0000}")],
        along_x=True,
    )


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
    if healing.kept < healing.tokens:
        done += f" Kept are the weights after {healing.kept:,} tokens, the best on held-out text."
    bought = [
        f"{words.decimal(before.value)} → {words.decimal(healing.after[name].value)} on {name}"
        for name, before in healing.before.items()
        if name in healing.after
    ]
    return [done, f"Perplexity: {', '.join(bought)}."] if bought else [done]
