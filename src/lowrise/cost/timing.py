"""What one layer takes on this machine, on a short window: the rates that every estimate is made with.

Nothing of the model changes, and no random number is drawn.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrise.cost.shape import ModelShape
from lowrise.cost.work import Rates
from lowrise.exact import exact_device
from lowrise.heal.calls import to_float32
from lowrise.heal.divergence import kl
from lowrise.heal.head import chunks, head
from lowrise.measure.speed import now
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.settings import Precision

_OPERATIONS = 3e9  # of one timed pass on CPU, about; an accelerator is given a whole batch
_HEALED_OPERATIONS = 48e9  # of one that is timed as a healing runs it, whose casts of weights weigh on few tokens
_FEWEST, _SHORT, _LONG, _HEALED = 128, 64, 512, 1024  # tokens
_ROWS = 64  # of a step of decoding
_LARGEST = 1024  # of a matrix that is factorised
_BYTES = 1 << 23
_HEAD_LEARNS = 3.0  # of a head and its loss, with gradients; where nothing is healed
_ROUNDS = 2  # that count; one goes before them
Computing = Callable[[], AbstractContextManager[Any]]
_COMPUTED: dict[Precision, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    clock = _Clock(decoder)
    layer = len(decoder) // 2
    own = sum(parameter.numel() for parameter in decoder.layers[layer].parameters())
    scale = shape.layer_parameters / max(1, own)
    tokens = _tokens(decoder, own)
    long = min(_LONG, decoder.max_length, tokens)
    short = min(_SHORT, long)
    slow, fast = (clock.of(_pass(decoder, layer, tokens, length)) / tokens for length in (long, short))
    context = max(0.0, (slow - fast) / (long - short)) if long > short else 0.0
    forward = max(fast - context * short, 0.25 * fast)
    rows = min(_ROWS, tokens)
    many, one = (clock.of(_pass(decoder, layer, count, 1)) for count in (rows, 1))
    row = max((many - one) / max(1, rows - 1), 0.1 * forward)
    copied = _copied(clock, decoder)
    solved, summed = _factorised(clock, decoder, shape), _summed(clock, decoder, shape, tokens)
    states, hashed = _stored(clock), _hashed(clock)
    learned = max(_FEWEST, tokens // 2)
    gradients = mixed = _gradients(clock, decoder, layer, learned, long)
    looked_at = _head(clock, decoder, shape)
    taught = _HEAD_LEARNS * looked_at
    if healed_in is not None:
        if _COMPUTED[healed_in] != decoder.dtype:
            mixed = _healed(clock, decoder, layer, long, healed_in)
        taught = _taught(clock, decoder, shape, healed_in)
    rates = Rates(
        forward=scale * forward,
        context=context,
        backward=scale * gradients,
        mixed=scale * mixed,
        head=looked_at,
        taught=taught,
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


def _tokens(decoder: Decoder, parameters: int) -> int:
    most = decoder.batch_tokens
    if decoder.device.type != "cpu":
        return most
    return int(min(most, max(_FEWEST, _OPERATIONS / (2 * max(1, parameters)))))


class _Clock:
    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def of(self, work: Callable[[], object]) -> float:
        """Seconds, the least of some rounds: what else the machine does only adds to them."""
        work()
        found = []
        for _ in range(_ROUNDS):
            began = now(self._decoder)
            work()
            found.append(now(self._decoder) - began)
        return max(min(found), 1e-9)


def _ids(decoder: Decoder, tokens: int, length: int) -> Tensor:
    known = int(decoder.model.get_input_embeddings().weight.shape[0])
    rows = max(1, tokens // length)
    return torch.arange(rows * length).remainder(known).view(rows, length)


def _entering(decoder: Decoder, tokens: int, length: int) -> tuple[Tensor, list[LayerArguments]]:
    return decoder.embed(_ids(decoder, tokens, length))


def _pass(decoder: Decoder, layer: int, tokens: int, length: int) -> Callable[[], Tensor]:
    h, calls = _entering(decoder, tokens, length)
    return lambda: decoder.step(layer, h, calls)


def _gradients(clock: _Clock, decoder: Decoder, layer: int, tokens: int, length: int) -> float:
    """Seconds a token, forward and backward; three times a pass where the layer's code keeps gradients from it."""
    h, calls = _entering(decoder, tokens, min(length, tokens))
    try:
        return clock.of(_learning(decoder, layer, h, calls)) / h.shape[:2].numel()
    except RuntimeError:
        return 3 * clock.of(lambda: decoder.step(layer, h, calls)) / h.shape[:2].numel()


def _healed(clock: _Clock, decoder: Decoder, layer: int, length: int, precision: Precision) -> float:
    """The same as a healing computes it: of weights in float32, by this number format."""
    own = sum(parameter.numel() for parameter in decoder.layers[layer].parameters())
    tokens = _learned_at_once(decoder, own, _HEALED)
    h, calls = _entering(decoder, tokens, min(length, tokens))
    h, calls = h.float(), [LayerArguments(to_float32(call.args), to_float32(call.kwargs)) for call in calls]
    return (
        _in(precision, decoder, lambda computing: clock.of(_learning(decoder, layer, h, calls, computing)))
        / h.shape[:2].numel()
    )


