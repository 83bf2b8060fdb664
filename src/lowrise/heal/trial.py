"""One short window before a training begins: what a model cannot do is said at once, in one line."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from lowrise.errors import ModelError, reason
from lowrise.heal.objective import StudentLoss
from lowrise.model.batching import is_out_of_memory

_TOKENS = 16


@torch.no_grad()
def check_trainable(student: StudentLoss, ids: Tensor, accelerator: Accelerator) -> None:
    """ids: (windows, length). Raises ModelError for a model whose layers cannot be computed in the number format of the
    training, or do not answer position by position. What says that memory ended passes: another format is no remedy.
    """
    ids = ids[:1, :_TOKENS]
    counted = torch.ones(ids.shape, dtype=torch.bool)
    try:
        with accelerator.autocast():
            student(ids, counted)
    except (RuntimeError, IndexError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        computed = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[accelerator.mixed_precision]
        remedy = "this model cannot be healed"
        if accelerator.mixed_precision != "no":
            remedy = 'say `heal: {precision: "no"}` in a recipe'
        expected = f"layers that can be trained in {computed}"
        raise ModelError(student.decoder.where, expected, reason(error), remedy) from error
