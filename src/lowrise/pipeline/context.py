"""What one command works with, from its first stage to its last."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lowrise.pipeline.clock import Clock
from lowrise.progress import Reporter
from lowrise.recipe import Recipe
from lowrise.work import Work

if TYPE_CHECKING:
    from lowrise.pipeline.estimating import Known

Command = Literal["run", "plan", "apply", "observe", "measure", "heal"]


@dataclass
class Run:
    """recipe: all settings. progress: what the user sees. command: which of them it is.

    out: the output, where there is one; force: whether it may replace what is there. alone: whether no other process
    works for it, so that what is done can be kept beside it; fresh: what was kept before is not gone on with. work:
    what is kept (`pipeline/work.py`). known: what estimates are made from. clock: seconds by stage.
    """

    recipe: Recipe
    progress: Reporter
    command: Command = "run"
    out: Path | None = None
    force: bool = False
    alone: bool = False
    fresh: bool = False
    work: Work = field(default_factory=Work)
    known: Known | None = None
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.progress)

    @property
    def place(self) -> Path:
        """`out`, of a command that writes one."""
        assert self.out is not None
        return self.out