def _learned_at_once(decoder: Decoder, parameters: int, most: int) -> int:
    """Tokens of one timed pass of so many parameters, forward and backward, as a healing runs it."""
    if decoder.device.type != "cpu":
        return most
    return int(min(most, max(_FEWEST, _HEALED_OPERATIONS / (6 * max(1, parameters)))))


def _in(precision: Precision, decoder: Decoder, of: Callable[[Computing], float]) -> float:
    """`of` a number format, or of float32 itself where the model's code bears no other, as a healing does then."""
    if precision == "no":
        return of(nullcontext)
    try:
        return of(lambda: torch.autocast(decoder.device.type, _COMPUTED[precision]))
    except RuntimeError:
        return of(nullcontext)


def _learning(
    decoder: Decoder,
    layer: int,
    h: Tensor,
    calls: list[LayerArguments],
    computing: Computing = nullcontext,
) -> Callable[[], None]:
    """A pass forward and backward, of the layer's weights in the format of h. computing: around what goes forward."""
    own = {
        name: value.detach().to(h.dtype).requires_grad_()
        for name, value in decoder.layers[layer].named_parameters()
        if value.is_floating_point()
    }

    def work() -> None:
        with torch.enable_grad():
            with computing():  # anew each time: it keeps casts of weights as long as it lasts
                out = decoder.step(layer, h, calls, own).float().square().sum()
            torch.autograd.grad(out, list(own.values()), allow_unused=True)

    return work


def _head(clock: _Clock, decoder: Decoder, shape: ModelShape) -> float:
    """Seconds a token; of a head with fewer rows than the model's, as many times as it has fewer."""
    rows = int(decoder.model.get_output_embeddings().weight.shape[0])
    tokens = int(min(256, max(16, _OPERATIONS / (2 * rows * shape.hidden))))
    tokens = min(tokens, decoder.max_length)
    h, _ = _entering(decoder, tokens, tokens)
    ids = _ids(decoder, tokens, tokens).to(h.device)

    def work() -> None:
        logits = decoder.logits(h, ids).float()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").sum()

    return clock.of(work) / tokens * shape.vocabulary / rows


def _taught(clock: _Clock, decoder: Decoder, shape: ModelShape, precision: Precision) -> float:
    """The same with gradients, as a healing computes it: of weights in float32, by this number format."""
    weight = decoder.model.get_output_embeddings().weight
    rows, width = weight.shape
    most = min(_HEALED, next(chunks(decoder, _HEALED)).stop)
    tokens = _learned_at_once(decoder, rows * width, most)
    # as even as what leaves real layers: of embeddings some logits are so far from the others that exponentials of
    # their differences are subnormal, which processors multiply slowly
    h = torch.arange(tokens * shape.hidden, device=weight.device).sin().view(tokens, -1).to(decoder.dtype)
    x = torch.ones(tokens, width, device=weight.device)

    def of(computing: Computing) -> float:
        def work() -> None:
            with computing():
                logits = head(decoder, h).float()
                slope = kl(logits, 1.0, logits.clone(), backward=True)[1]
                assert slope is not None
                slope @ weight.float(), slope.T @ x

        return clock.of(work)

    return _in(precision, decoder, of) / tokens * float(shape.vocabulary / rows)


def _summed(clock: _Clock, decoder: Decoder, shape: ModelShape, tokens: int) -> float:
    """Seconds of an operation of a product of tokens, float32, as of a Gram matrix."""
    k = min(shape.inner, 4 * _LARGEST)
    tokens = int(min(tokens, max(_FEWEST, _OPERATIONS / (2 * k * k)))) if decoder.device.type == "cpu" else tokens
    a = torch.ones(tokens, k, device=decoder.device)
    return clock.of(lambda: a.T @ a) / (2 * tokens * k * k)


def _factorised(clock: _Clock, decoder: Decoder, shape: ModelShape) -> float:
    """Seconds of an operation of float64: a factorisation, an inverse and a product."""
    n = min(2 * shape.inner, _LARGEST)
    matrix = torch.eye(n, dtype=torch.float64, device=exact_device(decoder.device)).add_(0.1)

    def work() -> None:
        factor, _ = torch.linalg.cholesky_ex(matrix)
        torch.cholesky_inverse(factor) @ matrix

    return clock.of(work) / ((1 / 3 + 2 / 3 + 2) * n**3)


def _copied(clock: _Clock, decoder: Decoder) -> float:
    """Seconds of a byte that is read or written in memory."""
    one = torch.zeros(_BYTES // 4, device=decoder.device)
    other = torch.empty_like(one)
    return clock.of(lambda: other.copy_(one)) / (2 * _BYTES)


def _stored(clock: _Clock) -> float:
    """Seconds of a byte that goes to a temporary file, or comes from one."""
    content = bytes(_BYTES // 2)

    def work() -> None:
        file.seek(0)
        file.write(content)
        file.seek(0)
        file.read(len(content))

    with tempfile.TemporaryFile() as file:
        return clock.of(work) / (2 * len(content))


def _hashed(clock: _Clock) -> float:
    content = bytes(_BYTES // 4)
    return clock.of(lambda: hashlib.sha256(content).digest()) / len(content)
