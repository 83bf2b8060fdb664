"""Many batches through the layers, in the order that the place where layers live asks for.

In memory each batch goes through all layers by itself. On disk all batches go through a layer before the next one is
read, with their states on disk between, so that a pass reads every layer once. A batch's states are the same numbers
either way, and batches are handed out in their order, so what is added up of them is the same too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from torch import Tensor

from lowrise.model.decoder import Decoder
from lowrise.model.layer import LayerArguments
from lowrise.observe.activation_store import ActivationStore
from lowrise.observe.lent_states import LentStore

Step = Callable[[int, Tensor, list[LayerArguments]], Tensor]
Told = Callable[[int, int, Tensor], None]


def through(
    decoder: Decoder,
    batches: Sequence[Tensor],
    layers: Sequence[int],
    step: Step,
    begin: Callable[[int], Tensor] | None = None,
    told: Told | None = None,
    following: int | None = None,
    lent: LentStore | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(number, ids, what leaves the last of `layers`) of every batch of token ids, (batch, tokens).

    step: as of `Decoder.step`. begin: what enters the first of the layers, of the batch of a number; None: h[0]. told:
    (number, layer, what enters it), of each layer once a batch has come to it, right behind the step before; at last of
    the layer `following`, which reads what the last one writes (None: L). lent: where what layers below lent lies, and
    what these lend is kept.
    """
    places = [*layers, len(decoder) if following is None else following]
    if not _layer_by_layer(decoder, batches):
        for number, ids in enumerate(batches):
            h, calls = decoder.embed(ids)
            h = h if begin is None else begin(number).to(h.device)
            calls = calls if lent is None else lent.on(number, places[0], calls)
            if told is not None:
                told(number, places[0], h)
            for layer, place in itertools.pairwise(places):
                h = step(layer, h, calls)
                if lent is not None:
                    lent.keep(number, layer, calls)
                if told is not None:
                    told(number, place, h)
            yield number, ids, h
        return
    with ActivationStore(decoder.store.folder) as states:
        loans = LentStore(decoder, states, lambda _: "lent") if lent is None else lent
        for number, ids in enumerate(batches):
            h = decoder.embed(ids)[0] if begin is None else begin(number)
            if told is not None:
                told(number, places[0], h)
            states.put(number, h)
        for layer, place in itertools.pairwise(places):
            for number, ids in enumerate(batches):
                calls = loans.on(number, layer, decoder.embed(ids)[1])
                h = step(layer, states.get(number).to(decoder.device), calls)
                loans.keep(number, layer, calls)
                if told is not None:
                    told(number, place, h)
                states.put(number, h)
        for number, ids in enumerate(batches):
            yield number, ids, states.get(number).to(decoder.device)


def states_of_batches(
    decoder: Decoder, batches: Iterable[Tensor], stop: int | None = None, wanted: Collection[int] | None = None
) -> Iterator[tuple[Tensor, Iterator[tuple[int, Tensor]]]]:
    """(ids, its states as of `Decoder.states` up to `stop`) of every batch.

    wanted: states that are enough, by layer; others may come too. On disk lie as many batches' states as the layers
    there take themselves, and for every so many batches layers are read once.
    """
    batches = [*batches]
    if not _layer_by_layer(decoder, batches):
        for ids in batches:
            yield ids, decoder.states(ids, stop)
        return
    last = len(decoder) if stop is None else stop
    kept = [layer for layer in range(last + 1) if wanted is None or layer in wanted]
    for group in _groups(decoder, batches, len(kept)):
        with ActivationStore(decoder.store.folder) as states:

            def keep(number: int, layer: int, h: Tensor, states: ActivationStore = states) -> None:
                if layer in kept:
                    states.put((layer, number), h)

            for _ in through(decoder, group, range(last), decoder.step, told=keep, following=last):
                pass
            for number, ids in enumerate(group):
                yield ids, ((layer, states.get((layer, number)).to(decoder.device)) for layer in kept)


def logits_of_batches(decoder: Decoder, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, logits (batch, tokens, vocabulary)) of every batch, as the model itself gives them; of parts of it where
    the device has too little memory.
    """
    batches = [ids.to(decoder.device) for ids in batches]
    if decoder.networks or not _layer_by_layer(decoder, batches):
        for ids in batches:
            yield from decoder.batching.parts(ids, lambda some: decoder.model(input_ids=some, use_cache=False).logits)
        return
    for _, ids, h in through(decoder, batches, range(len(decoder)), decoder.step):
        yield ids, decoder.logits(h, ids)


def _layer_by_layer(decoder: Decoder, batches: Sequence[Tensor]) -> bool:
    """Not of one batch."""
    return decoder.store.layer_by_layer and len(batches) > 1


def _groups(decoder: Decoder, batches: Sequence[Tensor], states: int) -> Iterator[list[Tensor]]:
    """So many batches that their states take no more room than the layers, or one. states: of each batch."""
    group: list[Tensor] = []
    taken = 0
    for ids in batches:
        size = (states + 1) * ids.numel() * decoder.hidden_size * decoder.dtype.itemsize
        if group and taken + size > decoder.store.size:
            yield group
            group, taken = [], 0
        group, taken = [*group, ids], taken + size
    if group:
        yield group
