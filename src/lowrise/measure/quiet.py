"""Keeping lm-eval off the user's screen: its bars, notes and prints."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from lowrise.progress import Reporter


@contextmanager
def quiet_lm_eval(progress: Reporter | None = None) -> Iterator[None]:
    """Nothing of lm-eval on stdout or stderr; to `progress` goes what it warns of a model's input (too long), once."""
    everything, models = logging.getLogger("lm_eval"), logging.getLogger("lm_eval.models")
    before = everything.level, models.level, models.propagate
    heard = _Heard(logging.WARNING)
    everything.setLevel(logging.ERROR)
    models.setLevel(logging.WARNING)
    models.propagate = False
    models.addHandler(heard)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        models.removeHandler(heard)
        everything.setLevel(before[0])
        models.setLevel(before[1])
        models.propagate = before[2]
    if progress is not None and heard.messages:
        progress.warn(f"lm-eval: {heard.messages[0]} ({len(heard.messages)} such)")


class _Heard(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
