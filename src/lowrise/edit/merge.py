"""Merging layers into one (LaCo's RDSC, https://arxiv.org/abs/2402.11187, section 2.1).

Every rule is linear and its weights sum to one, so a merge, and a merge of merged layers too, is a mix of the
original layers: Σ w_i θ_{start+i}. A mix is a handful of numbers; its weights are made when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrise.errors import PlanError
from lowrise.model.decoder import Decoder
from lowrise.model.same_architecture import difference
from lowrise.plan import Merge, rule_weights
from lowrise.settings import Norms, Rule


@dataclass(frozen=True)
class Mix:
    """A layer made of the original layers [start, start + len(weights)); one weight: that layer itself."""

    start: int
    weights: tuple[float, ...] = (1.0,)

    @property
    def stop(self) -> int:
        return self.start + len(self.weights)


def mix_of(parts: Sequence[Mix], rule: Rule) -> Mix:
    """The merge of adjacent layers, themselves mixes perhaps, expressed in the original layers."""
    shares = rule_weights(rule, len(parts))
    weights = [share * weight for share, part in zip(shares, parts, strict=True) for weight in part.weights]
    return Mix(parts[0].start, tuple(weights))


class MixedParameters(Mapping[str, Tensor]):
    """Parameters of the layer that `mix` is, by their names in it; with `keep`, without those of its norms.

    They are made anew whenever they are asked for, each summed in float32 and rounded to the layer's dtype once. Where
    one layer has all the weight, its own tensors are handed out, not copies of them. All together cost at most one
    layer of memory.
    """

    def __init__(self, layers: nn.ModuleList, mix: Mix, norms: Norms) -> None:
        self._own, *_ = self._parts = [layers[layer] for layer in range(mix.start, mix.stop)]
        self._weights = mix.weights
        kept = _norm_parameters(self._own) if norms == "keep" else set()
        self._names = [name for name, _ in self._own.named_parameters() if name not in kept]

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        parts = zip(self._parts, self._weights, strict=True)
        terms = [(part.get_parameter(name).detach(), weight) for part, weight in parts if weight]
        if len(terms) == 1 and terms[0][1] == 1:
            return terms[0][0]
        total = terms[0][0].float() * terms[0][1]
        for term, weight in terms[1:]:
            total.add_(term.to(total.device), alpha=weight)
        return total.to(self._own.get_parameter(name).dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_alike(decoder: Decoder, edit: Merge) -> None:
    """Raises PlanError naming the first layer that is of another kind than layer `edit.start`."""
    first = decoder.layer(edit.start)
    for layer in range(edit.start + 1, edit.stop):
        unlike = difference(first, decoder.layer(layer))
        if unlike is not None:
            raise PlanError(
                f"merge of layers [{edit.start}, {edit.stop}) of {decoder.family}",
                "layers of one kind",
                f"layer {layer} unlike layer {edit.start} ({unlike})",
                "merge layers of one kind, or drop the span instead",
            )


@torch.no_grad()
def merge(decoder: Decoder, edit: Merge) -> None:
    """Layer `edit.start` takes on the mix, the span's other layers go; in place.

    Raises PlanError as `check_alike` does.
    """
    check_alike(decoder, edit)
    base = decoder.layers[edit.start]
    for name, value in MixedParameters(decoder.layers, Mix(edit.start, tuple(edit.weights)), edit.norms).items():
        base.get_parameter(name).copy_(value)
    decoder.drop(edit.start + 1, edit.stop)


def _norm_parameters(layer: nn.Module) -> set[str]:
    """Names of the parameters that belong to a norm, by its class ("...Norm")."""
    return {
        f"{path}.{name}"
        for path, module in layer.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
