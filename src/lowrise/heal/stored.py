"""Training tokens as a record of a run: a healing that goes on trains on the same ones and writes none anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from lowrise.calibration import Windows
from lowrise.calibration.stored import put_together, taken_apart
from lowrise.heal.tokens import TrainingTokens
from lowrise.progress import Reporter
from lowrise.work import Work

_RECORD = "tokens"


def kept_tokens(work: Work, make: Callable[[], TrainingTokens], progress: Reporter) -> TrainingTokens:
    """Tokens that were kept before an interruption, else those made now."""
    kept = work.find(_RECORD)
    if kept is not None:
        progress.say("training tokens: kept from before")
        return _together(kept.value, kept.tensors)
    made = make()
    work.keep(_RECORD, *_apart(made), what="the training tokens")
    return made


def _apart(made: TrainingTokens) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain JSON, and tensors by name: those of a held-out text begin with its number."""
    tensors = {"ids": made.ids, "source": made.source}
    if made.counted is not None:
        tensors["counted"] = made.counted
    texts = []
    for number, (name, windows) in enumerate([*made.held_out.items(), made.guard]):
        about, own = taken_apart(windows)
        texts.append({"name": name, "about": about})
        tensors |= {f"{number}.{key}": value for key, value in own.items()}
        if name in made.answers:
            tensors[f"answers.{number}"] = made.answers[name]
    return {"prefix": made.prefix, "names": list(made.names), "texts": texts}, tensors


def _together(value: dict[str, Any], tensors: dict[str, Tensor]) -> TrainingTokens:
    """The reverse of `_apart`."""
    texts = []
    for number, text in enumerate(value["texts"]):
        start = f"{number}."
        own = {key.removeprefix(start): one for key, one in tensors.items() if key.startswith(start)}
        made = put_together(text["about"], own, text["name"], "begin anew with --fresh")
        texts.append((text["name"], cast(Windows, made)))
    return TrainingTokens(
        ids=tensors["ids"],
        counted=tensors.get("counted"),
        prefix=value["prefix"],
        source=tensors["source"],
        names=tuple(value["names"]),
        held_out=dict(texts[:-1]),
        guard=texts[-1],
        answers={
            name: tensors[key] for number, (name, _) in enumerate(texts) if (key := f"answers.{number}") in tensors
        },
    )
