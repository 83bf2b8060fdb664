"""What layers lend in runs that stop and go on later: kept beside the states that such a run goes on from.

A state that enters a layer is then the whole of what a run needs there. Where nothing is lent nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.model.lending import Place, going_on, lends, lent_in, sources_below
from lowrise.observe.activation_store import ActivationStore


class LentStore:
    """Of one run of all batches. whose: in which run of those in the store a layer lent what it did, by layer. numbers:
    that the batches have there, where not all are run.

    In the store lies what each layer lends of a batch under ((run, layer, *place), number of the batch).
    """

    def __init__(
        self,
        decoder: Decoder,
        store: ActivationStore,
        whose: Callable[[int], Hashable],
        numbers: Sequence[int] | None = None,
    ) -> None:
        self._decoder, self._store, self._whose, self._numbers = decoder, store, whose, numbers
        lends(decoder)  # asked now: later on, layers may be watched as they run

    def keep(self, number: int, layer: int, calls: list[LayerArguments]) -> None:
        """What `layer` has just lent of a batch, where it lends anything."""
        places = lends(self._decoder).get(layer, ())
        lent = lent_in(calls) if places else {}
        for place in places:
            self._store.put(self._key(layer, place, number), lent[place])

    def take(self, number: int, layer: int, other: LentStore, its_number: int | None = None) -> None:
        """What is lent below `layer` is from now on as in `other`, of the same batch, which may have another number."""
        theirs = other._below(number if its_number is None else its_number, layer)
        for place, source in sources_below(self._decoder, layer).items():
            if place in theirs:
                self._store.put(self._key(source, place, number), theirs[place])

    def on(
        self, number: int, layer: int, calls: list[LayerArguments], rows: slice | None = None
    ) -> list[LayerArguments]:
        """The calls of a batch, of a run that goes on at `layer`. rows: those of the batch that they are of."""

        return going_on(calls, lambda: self._below(number, layer, rows))

    def _below(self, number: int, layer: int, rows: slice | None = None) -> dict[Place, Tensor]:
        found: dict[Place, Tensor] = {}
        for place, source in sources_below(self._decoder, layer).items():
            key = self._key(source, place, number)
            if key in self._store:
                value = self._store.get(key).to(self._decoder.device_of(layer))
                found[place] = value if rows is None else value[rows]
        return found

    def _key(self, layer: int, place: Place, number: int) -> Hashable:
        return (self._whose(layer), layer, *place), number if self._numbers is None else self._numbers[number]
