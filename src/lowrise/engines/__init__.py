"""What each serving engine does with a checkpoint, from facts that are held as data. No torch."""

from __future__ import annotations

from lowrise.engines.checking import Verdict, check, check_files, restricting, restrictions
from lowrise.engines.facts import ENGINES, Engine, Fact

__all__ = ["ENGINES", "Engine", "Fact", "Verdict", "check", "check_files", "restricting", "restrictions"]
