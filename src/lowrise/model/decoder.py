"""A uniform view of any decoder-only causal language model whose layers are one ModuleList, alone or with the towers of
other inputs beside it.

The family's own code does all computing. To run part of a stack, the view calls the model once with every layer
replaced by one that records how it is called and passes the residual stream on: that yields h[0] and each layer's
arguments (masks, positions, rotary embeddings) at the price of an embedding lookup. Layers are then called one by
one, from any h[l] on, with those arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from lowrise.errors import ModelError, PlanError, ProofError
from lowrise.model.batching import Batching, batching_of
from lowrise.model.cut import Origin, compare, origin_of, take_out
from lowrise.model.layer import Layer
from lowrise.model.networks import SpanNetwork, attach
from lowrise.model.passing import Form, LayerArguments, form_of, with_lent_states, with_rows
from lowrise.model.placement import devices_of, place_on
from lowrise.model.positions import first_position
from lowrise.model.probing import unknown_rows
from lowrise.model.rescaling import leave_rescaling_out
from lowrise.model.restricting import restrictions_of_ends, restrictions_of_settings
from lowrise.model.stack import count_of_layers, find_stack, try_ids
from lowrise.model.support import difference_of_cut, prove, refusal, refuse_unfit
from lowrise.model.wrappers import restrictions_of_images
from lowrise.restriction import Restriction
from lowrise.store import LayerStore

CUSTOM_TYPE = "lowrise-"  # before the model type of a checkpoint with published-form networks


class _Recorder(nn.Module):
    """Stands in a layer's place, notes its call and passes the stream on, or `inject` instead of it."""

    def __init__(self, layer: nn.Module, form: Form, inject: Tensor | None = None) -> None:
        super().__init__()
        self._layer = (layer,)  # in a tuple: not a submodule of ours
        self._form, self._inject = form, inject
        self.stream: Tensor | None = None
        self.call: LayerArguments | None = None

    def __getattr__(self, name: str) -> Any:
        """Some models read a layer's attributes (its attention type) before they call it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            stream, args = args[0], args[1:]
        else:
            stream = kwargs.pop("hidden_states")
        self.stream, self.call = stream, LayerArguments(args, kwargs)
        return self._form.returned(stream if self._inject is None else self._inject)


class Decoder:
    """The layers of `model`, and what surrounds them.

    Raises ModelError for a model without exactly one stack of decoder layers, or with one that is not supported.
    """

    def __init__(self, model: Any, where: str = "model", store: LayerStore | None = None) -> None:
        """store: where the model's layers live."""
        leave_rescaling_out(model)
        self.model = model
        self.where = where
        self.store = store or LayerStore()
        self.config: Any = model.config.get_text_config(decoder=True)
        self.layers_path = find_stack(model, count_of_layers(self.config, where), where)
        owner, _, self._attribute = self.layers_path.rpartition(".")
        self._owner: nn.Module = model.get_submodule(owner)
        self.rows: dict[str, str] = {}  # of settings that follow the layers and are not in the table of kinds
        self._origin: Origin | None = None  # of a stack that was cut and not yet compared
        self._more_cuts = False
        self._sound_cuts: set[tuple[int, ...]] = set()  # (layers, *kept) of `check_cut`
        self.devices = devices_of(model)
        # most tokens the positions allow; many where the config names none (0, -1)
        most = getattr(self.config, "max_position_embeddings", None)
        self.max_length = int(most) - first_position(model, int(most)) if most and self.limited else 2**31
        self.store.watch(model, self.layers)
        self.form = self._probe()
        self.network_positions = _positions_of_networks(model.config)  # of the networks on its stream, as of `attach`

    # -- what it is -------------------------------------------------------------------------------------------

    @property
    def owner(self) -> nn.Module:
        """The module that holds the layers, the embeddings before them and the norm behind them."""
        return self._owner

    @property
    def base(self) -> nn.Module:
        """The model without its head, which token ids are given to."""
        base: nn.Module = self.model.base_model
        return self._owner if base is self.model and isinstance(self._owner, PreTrainedModel) else base

    @property
    def beside(self) -> dict[str, nn.Parameter]:
        """By name, what token ids alone do not pass: the towers of other inputs, in a multimodal model."""
        if self.config is self.model.config:
            return {}
        modules = (self._owner, self.model.get_output_embeddings(), *self.networks)
        own = {id(parameter) for module in modules if module is not None for parameter in module.parameters()}
        return {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) not in own}

    @property
    def layers(self) -> nn.ModuleList:
        stack = getattr(self._owner, self._attribute)
        assert isinstance(stack, nn.ModuleList)
        return stack

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def networks(self) -> list[SpanNetwork]:
        """The published-form networks that act on the stream where layers are gone, from the bottom up."""
        one, several = (getattr(self.model, name, None) for name in ("span_network", "span_networks"))
        return list(several) if several is not None else [one] if one is not None else []

    @property
    def depth(self) -> int:
        """Decoder layers, and a trained network in a span's place counts as one. A linear map does not."""
        return len(self) + sum(network.kind != "linear" for network in self.networks)

    @property
    def family(self) -> str:
        return str(self.config.model_type).removeprefix(CUSTOM_TYPE)

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def limited(self) -> bool:
        """Whether the config does not deny a limit: some write 0 or -1."""
        most = getattr(self.config, "max_position_embeddings", None)
        return most is None or int(most) > 0

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def device_of(self, layer: int) -> torch.device:
        """Where a layer lies, which may be another place than that of the ids; of L, where the last one does."""
        return next(self.layers[min(layer, len(self) - 1)].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.layers.parameters()).dtype

    @cached_property
    def batching(self) -> Batching:
        """How much of it is run at once."""
        return batching_of(self.layers, getattr(self.config, "hidden_size", None), self.device)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch, about."""
        return self.batching.tokens

    @property
    def probe_ids(self) -> Tensor:
        """(1, 8): ids to try a layer with. Several, for one alone may be padding, whose embedding is 0."""
        return torch.arange(8).clamp(max=self.model.get_input_embeddings().weight.shape[0] - 1).unsqueeze(0)

    def layer(self, index: int) -> Layer:
        """A view of one layer as it stands now."""
        return Layer(self.layers[index], index, self.config, self.where, self.form, self.batching, len(self.devices))

    @cached_property
    def restrictions(self) -> list[Restriction]:
        """Cuts that its settings can express, where they cannot express all. A trial cut is made and compared first.

        Raises ModelError naming the difference where layers that are left compute something else.
        """
        refuse_unfit(self)
        found = restrictions_of_images(self.model.config, len(self))
        found += restrictions_of_settings(self.model, self.layers_path)
        where = (self.model, self.layers_path, self.where)
        self.rows.update(unknown_rows(*where, found))
        found += restrictions_of_ends(*where, self.rows, found)
        prove(self, found)
        return found

    def check_cut(self, kept: Sequence[int]) -> None:
        """Raises ModelError naming the difference between the model with these layers alone and what they compute."""
        if (len(self), *kept) in self._sound_cuts:
            return
        broken = [restriction.reason for restriction in self.restrictions if not restriction.allows(kept)]
        found = broken[0] if broken else difference_of_cut(self, kept)
        if found is not None:
            raise refusal(self, found, kept)
        self._sound_cuts.add((len(self), *kept))

    # -- running parts of it ----------------------------------------------------------------------------------

    def embed(self, ids: Tensor, instead: Mapping[str, Tensor] | None = None) -> tuple[Tensor, list[LayerArguments]]:
        """ids (batch, tokens) → h[0] (batch, tokens, hidden) and the call of every layer, nothing computed between.

        instead: parameters of the base model by name that stand in for its own during this call.
        """
        base, kwargs = self.base, {"input_ids": ids.to(self.device), "use_cache": False}
        with self._recorders() as recorders:
            if instead:
                functional_call(base, dict(instead), (), kwargs)
            else:
                base(**kwargs)
        stream = recorders[0].stream
        assert stream is not None
        calls = with_lent_states([recorder.call for recorder in recorders if recorder.call is not None])
        return self.form.ours(stream), with_rows(calls, lambda start, stop: self.embed(ids[start:stop], instead)[1])

    def step(
        self, layer: int, h: Tensor, calls: list[LayerArguments], instead: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """h[layer] → h[layer + 1], both (batch, tokens, hidden), by the layer's own code.

        instead: parameters by name that stand in for the layer's own during this call.
        """
        return self.layer(layer).call(h, calls[layer], instead)

    def states(self, ids: Tensor, stop: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(l, h[l]) for l = 0..stop (default: all, h[L] BEFORE the final norm), one forward pass, one at a time."""
        h, calls = self.embed(ids)
        yield 0, h
        for layer in range(len(self) if stop is None else stop):
            h = self.step(layer, h, calls)
            yield layer + 1, h

    def logits(self, h: Tensor, ids: Tensor) -> Tensor:
        """h[L] (batch, tokens, hidden) → logits (batch, tokens, vocabulary): the model's own final norm and head."""
        with self._recorders(inject=h):
            logits = self.model(input_ids=ids.to(self.device), use_cache=False).logits
        assert isinstance(logits, Tensor)
        return logits

    def final_norm(self, h: Tensor, ids: Tensor) -> Tensor:
        """h[L] (batch, tokens, hidden) → the state that the head reads: the model's own final norm, no head."""
        with self._recorders(inject=h):
            state = self.base(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        assert isinstance(state, Tensor)
        return state

    @contextmanager
    def _recorders(self, inject: Tensor | None = None) -> Iterator[list[_Recorder]]:
        real = list(self.layers)
        injected = None if inject is None else self.form.theirs(inject)
        recorders = [_Recorder(layer, self.form, injected) for layer in real]
        stack = self.layers
        setattr(self._owner, self._attribute, nn.ModuleList(recorders))
        try:
            yield recorders
        finally:
            setattr(self._owner, self._attribute, stack)

    @contextmanager
    def skipping(self, gone: Collection[int]) -> Iterator[None]:
        """The layers `gone` pass the stream on as it is, for a while."""
        stack = self.layers
        mixed = [_Recorder(layer, self.form) if index in gone else layer for index, layer in enumerate(stack)]
        setattr(self._owner, self._attribute, nn.ModuleList(mixed))
        try:
            yield
        finally:
            setattr(self._owner, self._attribute, stack)

    @torch.no_grad()
    def _probe(self) -> Form:
        """What layers return: asked of the first one, which is then not followed by the others."""
        seen: list[Form] = []
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)

        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.append(form_of(output, ids))
            raise _ProbedError

        hook = self.layers[0].register_forward_hook(look)
        try:
            for module in (self.base,) if self.config is self.model.config else (self.model, self.base):
                with suppress(_ProbedError):
                    try_ids(module, self.device, self.where)
        finally:
            hook.remove()
        if not seen:
            raise ModelError(self.where, "decoder layers that token ids pass", "others", "choose another model")
        return seen[0]

    @torch.no_grad()
    def run(self, ids: Tensor) -> tuple[Tensor, list[LayerArguments]]:
        """ids (batch, tokens) → (logits, the layers' calls as they come), all by the model itself."""
        calls: list[LayerArguments] = []

        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rest = args[1:] if args else ()
            named = {name: value for name, value in kwargs.items() if args or name != "hidden_states"}
            calls.append(LayerArguments(rest, named))

        hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        try:
            return self.model(input_ids=ids, use_cache=False).logits, calls
        finally:
            for hook in hooks:
                hook.remove()

    # -- changing it ------------------------------------------------------------------------------------------

    def drop(self, start: int, stop: int) -> None:
        """Take layers [start, stop) out, in place; indices and per-layer settings follow."""
        layers = self.layers
        kept = [index for index in range(len(layers)) if not start <= index < stop]
        if not 0 <= start < stop <= len(layers) or not kept:
            raise ValueError(f"cannot drop [{start}, {stop}) of {len(layers)} layers")
        for one in restrictions_of_images(self.model.config, len(layers)):
            if not one.allows(kept):
                among = f"layers [{start}, {stop}) among what is to go"
                raise ModelError(self.where, "a cut that leaves these layers", f"{among}: {one.reason}", "take others")
        if self._origin is None:
            self._origin = origin_of(self.model, self.layers_path)
        vars(self).pop("restrictions", None)
        take_out(self.model, self.layers_path, kept, self._origin, self.rows)
        if not self._more_cuts:
            self._compare_cut()

    @contextmanager
    def several_cuts(self) -> Iterator[None]:
        """What is dropped meanwhile is compared at the end: not all that it passes through can be expressed.

        Raises ProofError there, as `drop` does elsewhere.
        """
        self._more_cuts = True
        try:
            yield
        finally:
            self._more_cuts = False
        if self._origin is not None:
            self._compare_cut()

    def _compare_cut(self) -> None:
        assert self._origin is not None
        origin, self._origin = self._origin, None
        found = compare(self.model, self.layers_path, origin, self.where)
        if found is not None:
            raise ProofError(f"{found}: this family ties its layers to their position in a way lowrise does not know")

    def attach(self, network: SpanNetwork, position: int) -> None:
        """Let `network` act on the residual stream before layer `position` (after the last one if equal to L).

        Linear maps may be several, each at a place of its own, attached from the bottom up. Raises PlanError for a
        second network of another kind.
        """
        networks = [*self.networks, network]
        if len(networks) > 1 and any(one.kind != "linear" for one in networks):
            raise PlanError(
                self.where, "one published-form network a model", "a second one", "use the portable form or `layer`"
            )
        if self.network_positions and position <= self.network_positions[-1]:
            raise ValueError(f"a network at {position}, not above that at {self.network_positions[-1]}")
        place_on(network, self.device_of(position), spread=len(self.devices) > 1)
        attach(self.layers, network, position)
        if len(networks) == 1:
            self.model.span_network = network
        else:
            if hasattr(self.model, "span_network"):
                del self.model.span_network
            self.model.span_networks = nn.ModuleList(networks)
        self.network_positions.append(position)

    def release(self) -> None:
        """Give the model up, so that its memory is free; the view is of no use after."""
        self.model = None
        self._owner = nn.Module()
        self.store.close()

    def parameters(self) -> int:
        """All parameters, shared ones once."""
        return sum(int(p.numel()) for p in self.model.parameters())


def _positions_of_networks(config: Any) -> list[int]:
    """Where the networks stand that a checkpoint brings: `model/custom.py` writes them."""
    one, several = getattr(config, "span_network", None), getattr(config, "span_networks", None)
    return [int(place["position"]) for place in (several or ([one] if one else []))]


class _ProbedError(Exception):
    pass
