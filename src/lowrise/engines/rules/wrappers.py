"""Rules of multimodal models: which family an engine takes the text for, and what it does with the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lowrise.engines.checkpoint import Checkpoint
from lowrise.engines.rules.rule import Finding, Unrestricted


@dataclass(frozen=True)
class TextLike(Unrestricted):
    """The engine reads the text of a multimodal model as it reads a model of a family: what holds there holds here.

    families: `model_type` of the text's config → that family. Of any other text nothing is known.
    """

    families: Mapping[str, str]

    def judge(self, checkpoint: Checkpoint) -> Finding | None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class TextAlone(Unrestricted):
    """The engine leaves the towers out, in the model before the cut too."""

    def judge(self, checkpoint: Checkpoint) -> Finding | None:  # noqa: ARG002
        return Finding("opens", "text alone: it takes no images")


@dataclass(frozen=True)
class TiedByText(Unrestricted):
    """The engine takes from the text's config whether the head is tied; transformers 5 from the whole model's.

    usual: where the text's config does not say it; None: it refuses. apart: what comes of a head of its own that is
    taken for a tied one; the other way round its tensor is missing, of which `missing` comes.
    """

    usual: bool | None
    apart: Literal["wrong", "refuses"] = "wrong"
    missing: Literal["wrong", "refuses"] = "refuses"

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        read = checkpoint.config.get("tie_word_embeddings", self.usual)
        if read is None:
            return Finding("refuses", "text_config lacks tie_word_embeddings")
        if checkpoint.tied is None or bool(read) == checkpoint.tied:
            return None
        tied = "a head of its own, and it takes the embeddings" if read else "a tied head, and it looks for another one"
        return Finding(self.apart if read else self.missing, f"the model has {tied}: text_config decides there")


@dataclass(frozen=True)
class NeedsSetting(Unrestricted):
    """The engine fails on a config without this setting. inside: of the mapping under this name, where one is meant.

    unless: a setting of transformers 5 and the value of it that the engine takes without the word.
    """

    name: str
    inside: str | None = None
    unless: tuple[str, object] | None = None

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        where = checkpoint.config.get(self.inside) if self.inside is not None else checkpoint.config
        if isinstance(where, Mapping) and self.name in where:
            return None
        if self.unless is not None and checkpoint.config.get(self.unless[0], self.unless[1]) == self.unless[1]:
            return None
        of = "config.json" if self.inside is None else self.inside
        return Finding("refuses", f"{of} lacks {self.name}")


@dataclass(frozen=True)
class TensorsIn(Unrestricted):
    """The engine looks for all weights under `tower` in its part `within`, and draws random ones where they are not."""

    tower: str
    within: str

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        own = [name for name in checkpoint.tensors if self.tower in name.split(".")]
        if not own or any(f"{self.tower}.{self.within}." in name for name in own):
            return None
        return Finding("wrong", f"it looks for {self.tower}.{self.within} and draws a random one: images are misread")
