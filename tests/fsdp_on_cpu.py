"""`lowrise heal …` that keeps every step and stops after STOP_AFTER of them; with FSDP=1 by FSDP2 on CPU.

accelerate 1.15 makes DDP of `--use_fsdp` on CPU: its AcceleratorState knows FSDP beside MULTI_GPU and the like alone.
torch itself shards on gloo, so the state that accelerate has on GPUs is set by hand; all that follows is its own.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from lowrise.cli import main
from lowrise.heal import state
from lowrise.heal.standing import Keeping
from lowrise.pipeline import healing


def start(*given: Any) -> Accelerator:
    accelerator = joined(*given)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def keep(keeping: Keeping, *given: Any, **how: Any) -> None:
    """Ends all processes once the first one has written, as a signal would."""
    kept(keeping, *given, **how)
    if given[0].step == int(os.environ.get("STOP_AFTER", "-1")):
        keeping._accelerator.wait_for_everyone()
        raise SystemExit(130)


joined, kept = healing.start, Keeping.keep
if os.environ.get("FSDP") == "1":
    healing.start = start
Keeping.keep = keep  # type: ignore[method-assign]
state.SHARE = float("inf")

if __name__ == "__main__":
    main()
