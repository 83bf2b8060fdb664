"""Whether a model can be made shallower: a trial cut is made of it and compared, before anything expensive.

What is refused is refused by the difference that was found. `Decoder.drop` compares each real cut again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import torch

from lowrise.errors import ModelError
from lowrise.model.cut import attempt
from lowrise.model.probing import one_of_every_kind
from lowrise.model.splice import computed_buffers, kind_of_layer
from lowrise.model.trial import agree, difference_of_calls, short_windows, trial_ids, twin, worse_cached
from lowrise.restriction import Restriction

if TYPE_CHECKING:
    from lowrise.model.decoder import Decoder


@torch.no_grad()
def refuse_unfit(decoder: Decoder) -> None:
    """Raises ModelError for layers that do not stand on their own, whatever is cut."""
    if len(decoder) > 1:
        refuse_buffers(decoder)
        refuse_other_orders(decoder, _ids(decoder))


@torch.no_grad()
def prove(decoder: Decoder, restrictions: Sequence[Restriction]) -> None:
    """Raises ModelError naming the first difference between a trial cut and the model without those layers.

    One trial that succeeds is enough, for each cut is tried before it is made.
    """
    found = None
    for kept in trial_cuts(decoder, restrictions):
        other = difference_of_cut(decoder, kept)
        if other is None:
            return
        found = found or (other, kept)
    if found is not None:
        raise refusal(decoder, *found)


@torch.no_grad()
def difference_of_cut(decoder: Decoder, kept: Sequence[int]) -> str | None:
    """Between the model cut to the layers `kept`, on trial, and the model with the others skipped."""
    left, path, where = twin(decoder.model), decoder.layers_path, decoder.where
    found = attempt(left, path, kept, where, decoder.rows)
    return found if found is not None else _computed(decoder, left, kept, _ids(decoder))


def refusal(decoder: Decoder, found: str, kept: Sequence[int]) -> ModelError:
    gone = ", ".join(str(index) for index in range(len(decoder)) if index not in kept)
    return ModelError(
        f"{decoder.where} without layer{'s' if ',' in gone else ''} {gone}",
        "the computation of the layers that are left",
        found,
        "its layers are tied to their position in a way lowrise does not know: remove others, or choose another model",
    )


def trial_cuts(decoder: Decoder, restrictions: Sequence[Restriction]) -> list[list[int]]:
    """Layers to keep in up to two trials: without one of every kind, and without the fewest that can be left out.

    None where no cut of up to three layers is possible.
    """
    layers = list(range(len(decoder)))
    every = one_of_every_kind(decoder.layers)
    middle = sorted(layers, key=lambda index: abs(index - len(layers) // 2))
    fewest = (set(some) for n in (1, 2, 3) for some in combinations(middle, n))
    found: list[list[int]] = []
    for gone in chain([every], fewest):
        kept = [index for index in layers if index not in gone]
        if gone and kept and kept not in found and all(restriction.allows(kept) for restriction in restrictions):
            found.append(kept)
        if found and (len(found) == 2 or gone is not every):
            break
    return found


def _ids(decoder: Decoder) -> torch.Tensor:
    return trial_ids(decoder.model.get_input_embeddings().weight.shape[0], decoder.device)


def refuse_buffers(decoder: Decoder) -> None:
    """Raises ModelError where layers that are alike hold other numbers that every load makes anew: by position."""
    first: dict[str, tuple[int, dict[str, Any]]] = {}
    for index, layer in enumerate(decoder.layers):
        own = dict(computed_buffers(layer))
        same, others = first.setdefault(kind_of_layer(layer), (index, own))
        for name, value in own.items():
            if name in others and not torch.equal(value, others[name].to(value.device)):
                raise ModelError(
                    decoder.where,
                    "decoder layers that stand on their own",
                    f"{name}, which is computed from the layer's position (layers {same} and {index} differ)",
                    "this family cannot be made shallower yet",
                )


def refuse_other_orders(decoder: Decoder, ids: torch.Tensor) -> None:
    """Raises ModelError where layers called one after the other do not give the model's logits, or are given what
    other layers made, but for what they put into a mapping that all of them have.
    """
    whole, calls = decoder.run(ids)
    h, recorded = decoder.embed(ids)
    found = difference_of_calls(calls, recorded, range(len(decoder)))
    if h.shape[:2] != ids.shape:
        found = f"a stream of {tuple(h.shape)} for {ids.shape[1]} tokens"
    if found is None:
        for layer in range(len(decoder)):
            h = decoder.step(layer, h, recorded)
        again = decoder.model(input_ids=ids, use_cache=False).logits
        if not agree(whole, decoder.logits(h, ids), again):
            found = "other logits when they are"
    if found is not None:
        raise ModelError(
            decoder.where,
            "decoder layers that are called one after the other with the stream alone",
            f"{found}: something else passes between them",
            "this family cannot be made shallower yet",
        )


def _computed(decoder: Decoder, left: Any, kept: Sequence[int], ids: torch.Tensor) -> str | None:
    from lowrise.model.decoder import Decoder

    cut_decoder = Decoder(left, decoder.where)
    with short_windows(decoder.config), short_windows(cut_decoder.config):
        found = difference_of_calls(decoder.embed(ids)[1], cut_decoder.embed(ids)[1], kept)
    if found is not None:
        return found
    with decoder.skipping(set(range(len(decoder))) - set(kept)):
        skipped, again = (decoder.model(input_ids=ids, use_cache=False).logits for _ in range(2))
    if not agree(skipped, left(input_ids=ids, use_cache=False).logits, again):
        return "other logits than the whole model gives when those layers are skipped"
    return worse_cached(decoder.model, left, ids)
