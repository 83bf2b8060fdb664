"""Which of several processes this one is, before anything heavy is imported."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether it reads, writes and prints for all."""
    return is_alone() or os.environ.get("RANK", "0") == "0"


def is_alone() -> bool:
    """No launcher says that there are others; a number of its own without theirs is a rest of something else."""
    return os.environ.get("WORLD_SIZE", "1") in ("", "1")
