"""Rules: what an engine does otherwise than transformers 5 with a checkpoint. A fact is a rule for a family.

A rule judges a checkpoint, and says which cuts of a model it leaves right.
"""

from __future__ import annotations

from lowrise.engines.rules.layers import (
    AllOrNoneSlide,
    FixedResidualScale,
    KindsFromNumbers,
    KnownWords,
    NeedsKinds,
    NoWindow,
    OfDepth,
    SameNumbers,
)
from lowrise.engines.rules.rule import AsWritten, Fate, Finding, Rule
from lowrise.engines.rules.settings import Float32, NeedsFile, OnlyWith, RopeInOldWords, V5Tokenizer
from lowrise.engines.rules.wrappers import NeedsSetting, TensorsIn, TextAlone, TextLike, TiedByText

__all__ = [
    "AllOrNoneSlide",
    "AsWritten",
    "Fate",
    "Finding",
    "FixedResidualScale",
    "Float32",
    "KindsFromNumbers",
    "KnownWords",
    "NeedsFile",
    "NeedsKinds",
    "NeedsSetting",
    "NoWindow",
    "OfDepth",
    "OnlyWith",
    "RopeInOldWords",
    "Rule",
    "SameNumbers",
    "TensorsIn",
    "TextAlone",
    "TextLike",
    "TiedByText",
    "V5Tokenizer",
]
