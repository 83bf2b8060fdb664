"""Rules of settings, files and number formats: what an engine needs, and in which words it reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowrise.engines.checkpoint import Checkpoint
from lowrise.engines.patterns import FULL, SLIDING
from lowrise.engines.rules.rule import Finding, Unrestricted, equal, shown


@dataclass(frozen=True)
class NeedsFile(Unrestricted):
    """The engine, or the converter to its format, does nothing without a file of the folder.

    unless: a tokenizer class that goes without.
    """

    name: str
    unless: tuple[str, ...] = ()

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        if self.name in checkpoint.files or checkpoint.tokenizer.get("tokenizer_class") in self.unless:
            return None
        return Finding("refuses", f"its converter needs {self.name}, which is not in the folder")


@dataclass(frozen=True)
class RopeInOldWords(Unrestricted):
    """The engine reads the words of transformers 4: `rope_theta` and `rope_scaling`, not `rope_parameters`.

    theta: what it takes where the word is missing; None: it refuses. word, share: a family's own words for theta and
    for the share of a head that is rotated; usual_share: taken where that is missing. local: theta of sliding layers
    where that word is missing.
    """

    theta: float | None
    word: str = "rope_theta"
    share: str = "partial_rotary_factor"
    usual_share: float = 1.0
    local: float | None = None

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        config = checkpoint.config
        rope = config.get("rope_parameters")
        if not isinstance(rope, dict):
            return None
        by_kind = {kind: one for kind, one in rope.items() if isinstance(one, dict)}
        sliding = by_kind.get(SLIDING, {})
        rope = by_kind.get(FULL) or next(iter(by_kind.values()), rope)
        found = config.get(self.word, self.theta)
        if found is None:
            return Finding("refuses", f"config.json lacks {self.word}")
        if not equal(found, rope.get("rope_theta", found)):
            return _misread("rope_theta", found, rope["rope_theta"])
        share = config.get(self.share, self.usual_share)
        if not equal(share, rope.get("partial_rotary_factor", share)):
            return _misread("partial_rotary_factor", share, rope["partial_rotary_factor"])
        if rope.get("rope_type", "default") != "default" and not config.get("rope_scaling"):
            return _misread("rope_scaling", "none", str(rope["rope_type"]))
        if self.local is not None and sliding:
            found = config.get("rope_local_base_freq", self.local)
            if not equal(found, sliding.get("rope_theta", found)):
                return _misread("rope_local_base_freq", found, sliding["rope_theta"])
        return None


@dataclass(frozen=True)
class Float32(Unrestricted):
    """The engine computes weights of float32 in 16 bits, unless it is told to do otherwise."""

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        said = checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype"))
        if said != "float32":
            return None
        return Finding("opens", "float32 is computed in 16 bits there unless --dtype float32 is given")


@dataclass(frozen=True)
class V5Tokenizer(Unrestricted):
    """Transformers 4 does not know what version 5 calls a tokenizer, nor its list of extra special tokens."""

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        if checkpoint.tokenizer.get("tokenizer_class") == "TokenizersBackend":
            return Finding("refuses", "it knows no tokenizer class TokenizersBackend")
        if isinstance(checkpoint.tokenizer.get("extra_special_tokens"), list):
            return Finding("refuses", "it takes extra_special_tokens as a mapping, and finds a list")
        return None


@dataclass(frozen=True)
class OnlyWith(Unrestricted):
    """Known for these values of a setting alone."""

    setting: str
    values: tuple[Any, ...]

    def judge(self, checkpoint: Checkpoint) -> Finding | None:
        if checkpoint.config.get(self.setting) in self.values:
            return None
        return Finding(
            "unknown", f"nothing is known of it with {self.setting} {shown(checkpoint.config.get(self.setting))}"
        )


def _misread(word: str, found: object, true: object) -> Finding:
    return Finding(
        "wrong", f"config.json does not say {word} in the words of transformers 4: {shown(found)}, not {shown(true)}"
    )
