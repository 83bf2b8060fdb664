"""One short window before anything long begins: what models cannot do is said at once, in one line."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedType
from torch import Tensor

from lowrise.errors import ModelError, reason
from lowrise.heal.objective import StudentLoss
from lowrise.heal.processes import computed_in
from lowrise.heal.teacher import Resident
from lowrise.model.batching import is_out_of_memory
from lowrise.progress import Reporter

_TOKENS = 16
_NAMES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def settle_precision(
    student: StudentLoss,
    teacher: Resident | None,
    ids: Tensor,
    accelerator: Accelerator,
    progress: Reporter,
    *,
    automatic: bool,
) -> None:
    """Let the accelerator compute in float32 where bfloat16, which nobody asked for, does not do.

    automatic: whether nobody said a number format. ids: (windows, length). Raises as `check_trainable`.
    """
    try:
        check_trainable(student, teacher, ids, accelerator)
    except ModelError as error:
        # FSDP casts what it gathers to the format that it was made with
        sharded = accelerator.distributed_type == DistributedType.FSDP
        if not automatic or sharded or computed_in(accelerator) == "no":
            raise
        accelerator.autocast_handler = AutocastKwargs(enabled=False)
        check_trainable(student, teacher, ids, accelerator)
        progress.say(f"healing computes in float32, for {error.where} does not in bfloat16 ({error.found})")


@torch.no_grad()
def check_trainable(student: StudentLoss, teacher: Resident | None, ids: Tensor, accelerator: Accelerator) -> None:
    """ids: (windows, length). teacher: the dense model, where it is asked. Raises ModelError for a model whose layers
    cannot be computed in the number format of the training, or do not answer position by position. What says that
    memory ended passes: another format is no remedy for that.
    """
    ids = ids[:1, :_TOKENS]
    counted = torch.ones(ids.shape, dtype=torch.bool)
    where, does = student.decoder.where, "trained"
    try:
        with accelerator.autocast():
            student(ids, counted)
        if teacher is not None:
            where, does = teacher.where, "asked"
            teacher.targets([0], ids, counted)
    except (RuntimeError, IndexError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        computed = computed_in(accelerator)
        remedy = "this model cannot be healed" if does == "trained" else "this model cannot be learned from"
        if computed != "no":
            remedy = 'say `heal: {precision: "no"}` in a recipe'
        expected = f"layers that can be {does} in {_NAMES[computed]}"
        raise ModelError(where, expected, reason(error), remedy) from error
