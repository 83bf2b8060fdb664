"""Training a lightweight network on stored pairs (LLM-Streamline, arXiv 2403.19135, section 3.2, "MSE loss")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from lowrise.edit.replace import Trainee
from lowrise.errors import LowriseError
from lowrise.heal.calls import full_window_calls
from lowrise.heal.pairs import Pairs
from lowrise.heal.schedule import Schedule, make_schedule
from lowrise.heal.state import Progress, TrainingState
from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.progress import Reporter
from lowrise.results import Curve
from lowrise.settings import Loss, Training
from lowrise.work import Work

MICRO_TOKENS = 4096  # tokens whose activations are held for one backward pass
VALIDATIONS = 20


def train(
    decoder: Decoder,
    trainee: Trainee,
    pairs: Pairs,
    settings: Training,
    seed: int,
    progress: Reporter,
    work: Work | None = None,
) -> Curve:
    """Train in place and leave the weights that did best on the held-out windows, which are the last ones of `pairs`
    (two windows at least).

    Deterministic for a seed on one machine. work: keeps where it stands, every so often. Raises LowriseError when the
    loss stops being finite.
    """
    held_out = min(max(1, round(settings.validation * len(pairs))), len(pairs) - 1)
    count = len(pairs) - held_out
    schedule = make_schedule(count, pairs.inputs.shape[1], settings)
    optimiser = torch.optim.AdamW(
        trainee.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.999)
    )
    run = _Run(decoder, trainee, pairs, settings.loss)
    validation = range(count, len(pairs))
    every = max(1, schedule.steps // VALIDATIONS)
    state = TrainingState(work or Work(), trainee, optimiser)
    done = state.restore()
    if done is None:
        first = run.evaluate(validation)
        done = Progress(points=[(0, first)], best=first, best_weights=_copy(trainee))
    rows_left = enumerate(_batches(count, schedule, seed))
    with progress.bar("training", schedule.steps) as bar:
        if done.step:
            bar.advance(0, "kept from before", steps=done.step)
        for step, rows in islice(rows_left, done.step, None):
            rate = schedule.rate(step, settings)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad()
            loss = run.backward(rows)
            trainee.before_step()
            torch.nn.utils.clip_grad_norm_(trainee.parameters, settings.clip)
            optimiser.step()
            done.step = step + 1
            done.losses.append((done.step, loss))
            last = done.step == schedule.steps
            if done.step % every == 0 or last:
                done.points.append((done.step, run.evaluate(validation)))
                if done.points[-1][1] < done.best:
                    done.best_step, done.best = done.points[-1]
                    done.best_weights = _copy(trainee)
            state.keep(done, last=last)
            bar.advance(len(rows) * pairs.inputs.shape[1], f"loss {loss:.4g}  held out {done.points[-1][1]:.4g}")
    trainee.module.load_state_dict(done.best_weights)
    if not all(torch.isfinite(torch.tensor(value)) for _, value in done.losses + done.points):
        raise LowriseError("the training loss became infinite or NaN: lower training.learning_rate")
    return Curve(
        loss=settings.loss,
        train=done.losses,
        validation=done.points,
        best_step=done.best_step,
        best=done.best,
        dropped=run.evaluate_dropped(validation),
        steps=schedule.steps,
        epochs=schedule.epochs,
        batch_windows=schedule.batch,
        training_tokens=count * pairs.inputs.shape[1],
        validation_tokens=held_out * pairs.inputs.shape[1],
        last_learning_rate=schedule.rate(schedule.steps - 1, settings),
    )


class _Run:
    """Forward and backward over rows of the pairs, in pieces small enough to hold."""

    def __init__(self, decoder: Decoder, trainee: Trainee, pairs: Pairs, loss: Loss) -> None:
        self._decoder, self._trainee, self._pairs, self._loss = decoder, trainee, pairs, loss
        self._length = pairs.inputs.shape[1]
        self._piece = max(1, MICRO_TOKENS // self._length)
        self._calls: dict[int, list[LayerArguments]] = {}

    def backward(self, rows: list[int]) -> float:
        """Mean loss over `rows`, its gradient accumulated where there is none yet."""

        def all_of_them() -> float:
            total = 0.0
            for loss, piece in self._losses(rows):
                loss = loss * (len(piece) / len(rows))
                loss.backward()
                total += float(loss.detach())
            return total

        return self._fitting(len(rows), all_of_them)

    @torch.no_grad()
    def evaluate(self, rows: range) -> float:
        def all_of_them() -> float:
            return sum(float(loss) * len(piece) for loss, piece in self._losses(list(rows)))

        return self._fitting(len(rows), all_of_them) / len(rows)

    def _losses(self, rows: list[int]) -> Iterator[tuple[Tensor, list[int]]]:
        for piece in _pieces(rows, self._piece):
            inputs, targets = self._take(piece)
            yield self._measure(self._trainee.forward(inputs, self._calls_for(len(piece))), targets), piece

    def _fitting(self, rows: int, run: Callable[[], float]) -> float:
        """What `run` finds, anew with pieces half as large where memory ends."""
        first = min(self._piece, rows)

        def anew(piece: int) -> float:
            if piece < first:
                self._piece = piece
                for parameter in self._trainee.parameters:
                    parameter.grad = None
            return run()

        return self._decoder.batching.halving(first, self._length, anew)

    @torch.no_grad()
    def evaluate_dropped(self, rows: range) -> float:
        """The loss if h[start] were passed on as it is."""
        pieces = _pieces(list(rows), self._piece)
        return sum(float(self._measure(*self._take(piece))) * len(piece) for piece in pieces) / len(rows)

    def _take(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        device = self._trainee.parameters[0].device
        return self._pairs.inputs[rows].to(device).float(), self._pairs.targets[rows].to(device).float()

    def _measure(self, estimate: Tensor, target: Tensor) -> Tensor:
        squares = (estimate - target).square()
        if self._loss == "mse":
            return squares.mean()
        return (squares.sum(-1) / target.square().sum(-1)).mean()

    def _calls_for(self, rows: int) -> list[LayerArguments]:
        if rows not in self._calls:
            self._calls[rows] = full_window_calls(self._decoder, rows, self._length)
        return self._calls[rows]


def _batches(windows: int, schedule: Schedule, seed: int) -> Iterator[list[int]]:
    """Rows of every optimiser step: each epoch all windows once, in a new seeded order."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(schedule.epochs):
        yield from _pieces(torch.randperm(windows, generator=generator).tolist(), schedule.batch)


def _pieces(rows: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _copy(trainee: Trainee) -> dict[str, Tensor]:
    """The weights as they are now, not as they will be: state_dict alone hands out the live tensors."""
    return {name: value.detach().clone() for name, value in trainee.module.state_dict().items()}
