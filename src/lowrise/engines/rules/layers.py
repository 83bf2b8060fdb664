"""Rules of layers: kinds that an engine tells from numbers, and what it decides by how many layers there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from lowrise.engines.checkpoint import Checkpoint
from lowrise.engines.patterns import SLIDING, Kinds, Pattern, Period, kinds_of
from lowrise.engines.rules.rule import Finding, Unrestricted, equal, shown
from lowrise.restriction import Restriction

ALIKE = "layer"  # the one kind of all layers, where it matters only how many are left


@dataclass(frozen=True)
class KindsFromNumbers:
    """The engine tells the kinds of layers from their numbers.

    by: a clause, as in `llama.cpp takes every 6th layer …`. window: the config's word for a length in tokens, up to
    which the kinds compute the same; None: they never do. least: it cannot do with fewer layers than a period has.
    fate: of a layer that is read as another kind: `refuses` where kinds have other tensors, `unknown` where builds of
    the engine differ. told: how transformers 5
    tells them, if not as patterns.TOLD says of the family.
    """

    reads: Pattern
    by: str
    window: str | None = None
    least: bool = False
    fate: Literal["wrong", "refuses", "unknown"] = "wrong"
    told: Pattern | None = None

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        depth = checkpoint.depth
        read = self.reads.kinds(checkpoint.config, depth)
        if read is None:
            return Finding("refuses", f"it {self.by}, of which the config says nothing")
        if self._too_short(checkpoint, depth):
            return Finding("refuses", f"it {self.by}, and needs more than {depth} layers")
        kinds = self._true(checkpoint)
        others = [i for i in range(depth) if kinds[i] != read[i]]
        if not others:
            return None
        until = "" if self.window is None else f"; up to {checkpoint.config.get(self.window)} tokens it is the same"
        first = others[0]
        wrong = f"layer {first} is {in_words(kinds[first])} and read as {in_words(read[first])}"
        more = f", {len(others)} of {depth} layers in all" if len(others) > 1 else ""
        return Finding(self.fate, f"it {self.by}: {wrong}{more}{until}")

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:
        def patterns(depth: int) -> Sequence[Kinds]:
            read = self.reads.kinds(model.config, depth)
            return [] if read is None or self._too_short(model, depth) else [read]

        return Restriction(f"{title} {self.by}", self._true(model), patterns)

    def _true(self, checkpoint: Checkpoint) -> Kinds:
        told = None if self.told is None else self.told.kinds(checkpoint.config, checkpoint.depth)
        return kinds_of(checkpoint.config, checkpoint.family, checkpoint.depth) if told is None else told

    def _too_short(self, checkpoint: Checkpoint, depth: int) -> bool:
        return self.least and isinstance(self.reads, Period) and depth < self.reads.period(checkpoint.config)


@dataclass(frozen=True)
class NoWindow(Unrestricted):
    """The engine gives every layer full attention, in the model before the cut too."""

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        if SLIDING not in kinds_of(checkpoint.config, checkpoint.family, checkpoint.depth):
            return None
        window = checkpoint.config.get("sliding_window", "the window's")
        return Finding("opens", f"equal up to {window} tokens: no layer has a sliding window there")


@dataclass(frozen=True)
class AllOrNoneSlide:
    """The engine refuses a stack of which some layers slide and others do not (vLLM's Qwen2Model)."""

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        if len(set(kinds_of(checkpoint.config, checkpoint.family, checkpoint.depth))) < 2:
            return None
        if checkpoint.config.get("max_window_layers") == checkpoint.depth:
            return Finding("wrong", "it gives no layer a sliding window where some have one")
        return Finding("refuses", "some layers have a sliding window and others have none")

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:
        kinds = kinds_of(model.config, model.family, model.depth)
        if len(set(kinds)) < 2:
            return None
        reason = f"{title} takes sliding windows in all layers or in none"
        return Restriction(reason, kinds, lambda depth: [(kind,) * depth for kind in dict.fromkeys(kinds)])


@dataclass(frozen=True)
class OfDepth:
    """Something that the engine takes from the number of layers, which the config says otherwise.

    read: (config, layers) → what the engine takes; true: what transformers does at that depth, of a model cut to it.
    what: in words. Both are numbers or words, None where the config does not say. fate: where they differ.
    """

    what: str
    read: Callable[[Any, int], float | str | None]
    true: Callable[[Any, int], float | str | None]
    fate: Literal["wrong", "refuses"] = "wrong"

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        read, true = (part(checkpoint.config, checkpoint.depth) for part in (self.read, self.true))
        if equal(read, true):
            return None
        values = f"{shown(read)}, not {shown(true)}"
        return Finding(self.fate, f"it takes {self.what} from the {checkpoint.depth} layers: {values}")

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:
        def right(depth: int) -> bool:
            return equal(self.read(model.config, depth), self.true(model.config, depth))

        def patterns(depth: int) -> Sequence[Kinds]:
            return [(ALIKE,) * depth] if right(depth) else []

        if all(map(right, range(1, model.depth + 1))):
            return None
        reason = f"{title} takes {self.what} from the number of layers"
        return Restriction(reason, (ALIKE,) * model.depth, patterns)


@dataclass(frozen=True)
class FixedResidualScale:
    """The engine divides a number of its own by the root of the depth where the config's follows a cut (MiniCPM3)."""

    setting: str
    fixed: float

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        said = checkpoint.config.get(self.setting)
        if equal(said if isinstance(said, int | float) else None, self.fixed):
            return None
        return Finding("wrong", f"it takes {self.setting} to be {self.fixed}, whatever the config says ({shown(said)})")

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:
        reason = f"{title} takes {self.setting} to be {self.fixed}, which no cut leaves as it is"
        kinds = (ALIKE,) * model.depth
        return Restriction(reason, kinds, lambda depth: [kinds] if depth == model.depth else [])


@dataclass(frozen=True)
class KnownWords:
    """The engine knows these entries of a list alone, and takes any other for something else or fails on it.

    Where transformers 5 writes others, no cut is read right.
    """

    setting: str
    words: tuple[str, ...]
    fate: Literal["wrong", "refuses"]

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        entries = checkpoint.config.get(self.setting)
        others = [str(one) for one in entries if one not in self.words] if isinstance(entries, list | tuple) else []
        return (
            Finding(self.fate, f"it knows no {self.setting} {others[0]}, as transformers 5 writes it")
            if others
            else None
        )

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:
        kinds = (ALIKE,) * model.depth
        return Restriction(f"{title} does not know {self.setting} as transformers 5 writes it", kinds, lambda _: [])


@dataclass(frozen=True)
class SameNumbers(Unrestricted):
    """The engine prefers a list of layer numbers, which must say what transformers 5 reads elsewhere."""

    reads: Pattern
    setting: str

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        read = self.reads.kinds(checkpoint.config, checkpoint.depth)
        if read in (None, kinds_of(checkpoint.config, checkpoint.family, checkpoint.depth)):
            return None
        return Finding("refuses", f"it reads {self.setting}, which says other layers than layer_types")


@dataclass(frozen=True)
class NeedsKinds:
    """The engine looks for the first layer of each of these kinds, and fails where there is none."""

    kinds: tuple[str, ...]

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        found = kinds_of(checkpoint.config, checkpoint.family, checkpoint.depth)
        missing = [kind for kind in self.kinds if kind not in found]
        return (
            Finding("refuses", f"it needs a layer of {in_words(missing[0])}, and no such layer is left")
            if missing
            else None
        )

    def restrict(self, model: Checkpoint, title: str) -> Restriction | None:
        """Of a cut that could take all layers of a kind, the first one of each kind stays: sequences of kinds that have
        one of each somewhere are too many to be listed.
        """
        found = kinds_of(model.config, model.family, model.depth)
        first = sorted(found.index(kind) for kind in self.kinds if kind in found)
        fewest = min(found.count(kind) for kind in self.kinds)
        named = tuple(f"the first of {found[layer]}" if layer in first else ALIKE for layer in range(model.depth))

        def patterns(depth: int) -> Sequence[Kinds]:
            needed = len(self.kinds) if model.depth - depth >= fewest else 0
            return [
                tuple(dict(zip(places, stay, strict=True)).get(place, ALIKE) for place in range(depth))
                for count in range(needed, len(first) + 1)
                for stay in combinations([named[layer] for layer in first], count)
                for places in combinations(range(depth), count)
            ]

        kinds = " and one of ".join(map(in_words, self.kinds))
        return Restriction(f"{title} needs a layer of {kinds}: the first of each stays", named, patterns)


def in_words(kind: str) -> str:
    return kind.replace("_", " ")
