"""Types of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lowrise.engines.checkpoint import Checkpoint
from lowrise.engines.rules import AsWritten, Rule, TextLike

AS_WRITTEN = AsWritten()


@dataclass(frozen=True)
class Fact:
    """One thing that an engine does with a family. source: file, and function, of the engine. says: it in words."""

    family: str
    rule: Rule
    source: str
    says: str


@dataclass(frozen=True)
class Engine:
    """title: for people. version: that the facts were read from. obtained: where that version is to be had.

    facts: a family without any is unknown. always: rules of all families, with source and words. families,
    architectures: what it opens at all; the rest is refused. None: it may open others. opens_own_code: a checkpoint
    that brings its own modelling file, where the user trusts it. reference: what the others are compared with.
    """

    name: str
    title: str
    version: str
    obtained: str
    facts: tuple[Fact, ...]
    always: tuple[tuple[Rule, str, str], ...] = ()
    families: frozenset[str] | None = None
    architectures: frozenset[str] | None = None
    opens_own_code: bool = False
    reference: bool = False

    def of(self, family: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.family == family]

    def reading(self, checkpoint: Checkpoint) -> tuple[list[Fact], Checkpoint]:
        """What is known of a checkpoint, and as what it is judged: a wrapper by its text's family too."""
        own = self.of(checkpoint.family)
        like = next((fact.rule for fact in own if isinstance(fact.rule, TextLike)), None)
        if like is None:
            return own, checkpoint
        family = like.families.get(checkpoint.text or "", "")
        text = self.of(family)
        return [*own, *text] if text else [], replace(checkpoint, family=family)


def rows(families: Iterable[str], rule: Rule, source: str, says: str) -> list[Fact]:
    """One row for each of families that a source treats alike."""
    return [Fact(family, rule, source, says) for family in families]


def by_source(sources: Mapping[str, str], says: str, path: str) -> list[Fact]:
    """A row for each family that is read as it is written. sources: family -> names, put into `path`."""
    return [Fact(family, AS_WRITTEN, path.format(name), says) for family, name in sources.items()]
