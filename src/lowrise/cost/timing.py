"""What one layer takes on this machine, on a short window: the rates that every estimate is made with.

Nothing of the model changes, and no random number is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrise.cost.shape import ModelShape
from lowrise.cost.stopwatch import FEWEST, Stopwatch, entering, ids_of, learning, tokens_at_once
from lowrise.cost.timed_healing import COMPUTED, healed, taught
from lowrise.cost.work import Rates
from lowrise.exact import exact_device
from lowrise.files.temporary import temporary_file
from lowrise.model.decoder import Decoder
from lowrise.settings import Precision

_OPERATIONS = 3e9  # of one timed pass on CPU, about; an accelerator is given a whole batch
_SHORT, _LONG = 64, 512  # tokens
_ROWS = 64  # of a step of decoding
_LARGEST = 1024  # of a matrix that is factorised
_BYTES = 1 << 23
_HEAD_LEARNS = 3.0  # of a head and its loss, with gradients; where nothing is healed


@dataclass(frozen=True)
class Timed:
    """rates: of the machine. operations: a second, float32 or what the model computes in, in a layer. healed_in: the
    number format that `rates.mixed` is of; None: nothing is healed.
    """

    rates: Rates
    operations: float
    said: str
    healed_in: Precision | None = None


@torch.no_grad()
def timed(decoder: Decoder, shape: ModelShape, healed_in: Precision | None = None) -> Timed:
    """By the decoder's middle layer. shape: of the model that is asked about, whose layers it stands for.

    healed_in: the number format that a healing will compute in; None: nothing is healed.
    """
    watch = Stopwatch(decoder)
    layer = len(decoder) // 2
    own = sum(parameter.numel() for parameter in decoder.layers[layer].parameters())
    scale = shape.layer_parameters / max(1, own)
    tokens = tokens_at_once(decoder, _OPERATIONS, own, decoder.batch_tokens)
    long = min(_LONG, decoder.max_length, tokens)
    short = min(_SHORT, long)
    slow, fast = (watch.of(_pass(decoder, layer, tokens, length)) / tokens for length in (long, short))
    context = max(0.0, (slow - fast) / (long - short)) if long > short else 0.0
    forward = max(fast - context * short, 0.25 * fast)
    rows = min(_ROWS, tokens)
    many, one = (watch.of(_pass(decoder, layer, count, 1)) for count in (rows, 1))
    row = max((many - one) / max(1, rows - 1), 0.1 * forward)
    copied = _copied(watch, decoder)
    solved, summed = _factorised(watch, decoder, shape), _summed(watch, decoder, shape, tokens)
    states, hashed = _stored(watch), _hashed(watch)
    learned = max(FEWEST, tokens // 2)
    gradients = mixed = _gradients(watch, decoder, layer, learned, long)
    looked_at = _head(watch, decoder, shape)
    with_gradients = _HEAD_LEARNS * looked_at
    if healed_in is not None:
        if COMPUTED[healed_in] != decoder.dtype:
            mixed = healed(watch, decoder, layer, long, healed_in)
        with_gradients = taught(watch, decoder, shape, healed_in)
    rates = Rates(
        forward=scale * forward,
        context=context,
        backward=scale * gradients,
        mixed=scale * mixed,
        head=looked_at,
        taught=with_gradients,
        decoded=scale * row,
        decode_calls=scale * max(0.0, one - row),
        cached=copied,
        sums=summed,
        solves=solved,
        touched=copied,
        states=states,
        read=states,
        written=2 * states,
        hashed=hashed,
        fixed=1.0,
    )
    operations = 2 * own / slow
    return Timed(rates, operations, _said(decoder, operations), healed_in)


def _said(decoder: Decoder, operations: float) -> str:
    device = decoder.device.type
    where = (
        f"{torch.get_num_threads()} threads"
        if device == "cpu"
        else torch.cuda.get_device_name()
        if device == "cuda"
        else device
    )
    return f"one layer timed here ({operations / 1e9:,.0f} GFLOP/s, {where})"


def _pass(decoder: Decoder, layer: int, tokens: int, length: int) -> Callable[[], Tensor]:
    h, calls = entering(decoder, tokens, length)
    return lambda: decoder.step(layer, h, calls)


def _gradients(watch: Stopwatch, decoder: Decoder, layer: int, tokens: int, length: int) -> float:
    """Seconds a token, forward and backward; three times a pass where the layer's code keeps gradients from it."""
    h, calls = entering(decoder, tokens, min(length, tokens))
    try:
        return watch.of(learning(decoder, layer, h, calls)) / h.shape[:2].numel()
    except RuntimeError:
        return 3 * watch.of(lambda: decoder.step(layer, h, calls)) / h.shape[:2].numel()


def _head(watch: Stopwatch, decoder: Decoder, shape: ModelShape) -> float:
    """Seconds a token; of a head with fewer rows than the model's, as many times as it has fewer."""
    rows = int(decoder.model.get_output_embeddings().weight.shape[0])
    tokens = int(min(256, max(16, _OPERATIONS / (2 * rows * shape.hidden))))
    tokens = min(tokens, decoder.max_length)
    h, _ = entering(decoder, tokens, tokens)
    ids = ids_of(decoder, tokens, tokens).to(h.device)

    def work() -> None:
        logits = decoder.logits(h, ids).float()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").sum()

    return watch.of(work) / tokens * shape.vocabulary / rows


def _summed(watch: Stopwatch, decoder: Decoder, shape: ModelShape, tokens: int) -> float:
    """Seconds of an operation of a product of tokens, float32, as of a Gram matrix."""
    k = min(shape.inner, 4 * _LARGEST)
    tokens = int(min(tokens, max(FEWEST, _OPERATIONS / (2 * k * k)))) if decoder.device.type == "cpu" else tokens
    a = torch.ones(tokens, k, device=decoder.device)
    return watch.of(lambda: a.T @ a) / (2 * tokens * k * k)


def _factorised(watch: Stopwatch, decoder: Decoder, shape: ModelShape) -> float:
    """Seconds of an operation of float64: a factorisation, an inverse and a product."""
    n = min(2 * shape.inner, _LARGEST)
    matrix = torch.eye(n, dtype=torch.float64, device=exact_device(decoder.device)).add_(0.1)

    def work() -> None:
        factor, _ = torch.linalg.cholesky_ex(matrix)
        torch.cholesky_inverse(factor) @ matrix

    return watch.of(work) / ((1 / 3 + 2 / 3 + 2) * n**3)


def _copied(watch: Stopwatch, decoder: Decoder) -> float:
    """Seconds of a byte that is read or written in memory."""
    one = torch.zeros(_BYTES // 4, device=decoder.device)
    other = torch.empty_like(one)
    return watch.of(lambda: other.copy_(one)) / (2 * _BYTES)


def _stored(watch: Stopwatch) -> float:
    """Seconds of a byte that goes to a temporary file, or comes from one."""
    content = bytes(_BYTES // 2)

    def work() -> None:
        file.seek(0)
        file.write(content)
        file.seek(0)
        file.read(len(content))

    with temporary_file("lowrise-timed-") as file:
        return watch.of(work) / (2 * len(content))


def _hashed(watch: Stopwatch) -> float:
    content = bytes(_BYTES // 4)
    return watch.of(lambda: hashlib.sha256(content).digest()) / len(content)
