"""Where a healing stands, kept every so often, so that a process to come goes on with the same bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from lowrise.heal.guarding import Guarding
from lowrise.heal.processes import of_the_first
from lowrise.heal.state import KeepingPace
from lowrise.work import Work

_RECORD = "healing"
_MODEL = "model."  # of a student's loss, the student


@dataclass
class Standing:
    """step: optimiser steps done. losses: (tokens trained on, training loss) of each. seconds: of training alone.

    best: the weights to keep, by name in the student, on the CPU; none while those of the start are. stopped: why the
    training ended before its last step.
    """

    guarding: Guarding
    step: int = 0
    tokens: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    stopped: str | None = None


class Keeping:
    """Weights that train, Adam's moments, the scale of a float16 loss and `Standing`, of a module that may be spread
    over processes.

    Full states are gathered to the first process, which alone writes and reads them.
    """

    def __init__(
        self, work: Work, module: nn.Module, optimiser: torch.optim.Optimizer, accelerator: Accelerator
    ) -> None:
        self._work, self._module, self._optimiser, self._accelerator = work, module, optimiser, accelerator
        self._pace = KeepingPace(sum(value.nbytes for value in module.parameters() if value.requires_grad))

    def weights(self) -> dict[str, Tensor]:
        """Those that train, by their names in the student's model, on the CPU; there they may be the live ones.

        Of names that share one tensor, as those of a tied head do, the first.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        model: Any = get_model_state_dict(self._module, options=options)
        found = {name.removeprefix(_MODEL): value.detach().cpu() for name, value in model.items()}
        first: dict[tuple[int, torch.Size], str] = {}
        return {
            name: value
            for name, value in found.items()
            if not value.numel() or first.setdefault((value.data_ptr(), value.shape), name) == name
        }

    def restore(self, guard: str) -> Standing | None:
        """What was kept last, once weights and moments are as they were."""
        kept = self._work.find(_RECORD)
        about = of_the_first(self._accelerator, None if kept is None else kept.value)
        if about is None:
            return None
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "adam": {}}
        for key, value in ({} if kept is None else kept.tensors).items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        moments: dict[str, Any] = {}
        for key, value in parts["adam"].items():
            name, _, moment = key.rpartition(".")
            moments.setdefault(name, {})[moment] = value
        several = self._accelerator.num_processes > 1
        options = StateDictOptions(full_state_dict=True, strict=False, broadcast_from_rank0=several)
        now: dict[str, Any] = {f"{_MODEL}{name}": value for name, value in parts["now"].items()}
        set_model_state_dict(self._module, now, options=options)
        found: Any = {"state": moments, "param_groups": about["groups"]} if moments else {}
        set_optimizer_state_dict(self._module, self._optimiser, found, options=options)
        if self._accelerator.scaler is not None and about.get("scaler"):
            self._accelerator.scaler.load_state_dict(about["scaler"])
        return Standing(
            Guarding(guard, {name: _pairs(rows) for name, rows in about["points"].items()}, about["best"]),
            about["step"],
            about["tokens"],
            _pairs(about["losses"]),
            about["seconds"],
            parts["best"],
            about["stopped"],
        )

    def keep(self, done: Standing, *, last: bool) -> None:
        """Where it is time for it, or this was the `last` step."""
        due = self._work.keeps and (last or self._pace.is_due())
        if not of_the_first(self._accelerator, due):
            return
        with self._pace.keeping():
            options = StateDictOptions(full_state_dict=True, cpu_offload=True)
            found: Any = get_optimizer_state_dict(self._module, self._optimiser, options=options)
            now = self.weights()
            if self._accelerator.is_main_process:  # in the others both are empty
                self._write(done, now, found)

    def _write(self, done: Standing, now: dict[str, Tensor], found: Any) -> None:
        tensors = {f"now.{name}": value for name, value in now.items()}
        tensors |= {f"best.{name}": value for name, value in done.best.items()}
        for name, moments in found["state"].items():
            tensors |= {f"adam.{name}.{moment}": value for moment, value in moments.items()}
        scaler = self._accelerator.scaler  # of the loss, in float16 alone
        about = {
            "step": done.step, "tokens": done.tokens, "losses": done.losses, "seconds": done.seconds,
            "points": done.guarding.points, "best": done.guarding.best, "stopped": done.stopped,
            "groups": found["param_groups"], "scaler": None if scaler is None else scaler.state_dict(),
        }  # fmt: skip
        self._work.keep(_RECORD, about, tensors, what=f"step {done.step} of healing")


def _pairs(rows: list[list[Any]]) -> list[tuple[int, float]]:
    return [(tokens, loss) for tokens, loss in rows]
