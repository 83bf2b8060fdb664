"""Which of a model's parameters a tensor of a GGUF file holds, and in what order: transformers' own reading, reversed.

transformers turns a tensor into parameters by a processor for each architecture: permuted heads, a norm's weight less
one, experts stacked. It is given the numbers 1, 2, 3 … in place of weights; where they land says how a changed
parameter is written back. What it does beside moving numbers and adding one constant is not reversed, but refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from lowrise.engines.gguf_file import Numbers
from lowrise.errors import ModelError
from lowrise.model.gguf_once import read_once


class UnknownArchitectureError(ModelError):
    """transformers does not read such files, or not in a way that is known here."""


@dataclass(frozen=True)
class Landing:
    """What of one parameter a tensor holds. mask: of its numbers, those; None: all of them."""

    parameter: str
    numbers: Numbers
    mask: Numbers | None = None


@dataclass(frozen=True)
class Held:
    """Where each number of one tensor lies: the one at `places[i]` of the parameter, flat, is number `order[i]`.

    constant: what transformers adds. None for both: all of it, in its own order.
    """

    parameter: str
    places: Numbers | None = None
    order: Numbers | None = None
    constant: int = 0


class TensorMap:
    """Of `model`, a causal language model of transformers, and a file of `architecture` with as many layers."""

    def __init__(self, model: Any, architecture: str, where: object) -> None:
        self._where = where
        self._processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
        self.state: dict[str, Tensor] = model.state_dict()
        try:
            with read_once():
                self._names: dict[str, str] = get_gguf_hf_weights_map(model, self._processor)
        except NotImplementedError as error:
            expected = "an architecture whose tensors transformers reads by the gguf package's names"
            raise UnknownArchitectureError(where, expected, architecture, "use --converter") from error

    def parameter(self, name: str) -> str | None:
        """The name of what a tensor is read into, wholly or in part; None for what transformers does not read."""
        return self._names.get(name) or self._names.get(name.removesuffix(".weight"))

    def landings(self, name: str, numbers: Numbers) -> list[Landing]:
        """The parameters, or parts of some, that transformers makes of a tensor, shape as numpy has it."""
        made, parts = self._processed(name, numbers)
        if made is not None:
            return [made]
        found = []
        for parameter, values in parts.items():
            mask = None
            if values.size != numbers.size:
                mask = self._processed(name, _counted(numbers.shape))[1][parameter] != 0
            found.append(Landing(parameter, values, mask))
        return found

    def is_untouched(self, name: str, numbers: Numbers, dtype: torch.dtype) -> bool:
        """Whether the model holds what transformers reads from the tensor, in a checkpoint of `dtype`."""
        landings = self.landings(name, numbers)
        return all(self._equals(landing, dtype) for landing in landings)

    def _equals(self, landing: Landing, dtype: torch.dtype) -> bool:
        ours = self.state[landing.parameter]
        theirs = torch.from_numpy(np.require(landing.numbers, requirements=["C", "W"])).to(dtype).to(ours.dtype)
        ours = ours.detach().cpu()
        if ours.shape != theirs.shape:
            return False
        if landing.mask is None:
            return torch.equal(ours, theirs)
        mask = torch.from_numpy(landing.mask)
        return torch.equal(ours[mask], theirs[mask])

    def held(self, name: str, shape: tuple[int, ...]) -> Held:
        """Raises ModelError for a tensor that transformers reads in a way that cannot be turned round."""
        whole = self.parameter(name)
        if whole is not None:
            own = np.zeros(self.state[whole].shape, np.float32)
            made, _ = self._processed(name, own)
            if made is not None and made.numbers is own and made.parameter == whole:
                return Held(whole)
        made, parts = self._processed(name, _counted(shape))
        found = [made] if made is not None else [Landing(key, values) for key, values in parts.items()]
        if len(found) == 1:
            landed = found[0].numbers.reshape(-1)
            held = _turned_round(found[0].parameter, landed, int(np.prod(shape)))
            if held is not None:
                return held
        expected = "a tensor whose reading by transformers can be turned round"
        raise ModelError(f"{self._where}: {name}", expected, "one that it changes on the way", "use --converter")

    def written(self, held: Held, shape: tuple[int, ...]) -> Numbers:
        """The numbers of the tensor, in float32, as the model has them. shape: of the base's tensor."""
        ours: Numbers = self.state[held.parameter].detach().float().cpu().numpy()
        if held.places is None or held.order is None:
            return ours
        numbers = np.empty(int(np.prod(shape)), np.float32)
        numbers[held.order] = ours.reshape(-1)[held.places] - np.float32(held.constant)
        return numbers.reshape(shape)

    def _processed(self, name: str, numbers: Numbers) -> tuple[Landing | None, dict[str, Numbers]]:
        """What it becomes: one parameter, or what the processor puts into the parameters itself."""
        own: dict[str, Mapping[str, Tensor]] = {"tensors": {}}
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = self._processor.process(
                weights=numbers, name=name, tensor_key_mapping=self._names, parsed_parameters=own
            )
        if made.name is not None and made.name in self._names:
            return Landing(self._names[made.name], made.weights), {}
        return None, {key: value.numpy() for key, value in own["tensors"].items()}


def _counted(shape: tuple[int, ...]) -> Numbers:
    """1, 2, 3 …: 0 is what nothing was written to."""
    return np.arange(1, int(np.prod(shape)) + 1, dtype=np.int64).reshape(shape)


def _turned_round(parameter: str, landed: Numbers, count: int) -> Held | None:
    """landed: 1 … count, moved, all of them changed by one constant or in a part of `landed` that is 0 elsewhere."""
    if landed.dtype.kind != "i":
        return None
    places = np.arange(landed.size) if landed.size == count else np.flatnonzero(landed)
    if places.size != count:
        return None
    order = landed[places] - landed[places].min()
    if not np.array_equal(np.sort(order), np.arange(count)):
        return None
    return Held(parameter, places, order, int(landed[places].min()) - 1)
