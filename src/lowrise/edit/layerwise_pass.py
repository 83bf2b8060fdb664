"""Dense model and student side by side, from the bottom up: what every repair is fitted on, and nothing run twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property, partial

import torch
from torch import Tensor

from lowrise.calibration import Windows
from lowrise.edit.kept_attention import KeptAttention
from lowrise.edit.student import Student
from lowrise.heap import BETWEEN_STEPS, give_back
from lowrise.model.blocks import Block
from lowrise.model.layer import Layer, LayerArguments
from lowrise.model.lending import lends
from lowrise.model.matrices import Matrix
from lowrise.model.structure import blocks_of
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.lent_states import LentStore
from lowrise.observe.passes import through


def batches_of(fitted: Windows, held_out: Windows, tokens: int, *, mixed: bool) -> list[tuple[Tensor, bool]]:
    """Token ids, about `tokens` of them, and whether they are held out. mixed: as `Windows.mixed_batches` cuts them."""
    return [
        (ids, held)
        for windows, held in ((fitted, False), (held_out, True))
        for ids in (windows.mixed_batches(tokens) if mixed else windows.batches(tokens))
    ]


class LayerContext:
    """A layer of the student, what it is given, and the dense model's states about it: what it is repaired on.

    batches: as `batches_of` makes them. What lies in the store has a name and the number of a batch;
    "student" is what enters the layer. most_epochs: of block reconstruction, where it is not to take its own number.
    """

    most_epochs: int | None = None

    def __init__(
        self, student: Student, store: ActivationStore, layer: int, batches: list[tuple[Tensor, bool]]
    ) -> None:
        self.student, self.decoder, self.store, self.layer = student, student.decoder, store, layer
        self._batches = batches
        self._shapes: dict[Hashable, tuple[tuple[torch.Size, torch.dtype] | None, ...]] = {}
        self._dense_layer = self.decoder.layer(layer)
        self._attention: KeptAttention | None = None
        self._lent = LentStore(self.decoder, store, self._lent_by)

    def _lent_by(self, _layer: int, /) -> Hashable:
        """In whose run a layer lent what the student's are given."""
        return "student"

    @property
    def dense_layer(self) -> Layer:
        """The dense model's own. The student's is like it but for the parameters that are changed."""
        if self._dense_layer.index != self.layer:
            self._dense_layer = self.decoder.layer(self.layer)
        return self._dense_layer

    @property
    def device(self) -> torch.device:
        """Where the layer lies."""
        return self.decoder.device_of(self.layer)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its blocks, whatever its family; what they say of parameters holds for the student's too."""
        return blocks_of(self.decoder, self.layer)

    @property
    def stop(self) -> int:
        """The original layer that reads what `layer` writes."""
        return self.student.following(self.layer)

    @property
    def gap(self) -> bool:
        """Whether layers are gone behind `layer`."""
        return self.stop != self.layer + 1

    def batches(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, bool, list[LayerArguments]]]:
        """(number, whether it is held out, the layers' calls, the student's). numbers: of those alone."""
        for number, (ids, held) in enumerate(self._batches):
            if numbers is None or number in numbers:
                yield number, held, self._lent.on(number, self.layer, self.decoder.embed(ids)[1])

    def some(self, tokens: int) -> set[int]:
        """Numbers of all batches that are held out, and of fitted ones, evenly spaced, with `tokens` tokens at least.

        All of them where there are no more tokens.
        """
        fitted = self.numbers(held=False)
        share = min(1.0, tokens / max(1, sum(self._batches[number][0].numel() for number in fitted)))
        count = math.ceil(share * len(fitted))
        chosen = {fitted[place * len(fitted) // count] for place in range(count)}
        return chosen | {*self.numbers(held=True)}

    def held_out(self) -> Iterator[tuple[int, list[LayerArguments]]]:
        """(number, the layers' calls) of the batches that are held out."""
        for number in self.numbers(held=True):
            yield number, self._lent.on(number, self.layer, self.decoder.embed(self._batches[number][0])[1])

    def numbers(self, *, held: bool) -> list[int]:
        """Of the batches that are held out, or of those that are fitted."""
        return [number for number, (_, one) in enumerate(self._batches) if one == held]

    def pieces(self, number: int, tokens: int) -> Iterator[tuple[Tensor, Tensor, list[LayerArguments]]]:
        """(what enters the layer, its target, the layers' calls), about `tokens` tokens of a batch at a time."""
        a_piece = self._rows(number, tokens)
        parts = (self._batches[number][0], self.get("student", number), self.target(number))
        for at, (ids, h, target) in enumerate(zip(*(part.split(a_piece) for part in parts), strict=True)):
            rows = slice(at * a_piece, (at + 1) * a_piece)
            yield h, target, self._lent.on(number, self.layer, self.decoder.embed(ids)[1], rows)

    def count(self, number: int, tokens: int) -> int:
        """How many pieces there are."""
        return -(-len(self._batches[number][0]) // self._rows(number, tokens))

    def _rows(self, number: int, tokens: int) -> int:
        return max(1, tokens // self._batches[number][0].shape[1])

    def get(self, what: Hashable, number: int) -> Tensor:
        return self.store.get((what, number)).to(self.device, non_blocking=True)

    def put(self, what: Hashable, number: int, value: Tensor) -> None:
        self.store.put((what, number), value)

    def put_rows(self, what: Hashable, number: int, *values: Tensor | None) -> None:
        """Of a batch, what is of so many tokens that it may be more or less of the next layer's."""
        shapes = tuple(None if value is None else (value.shape, value.dtype) for value in values)
        self._shapes[what, number] = shapes
        for place, value in enumerate(values):
            if value is not None:
                self.put((what, place, shapes[place]), number, value)

    def get_rows(self, what: Hashable, number: int) -> list[Tensor | None]:
        shapes = self._shapes[what, number]
        return [None if shape is None else self.get((what, place, shape), number) for place, shape in enumerate(shapes)]

    def target(self, number: int) -> Tensor:
        """The dense model's h[stop]."""
        return self.get("dense", number)

    def run(
        self, number: int, calls: list[LayerArguments], instead: Mapping[str, Tensor] | None = None
    ) -> Callable[[], Tensor]:
        """The student's layer on a batch, as it is now, but for what `instead` gives."""

        def layer() -> Tensor:
            attention = self._attention
            with nullcontext() if attention is None else attention.of(number, calls[self.layer], instead):
                return self.step(self.get("student", number), calls, instead)

        return layer

    def keep_attention(self) -> None:
        """What the layer's attention makes is computed once a batch from now on, until `forget_attention`.

        Meanwhile nothing of it may change, nor what enters the layer.
        """
        name = "kept attention"
        self._attention = KeptAttention(self.dense_layer, partial(self.put, name), partial(self.get, name))

    def forget_attention(self) -> None:
        self._attention = None

    def step(self, h: Tensor, calls: list[LayerArguments], instead: Mapping[str, Tensor] | None = None) -> Tensor:
        """The same from what enters the layer, (batch, tokens, hidden)."""
        own = {**self.student.changed.get(self.layer, {}), **(instead or {})}
        return self.dense_layer.call(h, calls[self.layer], own)

    def propagate(self) -> None:
        """The student through the layer as it is now; "student" is then what leaves it."""
        for number, _, calls in self.batches():
            self.put("student", number, self.run(number, calls)())
            self._lent.keep(number, self.layer, calls)

    def parameter(self, name: str) -> Tensor:
        """The layer's, by path, as it is now."""
        return self.student.parameter(self.layer, name)

    def set_weights(self, parameters: Mapping[str, Tensor]) -> None:
        """The student's layer has these, by path, from now on."""
        for name, value in parameters.items():
            self.student.change(self.layer, name, value)

    def reset(self, parameters: Mapping[str, Tensor]) -> None:
        """The student's layer is the dense one but for these, by path, from now on."""
        self.student.changed.pop(self.layer, None)
        self.set_weights(parameters)

    def update(self, matrix: Matrix, own: Tensor, change: Tensor) -> Tensor:
        """The student's layer has `matrix`, W = `own` (k, d), changed from now on; by how much, once it is rounded."""
        weight, change = matrix.moved(own, change, self.decoder.dtype)
        self.student.change(self.layer, matrix.parameter, weight)
        return change


class LayerwisePass(LayerContext):
    """start: the lowest layer that is repaired; below it the two are one, unless the bottom itself is gone.
    mixed: as of `batches_of`. resumed: the store holds both states at the entry of `start`, of a pass that was begun
    further down. settled: what was changed in the layer that was passed last, by path.

    Both stand at the entry of student layer `layer`: the student has what its layers below made, the dense model has
    h[layer]. On disk lie one state of both and what a repair puts there; in memory one batch.
    """

    def __init__(
        self,
        student: Student,
        windows: Windows,
        held_out: int,
        store: ActivationStore,
        start: int,
        *,
        mixed: bool,
        resumed: bool = False,
    ) -> None:
        parts = windows.cut(len(windows) - held_out)
        super().__init__(student, store, start, batches_of(*parts, student.decoder.batch_tokens, mixed=mixed))
        self.settled: dict[str, Tensor] = {}
        if not resumed:
            self._enter(start)

    def _enter(self, start: int) -> None:
        bottom, store = self.student.layers[0], self.store
        batches = [ids for ids, _ in self._batches]
        for number, ids, h in through(self.decoder, batches, range(start), self.decoder.step, lent=self._lent_by_dense):
            # below the first gap the two are one
            store.put(("student", number), self.decoder.embed(ids)[0] if bottom > 0 else h)
            store.put(("dense", number), h)
            if bottom == 0:
                self._lent.take(number, start, self._lent_by_dense)

    @cached_property
    def _lent_by_dense(self) -> LentStore:
        return LentStore(self.decoder, self.store, lambda _: "dense")

    def dense(self, number: int, calls: list[LayerArguments]) -> Tensor:
        """The dense model's h[stop] of a batch, from its h[layer]; its own state from now on."""
        h, calls = self.get("dense", number), self._lent_by_dense.on(number, self.layer, calls)
        for one in range(self.layer, self.stop):
            h = self.decoder.step(one, h, calls)
            self._lent_by_dense.keep(number, one, calls)
        self.put("dense", number, h)
        return h

    def leave_layer(self, change: Tensor) -> None:
        """The student behind the layer, of what lies in the store: "out", and what a matrix changed by `change` (k, d)
        writes more of its "inputs" (tokens, k). A layer that lends is run, so that this is kept too.
        """
        if self.layer in lends(self.decoder):
            self.propagate()
            return
        for number in range(len(self._batches)):
            more = self.get("inputs", number).float() @ change
            self.put("student", number, self.get("out", number) + more.to(self.decoder.dtype))

    def pass_on(self) -> None:
        """Both through a layer that stays as it is."""
        for number, _, calls in self.batches():
            self.dense(number, calls)
        self.pass_student()

    def pass_student(self) -> None:
        """The student through its layer as it is now, where the dense model has been already."""
        self.propagate()
        self.advance()

    def advance(self) -> None:
        """On to the next layer. The dense model will not need this one again, so what changed in it is written."""
        self.settled = dict(self.student.changed.get(self.layer, {}))
        self.student.commit(self.layer)
        self.layer = self.stop
        give_back(BETWEEN_STEPS)
