"""Which of several processes this one is, before anything heavy is imported."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether it reads, writes and prints for all; it is alone unless a launcher says otherwise."""
    return os.environ.get("RANK", "0") == "0"
