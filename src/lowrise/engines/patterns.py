"""What kind each layer is: as transformers 5 tells it from a config, and as other readers tell it from numbers.

A kind is a word of the config (`full_attention`, `sliding_attention`), or one of ours where the config has a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lowrise.errors import ModelError

FULL, SLIDING, LINEAR, CONV = "full_attention", "sliding_attention", "linear_attention", "conv"
CHUNKED = "chunked_attention"
ROTATED, UNROTATED = "with rotation", "without rotation"
EXPERTS, DENSE = "experts", "dense"
Config = Mapping[str, Any]
Kinds = tuple[str, ...]


class Pattern(Protocol):
    def kinds(self, config: Config, depth: int) -> Kinds | None:
        """The kind of each of `depth` layers; None where the config lacks what it is told by."""


@dataclass(frozen=True)
class Period:
    """The last of each `every` layers is `marked`, the others are `rest`.

    setting: of the config, which may say another number.
    """

    every: int
    setting: str | None = None
    marked: str = FULL
    rest: str = SLIDING

    def kinds(self, config: Config, depth: int) -> Kinds:
        every = self.period(config)
        return tuple(self.rest if (i + 1) % every else self.marked for i in range(depth))

    def period(self, config: Config) -> int:
        said = config.get(self.setting) if self.setting is not None else None
        return said if type(said) is int and said > 0 else self.every


@dataclass(frozen=True)
class Numbered:
    """The layers whose numbers stand in the config's list `setting` are `marked`; without one, as `otherwise` says."""

    setting: str
    otherwise: Pattern
    marked: str = FULL
    rest: str = SLIDING

    def kinds(self, config: Config, depth: int) -> Kinds | None:
        numbers = config.get(self.setting)
        if not isinstance(numbers, list | tuple):
            return self.otherwise.kinds(config, depth)
        return tuple(self.marked if i in numbers else self.rest for i in range(depth))


@dataclass(frozen=True)
class Letters:
    """L and G in turn, as the config's `setting` writes them (`LLLG`): sliding and full attention."""

    setting: str

    def kinds(self, config: Config, depth: int) -> Kinds | None:
        said = config.get(self.setting)
        if not isinstance(said, str) or not said:
            return None
        return tuple(SLIDING if said[i % len(said)] == "L" else FULL for i in range(depth))


@dataclass(frozen=True)
class LettersOrPeriod:
    """EXAONE 4 (configuration_exaone4.py): `LLLG` or 4, and nothing slides without a window."""

    setting: str = "sliding_window_pattern"

    def kinds(self, config: Config, depth: int) -> Kinds:
        if not config.get("sliding_window"):
            return (FULL,) * depth
        letters = Letters(self.setting).kinds(config, depth)
        return Period(4, self.setting).kinds(config, depth) if letters is None else letters


@dataclass(frozen=True)
class Behind:
    """Layers slide from the one numbered `boundary` on, where the config's `switch` is on (Qwen2 and Qwen3)."""

    boundary: str = "max_window_layers"
    switch: str = "use_sliding_window"

    def kinds(self, config: Config, depth: int) -> Kinds:
        first = config.get(self.boundary, 28)
        slides = bool(config.get(self.switch)) and bool(config.get("sliding_window", 4096)) and type(first) is int
        return tuple(SLIDING if slides and i >= first else FULL for i in range(depth))


@dataclass(frozen=True)
class Throughout:
    """All layers alike: they slide where the config has a window, unless `usual` says that none is one too."""

    setting: str = "sliding_window"
    usual: int | None = None

    def kinds(self, config: Config, depth: int) -> Kinds:
        return (SLIDING if config.get(self.setting, self.usual) else FULL,) * depth


@dataclass(frozen=True)
class AtDepth:
    """`there` in a stack of `depth` layers; full attention with rotation in every layer of any other stack."""

    depth: int
    there: Pattern

    def kinds(self, config: Config, depth: int) -> Kinds | None:
        if depth == self.depth:
            return self.there.kinds(config, depth)
        # with windows, this family's layers of full attention are not rotated
        return (f"{FULL}, {ROTATED}" if config.get("sliding_window") else FULL,) * depth


@dataclass(frozen=True)
class Listed:
    """One entry a layer in the config's list `setting`; where it has none, as `otherwise` says.

    words: what entries are called that are no words.
    """

    setting: str = "layer_types"
    otherwise: Pattern = field(default_factory=Throughout)
    words: tuple[tuple[Any, str], ...] = ()

    def kinds(self, config: Config, depth: int) -> Kinds | None:
        entries = config.get(self.setting)
        if entries is None:
            return self.otherwise.kinds(config, depth)
        if not isinstance(entries, list | tuple) or len(entries) != depth:
            found = f"{len(entries)}" if isinstance(entries, list | tuple) else repr(entries)
            raise ModelError("config.json", f"{depth} entries of {self.setting}, one a layer", found, "mend the config")
        names = dict(self.words)
        return tuple(names.get(entry, str(entry)) if not isinstance(entry, list | dict) else "" for entry in entries)


# How transformers 5 tells the kinds of a family's layers apart (its configuration_*.py). A family without a row has
# one kind, or no facts that ask.
TOLD: Mapping[str, Pattern] = {
    "gemma2": Listed(otherwise=Period(2)),
    "gemma3": Listed(otherwise=Period(6, "sliding_window_pattern")),
    "gemma3_text": Listed(otherwise=Period(6, "sliding_window_pattern")),
    "cohere2": Listed(otherwise=Period(4, "sliding_window_pattern")),
    "olmo3": Listed(otherwise=Period(4)),
    "gpt_oss": Listed(otherwise=Period(2)),
    "exaone4": Listed(otherwise=LettersOrPeriod()),
    "smollm3": Listed(
        "no_rope_layers",
        Period(4, "no_rope_layer_interval", UNROTATED, ROTATED),
        ((0, UNROTATED), (1, ROTATED)),
    ),
    "qwen2": Listed(otherwise=Behind()),
    "qwen3": Listed(otherwise=Behind()),
    "qwen3_next": Listed(otherwise=Period(4, "full_attention_interval", FULL, LINEAR)),
    "qwen3_5_text": Listed(otherwise=Period(4, "full_attention_interval", FULL, LINEAR)),
    "qwen3_5_moe_text": Listed(otherwise=Period(4, "full_attention_interval", FULL, LINEAR)),
    "gemma3n_text": Listed(otherwise=Period(5)),
    "llama4_text": Listed(otherwise=Period(4, "no_rope_layer_interval", FULL, CHUNKED)),
    "lfm2": Listed(),
    "lfm2_moe": Listed(),
    "granitemoehybrid": Listed(),
    "mistral": Throughout(usual=4096),
    "mixtral": Throughout(),
    "phi3": Throughout(),
    "starcoder2": Throughout(),
}


def kinds_of(config: Config, family: str, depth: int) -> Kinds:
    """As transformers 5 tells them. Raises ModelError for a list that is not as long as the stack."""
    told = TOLD.get(family)
    found = None if told is None else told.kinds(config, depth)
    return (FULL,) * depth if found is None else found
