"""From texts, a dataset, conversations and the model's own writing to the tokens that a model is healed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowrise.calibration import Windows, check_known, text_windows
from lowrise.calibration.prefix import check_prefix, leading_tokens
from lowrise.calibration.written import write_windows
from lowrise.errors import RecipeError, TextError
from lowrise.heal.mixture import equal_parts, interleaved, passes
from lowrise.heal.sources import (
    Cut,
    Source,
    chat_source,
    dataset_source,
    most_held_out,
    text_source,
    without_held_out,
    written_source,
)
from lowrise.heal.tokens import TrainingTokens
from lowrise.model.cache import layer_caches
from lowrise.model.source import OpenModel
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.settings import Heal

_GUARD = "written by the model, held out"
_TELLING = 16  # tokens of a window that is not the same as another by chance


@dataclass(frozen=True)
class _Asked:
    """sources: all but the model's own writing, with `parts` windows of each. own: windows that it writes.

    guard: of a file; None where the model writes that too.
    """

    cut: Cut
    sources: list[Source]
    parts: list[int]
    own: int
    guard: Windows | None


def training_tokens(dense: OpenModel, settings: Heal, recipe: Recipe, progress: Reporter) -> TrainingTokens:
    """Windows to train on in a seeded order, windows of each source that are held out, and those of the guard.

    The recipe's text or dataset and the settings' chats have equal parts of what the model does not write; without
    them it writes all. What a source is too small for the others give; once all are read, they are read again, up to
    `repeat` times, each time in another order. All that can be refused is, before the model writes anything.
    Raises InputError for sources that cannot be read or are too small, TextError for a guard that is trained on.
    """
    asked = _asked(dense, settings, recipe)
    cut, sources, parts, own = asked.cut, asked.sources, asked.parts, asked.own
    for source, part in zip(sources, parts, strict=True):
        if part > len(source):
            progress.say(f"{source.name} has {len(source)} windows to train on, seen {part / len(source):.1f} times")
    if own:
        sources, parts = [*sources, written_source(own, cut, progress)], [*parts, own]
    return _mixed(sources, parts, cut, asked.guard or _written_guard(cut, progress))


def check_training_tokens(dense: OpenModel, settings: Heal, recipe: Recipe) -> None:
    """Refuse what `training_tokens` would refuse, but for a dataset, of which nothing is read yet."""
    _asked(dense, settings, recipe, read_dataset=False)


def _asked(dense: OpenModel, settings: Heal, recipe: Recipe, read_dataset: bool = True) -> _Asked:
    """What can be said before the model writes anything. read_dataset: else it is taken to be large enough."""
    decoder, tokenizer = dense.decoder, dense.tokenizer
    length = min(settings.window, decoder.max_length)
    prefix = leading_tokens(tokenizer, recipe.bos)
    check_prefix(prefix, decoder)
    cut = Cut(decoder, tokenizer, length, prefix, recipe.seed)
    windows = settings.budget // length
    if not windows:
        expected = f"one window at least, of {length} tokens"
        raise RecipeError("--heal or --tokens", expected, settings.tokens, "give more tokens, or shorter windows")
    alone = not recipe.text and recipe.dataset is None and not settings.chat
    own = windows if alone else round(settings.synthetic_share * windows)
    guard = None if settings.guard is None else _guard_of(settings.guard, cut, recipe)
    if own or guard is None:
        layer_caches(decoder, remedy="give --text and --guard, without --synthetic-share")
    unread = recipe.dataset is not None and not read_dataset
    sources = _sources(settings, recipe.model_copy(update={"dataset": None}) if unread else recipe, windows - own, cut)
    if guard is not None:
        _refuse_seen(guard, sources, str(settings.guard))
    parts = [] if unread else _parts(sources, windows - own, settings.repeat, length)
    return _Asked(cut, sources, parts, own, guard)


def _sources(settings: Heal, recipe: Recipe, windows: int, cut: Cut) -> list[Source]:
    """All but what the model writes. Of a dataset and of chats no more is made than could be used."""
    files = [*dict.fromkeys(recipe.text)]
    chats = [*dict.fromkeys(settings.chat)]
    if not windows:
        return []
    names = _names([*files, *chats])
    sources = [text_source(path, names[path], cut) for path in files]
    sources += [chat_source(path, names[path], windows, cut) for path in chats]
    if recipe.dataset is not None:
        part = equal_parts(windows, [*map(len, sources), windows])[-1]
        sources.append(dataset_source(recipe.dataset, part, cut))
    return without_held_out(sources)


def _names(paths: list[str]) -> dict[str, str]:
    """Each file's own name, or its whole path where two have the same name."""
    short = {path: Path(path).name for path in paths}
    return {path: name if [*short.values()].count(name) == 1 else path for path, name in short.items()}


