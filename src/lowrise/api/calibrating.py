"""Calibration tokens: made as the command makes them, or given as ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrise.api import stages
from lowrise.api.models import Model
from lowrise.api.progress import Progress, reporting
from lowrise.calibration import Windows, check_known
from lowrise.errors import RecipeError, TextError
from lowrise.recipe import build_recipe
from lowrise.settings import Bos, current_keys

GIVEN = "token ids that were given"
OF_TOKENS = ("text", "dataset", "synthetic_share", "samples", "length", "calibration_length", "seed", "bos", "tokens")
"""Keys of a recipe that say how calibration tokens are made."""
Paths = Sequence[str | Path] | str | Path


@dataclass(frozen=True)
class Calibrated(Windows):
    """Windows that say by which settings of a recipe they were made; none where their ids were given."""

    settings: dict[str, Any] = field(default_factory=dict)


def calibrate(
    model: Model,
    text: Paths = (),
    *,
    dataset: str | None = None,
    synthetic_share: float | None = None,
    samples: int = 128,
    length: int = 512,
    seed: int = 0,
    bos: Bos = "auto",
    written: float | None = None,
    progress: Progress = None,
) -> Windows:
    """Windows of tokens (samples, length), int64, unpadded, in an order that the seed decides.

    text: files of UTF-8. dataset: of `datasets`, as NAME or NAME:CONFIG; not both. Without either the model writes all
    of them, sampled from BOS. synthetic_share: of the windows, 0 to 1, that it writes beside a text or a dataset.
    length: tokens a window, capped by the model's positions. bos: `auto` begins each window with what the tokenizer
    puts in front of a text, `never` does not. written: an older spelling of synthetic_share. Where a text fills fewer
    windows, there are fewer.
    Raises TextError for text that cannot be read or does not fill one window, RecipeError for a setting out of range.

    >>> model = lowrise.open("org/name")
    >>> lowrise.calibrate(model, text=["a.txt"], samples=4, length=16).ids.shape
    torch.Size([4, 16])
    """
    share = {"synthetic_share": synthetic_share, "written": written}
    settings = {
        "text": paths(text),
        "dataset": dataset,
        "synthetic_share": 0.0,
        **current_keys({key: value for key, value in share.items() if value is not None}),
        "samples": samples,
        "length": length,
        "seed": seed,
        "bos": bos,
    }
    recipe = build_recipe(settings)
    with model.at_work() as opened, reporting(progress, "calibrate") as reporter:
        made = stages.calibrated(recipe, opened, reporter)
    model.warnings += reporter.warnings
    return Calibrated(**_fields(made), settings=settings)


def tokens(ids: Tensor | Sequence[Sequence[int]] | Any) -> Windows:
    """Your own token ids, as windows to calibrate on.

    ids: (windows, length), whole numbers: a tensor, an array, or lists of equal length. They are used as they are and
    in their order; the last tenth is held out. That the model knows them all is checked where they are used.
    Raises TextError for another shape, other numbers, or negative ones.

    >>> lowrise.tokens([[5, 6, 7, 8], [8, 7, 6, 5]]).ids.dtype
    torch.int64
    """
    expected, remedy = "whole numbers (windows, length), two tokens a window at least", "give such ids"
    try:
        made = ids.detach().cpu() if isinstance(ids, Tensor) else torch.as_tensor(ids)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise TextError("tokens", expected, str(error).splitlines()[0], "give rows of equal length") from error
    if made.dim() != 2 or made.shape[0] < 1 or made.shape[1] < 2:
        raise TextError("tokens", expected, f"the shape {tuple(made.shape)}", remedy)
    if made.is_floating_point() or made.is_complex() or made.dtype == torch.bool:
        raise TextError("tokens", expected, str(made.dtype).removeprefix("torch."), remedy)
    made = made.to(torch.long, copy=True).contiguous()
    if int(made.min()) < 0:
        raise TextError("tokens", "ids of 0 and above", str(int(made.min())), "leave padding out")
    return Calibrated(made, GIVEN, seed=0)


def fitting(made: Windows, model: Model) -> Windows:
    """`made`, once it is seen that the model can read them. Raises TextError if it cannot."""
    if not isinstance(made, Windows):
        found = type(made).__name__
        raise TextError("tokens", "windows of lowrise.calibrate or lowrise.tokens", found, "make them by these")
    decoder = model.opened.decoder
    check_known(made.ids, decoder, made.source)
    if made.length > decoder.max_length:
        expected = f"windows of {decoder.max_length} tokens at most, as the model has positions"
        raise TextError(made.source, expected, str(made.length), "give shorter ones")
    return made


def made_by(made: Windows, given: dict[str, Any]) -> dict[str, Any]:
    """Keys of a recipe that `made` was made by. given: those that stand beside it.

    Raises RecipeError where these say otherwise: tokens that are there cannot be made another way.
    """
    own = made.settings if isinstance(made, Calibrated) else {}
    free = {"seed"} if not own else set()
    for key in OF_TOKENS:
        if key in given and key not in free and given[key] != own.get(key):
            expected = f"{own[key]!r}, as the tokens were made with" if key in own else "no such setting beside tokens"
            raise RecipeError(f"--{key.replace('_', '-')}", expected, repr(given[key]), "leave it out, or the tokens")
    return {key: value for key, value in own.items() if key != "length"}


def paths(given: Paths) -> list[str]:
    """One file or several."""
    return [str(given)] if isinstance(given, str | Path) else [str(path) for path in given]


def keys_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """Keys of a recipe as given in Python, where a file may be a Path and a key spelled as it once was."""
    given = current_keys(recipe)
    return {key: paths(value) if key in ("text", "eval_text") else value for key, value in given.items()}


def _fields(windows: Windows) -> dict[str, Any]:
    return {name: getattr(windows, name) for name in Windows.__dataclass_fields__}
