"""Which parameters of a shallow model are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lowrise.edit.student import layers_left
from lowrise.errors import RecipeError
from lowrise.model.decoder import Decoder
from lowrise.plan import Merge, Plan, Replace
from lowrise.settings import Heal, Trained

_SAMPLE = 256  # numbers of a matrix that tell whether it is another's
TAIL = 3  # layers that are trained with the head (arXiv 2411.15558)


def prepare(
    decoder: Decoder, train: Trained, settings: Heal, seed: int, plan: Plan | None, dense: Sequence[dict[str, Tensor]]
) -> Callable[[], None]:
    """Let what is to be trained ask for gradients and nothing else; returns what makes of it a plain model again.

    plan: of the cut, if it is known. dense: `samples` of the dense model, which tell where layers are gone without it.
    Raises RecipeError where neither tells what is to be trained.
    """
    decoder.model.requires_grad_(train == "all")
    for parameter in decoder.beside.values():
        parameter.requires_grad_(False)
    if train == "lora":
        return _adapters(decoder, settings, seed)
    if train in ("network", "gaps"):
        for network in decoder.networks:
            network.requires_grad_(True)
        for layer in _networks(decoder, plan) if train == "network" else gaps(decoder, plan, dense):
            decoder.layers[layer].requires_grad_(True)
    if train == "tail":
        decoder.model.get_output_embeddings().requires_grad_(True)
        for module in list(decoder.layers)[-TAIL:]:
            module.requires_grad_(True)
    return lambda: None


@torch.no_grad()
def weight_scale(decoder: Decoder) -> float:
    """Root mean square of a matrix of the layers, the median of all."""
    matrices = [one for layer in decoder.layers for one in layer.parameters() if one.dim() > 1]
    return median(float(one.detach().float().square().mean().sqrt()) for one in matrices)


def adapter_rank(decoder: Decoder, settings: Heal) -> int:
    """No larger one says more of a matrix that reads or writes the stream."""
    return min(settings.rank, decoder.hidden_size)


def _adapters(decoder: Decoder, settings: Heal, seed: int) -> Callable[[], None]:
    """Low-rank adapters (arXiv 2106.09685) on all linear modules but the head, by peft; merged by what it returns."""
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=adapter_rank(decoder, settings),
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        exclude_modules=[name.rpartition(".")[0] for name in decoder.beside] or None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = LoraModel(decoder.model, config, "default")

    def merge() -> None:
        adapted.merge_and_unload()

    return merge


def _networks(decoder: Decoder, plan: Plan | None) -> list[int]:
    """Layers of the shallow model that were trained in a span's place; none where networks stand outside of them."""
    if decoder.networks:
        return []
    edits = [] if plan is None else [edit for edit in plan.edits if isinstance(edit, Replace) and edit.in_a_layer]
    if plan is None or not edits:
        found = "no lowrise/plan.json beside the model" if plan is None else "a plan that puts nothing back"
        expected = "a model with a trained network in a span's place, as streamline makes it"
        raise RecipeError("--train network", expected, found, "choose gaps or all")
    kept = layers_left(plan.model.layers, plan.edits)
    return [kept.index(edit.start) for edit in edits]


def gaps(decoder: Decoder, plan: Plan | None, dense: Sequence[dict[str, Tensor]]) -> list[int]:
    """Layers of the shallow model below and above every place where layers are gone, and those merged or put there.

    Raises RecipeError where neither a plan nor the weights tell where that is.
    """
    if plan is not None:
        kept = layers_left(plan.model.layers, plan.edits)
        changed = [edit.start for edit in plan.edits if isinstance(edit, Merge | Replace)]
        sources: list[int | None] = [None if layer in changed else layer for layer in kept]
        if len(kept) != len(decoder):
            found = f"{len(decoder)} layers beside a plan for {len(kept)}"
            raise RecipeError("--train gaps", "a model that its plan describes", found, "choose all or lora")
    else:
        sources = _aligned(decoder, dense)
    layers = len(dense) if plan is None else plan.model.layers
    beside = {position for position, source in enumerate(sources) if source is None}
    beside |= {position + step for position in beside for step in (-1, 1)}
    ends: list[int | None] = [-1, *sources, layers]
    for position, (below, above) in enumerate(pairwise(ends)):
        if below is not None and above is not None and above > below + 1:
            beside |= {position - 1, position}
    return sorted(beside & {*range(len(decoder))})


@torch.no_grad()
def samples(decoder: Decoder) -> list[dict[str, Tensor]]:
    """Of every layer's matrices the first numbers, by name: enough to know a layer again."""
    return [
        {
            name: parameter.detach().reshape(-1)[:_SAMPLE].float().cpu()
            for name, parameter in layer.named_parameters()
            if parameter.dim() > 1
        }
        for layer in decoder.layers
    ]


def _aligned(decoder: Decoder, dense: Sequence[dict[str, Tensor]]) -> list[int | None]:
    """The dense model's layer that each layer was, by its matrices; None for one that shares none."""
    found: list[int | None] = []
    for own in samples(decoder):
        equal = [sum(_same(own[name], one[name]) for name in own.keys() & one.keys()) for one in dense]
        most = max(equal, default=0)
        found.append(equal.index(most) if most else None)
    known = [layer for layer in found if layer is not None]
    if 2 * len(known) < len(found) or any(above <= below for below, above in pairwise(known)):
        expected = "layers of the dense model in their order, or a lowrise/plan.json beside the model"
        remedy = "choose all, lora or tail"
        raise RecipeError("--train gaps", expected, "weights that do not tell where layers are gone", remedy)
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    """But for what saving in a smaller number format rounds away."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.01, atol=1e-3 * float(other.abs().max()))