def _parts(sources: list[Source], windows: int, repeat: int, length: int) -> list[int]:
    """Windows of each source: equal parts, but none is read once more while another has windows that were read less
    often, for these teach more. Raises TextError where all of them together are too few.
    """
    there = [*map(len, sources)]
    if windows > repeat * sum(there):
        tokens = sum(there) * length
        raise TextError(
            ", ".join(source.name for source in sources),
            f"text for {windows * length:,} tokens",
            f"{tokens:,} tokens to train on, {repeat * tokens:,} where each is seen {repeat} times",
            "give more text, fewer tokens, or in a recipe a larger heal.repeat",
        )
    times, left = divmod(windows, sum(there)) if windows else (0, 0)
    return [times * count + part for count, part in zip(there, equal_parts(left, there), strict=True)]


def _guard_of(path: str, cut: Cut, recipe: Recipe) -> Windows:
    found = text_windows(cut.tokenizer, path, cut.length, recipe.bos).first(most_held_out(cut.length))
    check_known(found.ids, cut.decoder, path)
    return found


def _refuse_seen(guard: Windows, sources: list[Source], path: str) -> None:
    """The same file, or one with a window of the same tokens: a copy, or a line more."""
    guarded = {text.sha256 for text in guard.texts}
    rows = {row.tobytes() for row in guard.ids.int().numpy()} if guard.length >= _TELLING else set()
    same = [
        source.name
        for source in sources
        if guarded & {text.sha256 for text in source.held_out.texts}
        or any(row.tobytes() in rows for ids in (source.ids, source.held_out.ids.int()) for row in ids.numpy())
    ]
    if same:
        raise TextError(
            "--guard", "a text that is not trained on", f"{path}, whose text is in {same[0]}", "give another"
        )


def _written_guard(cut: Cut, progress: Reporter) -> Windows:
    """Own writing from another seed than that of training and calibration."""
    how: dict[str, Any] = {"length": cut.length, "seed": (cut.seed + 1) % 2**63, "prefix": cut.prefix}
    ids = write_windows(cut.decoder, cut.tokenizer, samples=most_held_out(cut.length), progress=progress, **how)
    return cut.windows(ids, _GUARD)


def _mixed(sources: list[Source], parts: list[int], cut: Cut, guard: Windows) -> TrainingTokens:
    generator = torch.Generator().manual_seed(cut.seed)
    labels = interleaved(parts, generator)
    ids = torch.empty(len(labels), cut.length, dtype=torch.int32)
    counted = torch.ones(len(labels), cut.length, dtype=torch.bool)
    counted[:, : len(cut.prefix)] = False
    for number, (source, part) in enumerate(zip(sources, parts, strict=True)):
        rows, places = passes(len(source), part, generator), (labels == number).nonzero().squeeze(1)
        ids[places] = source.ids[rows]
        if source.counted is not None:
            counted[places] = source.counted[rows]
    return TrainingTokens(
        ids=ids,
        counted=None if all(source.counted is None for source in sources) else counted,
        prefix=len(cut.prefix),
        source=labels,
        names=tuple(source.name for source in sources),
        held_out={source.name: source.held_out for source in sources},
        guard=(f"guard: {guard.source}", guard),  # a source may have its name
        answers={source.name: source.answers for source in sources if source.answers is not None},
    )
