"""What a layer and the head take of a healing: in its number format, with gradients, on as many tokens as it holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from lowrise.cost.shape import ModelShape
from lowrise.cost.stopwatch import Computing, Stopwatch, entering, learning, tokens_at_once
from lowrise.heal.calls import to_float32
from lowrise.heal.divergence import kl
from lowrise.heal.head import chunks, head
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.settings import Precision

COMPUTED: dict[Precision, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_OPERATIONS = 16e9  # of one timed pass forward on CPU, about: casts of weights weigh too much on few tokens
_MOST = 1024  # tokens of a pass


def healed(watch: Stopwatch, decoder: Decoder, layer: int, length: int, precision: Precision) -> float:
    """Seconds a token of a layer, forward and backward, of weights in float32."""
    own = sum(parameter.numel() for parameter in decoder.layers[layer].parameters())
    tokens = tokens_at_once(decoder, _OPERATIONS, own, _MOST)
    h, calls = entering(decoder, tokens, min(length, tokens))
    h, calls = h.float(), [LayerArguments(to_float32(call.args), to_float32(call.kwargs)) for call in calls]
    seconds = _in(precision, decoder, lambda computing: watch.of(learning(decoder, layer, h, calls, computing)))
    return seconds / h.shape[:2].numel()


def taught(watch: Stopwatch, decoder: Decoder, shape: ModelShape, precision: Precision) -> float:
    """Seconds a token of final norm, head, loss and their gradients, of weights in float32; of a head with fewer rows
    than the model's, as many times as it has fewer.
    """
    weight = decoder.model.get_output_embeddings().weight
    rows, width = weight.shape
    most = min(_MOST, next(chunks(decoder, _MOST)).stop)
    tokens = tokens_at_once(decoder, _OPERATIONS, rows * width, most)
    # as even as what leaves real layers: of embeddings some logits are so far from the others that exponentials of
    # their differences are subnormal, which processors multiply slowly
    h = torch.arange(tokens * decoder.hidden_size, device=weight.device).sin().view(tokens, -1).to(decoder.dtype)
    x = torch.ones(tokens, width, device=weight.device)

    def of(computing: Computing) -> float:
        def work() -> None:
            with computing():
                logits = head(decoder, h).float()
                slope = kl(logits, 1.0, logits.clone(), backward=True)[1]
                assert slope is not None
                slope @ weight.float(), slope.T @ x

        return watch.of(work)

    return _in(precision, decoder, of) / tokens * float(shape.vocabulary / rows)


def _in(precision: Precision, decoder: Decoder, of: Callable[[Computing], float]) -> float:
    """`of` a number format, or of float32 itself where the model's code bears no other, as a healing does then."""
    if precision == "no":
        return of(nullcontext)
    try:
        return of(lambda: torch.autocast(decoder.device.type, COMPUTED[precision]))
    except RuntimeError:
        return of(nullcontext)
