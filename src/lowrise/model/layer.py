"""One decoder layer, seen alike in every family: what it reads, what it writes, its norms, its neurons, its call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lowrise.errors import ModelError
from lowrise.exact import exact
from lowrise.model.batching import Batching, joined_rows
from lowrise.model.families import LayerNames, layer_names
from lowrise.model.following import per_layer_lists
from lowrise.model.matrices import Matrix, ReachedError
from lowrise.model.norms import Norm
from lowrise.model.passing import Form, moved
from lowrise.model.passing import LayerArguments as LayerArguments
from lowrise.model.splice import layer_facts

REMEDY = "choose a preset that repairs nothing, such as streamline-none, and no --repair"


class Layer:
    """A view of the decoder layer `module`, number `index` of a stack with this config. It holds no weights.

    What it says of the layer's structure is looked up once. Ask the decoder for a new view after a cut.
    where: the model, for errors. devices: that its layers lie on; of several, what a layer is given goes to its own.
    """

    def __init__(
        self,
        module: nn.Module,
        index: int,
        config: Any,
        where: str,
        form: Form | None = None,
        batching: Batching | None = None,
        devices: int = 1,
    ) -> None:
        self.module, self.index, self._form = module, index, form if form is not None else Form()
        self._config, self._where, self._batching, self._spread = config, where, batching, devices > 1

    # -- what it is -------------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> LayerNames:
        """Raises ModelError as `layer_names` does."""
        return layer_names(str(self._config.model_type), self.module)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its entries of the config's per-layer lists, by the lists' names."""
        return {name: getattr(self._config, name)[self.index] for name in per_layer_lists(self._config)}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Class, plain attributes and parameter shapes of every submodule by path, its index left out."""
        return layer_facts(self.module)

    def parameter(self, name: str) -> Tensor:
        """The layer's own, by path."""
        return self.module.get_parameter(name).detach()

    def call(self, h: Tensor, arguments: LayerArguments, instead: Mapping[str, Tensor] | None = None) -> Tensor:
        """h[index] → h[index + 1], both (batch, tokens, hidden), by the layer's own code.

        instead: parameters by path that stand in for the layer's own during this call. Where the device has too little
        memory the rows are run in parts, unless gradients are wanted or layers lend each other their states.
        """
        of_rows = arguments.of_rows
        if self._batching is None or of_rows is None or torch.is_grad_enabled() or arguments.lent:
            return self._call(h, arguments, instead)
        run = self._batching.in_parts

        def part(rows: slice) -> Tensor | ReachedError:
            if len(h[rows]) == len(h):
                return self._call(h, arguments, instead)
            try:
                return self._call(h[rows], of_rows(rows.start, rows.stop)[self.index], instead)
            except ReachedError as reached:
                return reached

        out = run(len(h), h.shape[1], part, _joined)
        if isinstance(out, ReachedError):
            raise out
        return out

    def _call(self, h: Tensor, arguments: LayerArguments, instead: Mapping[str, Tensor] | None) -> Tensor:
        for lent in arguments.lent:
            lent.enter(self.index)
        if self._spread:
            device = next(self.module.parameters()).device
            h, arguments = h.to(device), moved(arguments, device)
        args = (self._form.theirs(h), *arguments.args)
        if instead:
            out = functional_call(self.module, dict(instead), args, arguments.kwargs)
        else:
            out = self.module(*args, **arguments.kwargs)
        stream: Tensor = out[0] if isinstance(out, tuple | list) else out
        return self._form.ours(stream)

    # -- what it reads and writes -----------------------------------------------------------------------------

    @cached_property
    def attention_inputs(self) -> tuple[Matrix, ...]:
        """The first matrices of its attention, which are all given the same input."""
        return tuple(self._matrix(name) for name in self._known_names.attention_inputs)

    @cached_property
    def mlp_inputs(self) -> tuple[Matrix, ...]:
        """The first matrices of its MLP, likewise."""
        return tuple(self._matrix(name) for name in self._known_names.mlp_inputs)

    @property
    def reads_raw(self) -> bool:
        """Whether its first matrices are given the stream as it is, with no norm between."""
        return self._known_names.raw

    @cached_property
    def attention_output(self) -> Matrix:
        """Attention's last matrix, with the factor but without the norm that may stand between it and the stream."""
        return self._matrix(self._known_names.attention_output, self._known_names.factor)

    @cached_property
    def mlp_output(self) -> Matrix:
        """The MLP's last matrix, likewise."""
        return self._matrix(self._known_names.mlp_output, self._known_names.factor)

    @property
    def mlp_write(self) -> Matrix:
        """How its MLP writes the residual stream.

        Raises ModelError where its matrix is not known, is no matrix, or where a norm stands between it and the stream:
        there the stream is not linear in the matrix, so that no closed form solves for it.
        """
        if self._known_names.mlp_norm is not None:
            expected = "an MLP that writes the residual stream itself"
            raise self.refusal(expected, f"a norm ({self._known_names.mlp_norm}) between the two")
        return self.mlp_output

    @cached_property
    def attention_norm(self) -> Norm | None:
        """Behind its attention; None where the stream is given what attention makes as it is."""
        return self._norm(self.names.attention_norm)

    @cached_property
    def mlp_norm(self) -> Norm | None:
        """Behind its MLP, likewise."""
        return self._norm(self.names.mlp_norm)

    @cached_property
    def norm_scales(self) -> list[str]:
        """Paths of what all its norms scale by, where one stands behind what is written; none elsewhere."""
        if self.mlp_norm is None:
            return []
        own = self.module.named_parameters()
        return [name for name, value in own if value.dim() == 1 and not name.endswith("bias")]

    def refusal(self, expected: str, found: str) -> ModelError:
        """Why its model cannot be repaired."""
        return ModelError(f"{self._where}: repair of family {self._config.model_type}", expected, found, REMEDY)

    # -- its MLP as so many neurons ---------------------------------------------------------------------------

    @cached_property
    def neuron_count(self) -> int:
        """k, of what the MLP's output matrix (k, d) is given."""
        return len(self.mlp_output.matrix(self.parameter(self.mlp_output.parameter)))

    @cached_property
    def neuron_parameters(self) -> dict[str, int]:
        """Paths of all that leads into its neurons, and the axis along which one neuron follows the other."""
        found = {}
        for matrix in self.mlp_inputs:
            found[matrix.parameter] = 1 if matrix.input_first else 0
            if getattr(matrix.module, "bias", None) is not None:
                found[matrix.parameter.removesuffix("weight") + "bias"] = 0
        return found

    def with_input_map(self, change: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """Its `neuron_parameters` by path, with the map (1 + `change`) (d, d) in front of its MLP folded into them."""
        found = {name: self.parameter(name) for name in self.neuron_parameters}
        for matrix in self.mlp_inputs:
            own = matrix.matrix(found[matrix.parameter]).float()
            exactly = exact(own)
            found[matrix.parameter], _ = matrix.moved(own, change.to(exactly.device) @ exactly, dtype)
        return found

    # -- lookups ----------------------------------------------------------------------------------------------

    @cached_property
    def _known_names(self) -> LayerNames:
        """`names`, or a refusal that says which presets need none."""
        try:
            return self.names
        except ModelError as error:
            expected, found = "a decoder layer whose matrices are known", "module names of no known family"
            raise self.refusal(expected, found) from error

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.module.named_modules())

    def _matrix(self, name: str, factor: str | None = None) -> Matrix:
        """factor: the layer's attribute that holds it."""
        module = self._modules.get(name)
        weight = getattr(module, "weight", None)
        if module is None or not isinstance(weight, Tensor) or weight.dim() != 2:
            found = "none of that name" if module is None else f"a {type(module).__name__} without a matrix"
            raise ModelError(f"{self._where}: {name}", "a linear module", found, REMEDY)
        times = 1.0 if factor is None else float(getattr(self.module, factor))
        return Matrix(module, f"{name}.weight", input_first=not isinstance(module, nn.Linear), factor=times)

    def _norm(self, name: str | None) -> Norm | None:
        return None if name is None else Norm(self._modules[name], f"{name}.weight")


def _joined(parts: Sequence[Tensor | ReachedError]) -> Tensor | ReachedError:
    """Of the parts of a batch: what left the layer, or, where each was left at a module, what that was given."""
    left = [part.given for part in parts if isinstance(part, ReachedError)]
    if left:
        return ReachedError(joined_rows(left))
    return joined_rows([part for part in parts if isinstance(part, Tensor)])
