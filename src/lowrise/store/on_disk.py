"""Layers on disk: parameters in a mapped scratch file, of which no more stays in memory than a bound leaves room for.

A layer that is called is the one used last; when room is wanted, pages of those go first that were used longest ago.
They go without being written by us: the system has what was changed, and reads what is looked at again. Where nothing
is called that we are told of (hashing, copying, solving), a thread looks after the bound.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from lowrise.errors import RecipeError
from lowrise.heap import give_back
from lowrise.sizes import said_bytes
from lowrise.store.layer_store import LayerStore
from lowrise.store.process import forget_files, resident
from lowrise.store.scratch import Scratch, Stretch

_LOOK_EVERY = 0.004  # seconds
_TRIM_EVERY = 1.0
_SHARE = 4  # of the bound, for what can lie on disk as well
_ONE_BY_ONE = "HF_DEACTIVATE_ASYNC_LOAD"  # of transformers: no tensor is read before the one before it is in place


def reserve_of(bound: int) -> int:
    """Bytes below a bound at which room is made: what may be taken between two looks."""
    return min(max(bound // 16, 1 << 25), 1 << 28)


def bound_over(taken: int) -> int:
    """The least bound under which so many bytes can be taken."""
    return taken + reserve_of(taken * 16 // 15)


def with_margin(least: int) -> int:
    """What is said to be enough: the same command may take a little more the next time."""
    return least + max(least // 50, 1 << 24)


class _Region:
    """What a module's parameters take on disk. gone: its pages were given back since it was called last."""

    def __init__(self, module: nn.Module | None, stretches: list[Stretch]) -> None:
        self.module, self.gone = None if module is None else weakref.ref(module), False
        self.stretches = _joined(stretches)
        self.size = sum(one.length for one in self.stretches)

    @property
    def used(self) -> bool:
        """Whether its module is still part of a model."""
        return self.module is not None and self.module() is not None

    def give_back(self) -> None:
        self.gone = True
        for one in self.stretches:
            one.give_back()

    def fetch(self) -> None:
        for one in self.stretches:
            one.fetch()


class OnDisk(LayerStore):
    """bound: bytes of the whole process, resident. folder: of a disk. expected: bytes of the model, about."""

    layer_by_layer = True

    def __init__(self, bound: int, folder: Path, expected: int) -> None:
        self._bound, self._folder, self._expected = bound, folder, expected
        self.folder = folder
        self._limit = bound - reserve_of(bound)
        self._scratch = Scratch(folder, expected)
        self._sources: list[Path] = []
        self._layers: list[_Region] = []  # in the order that they are called in
        self._by_use: OrderedDict[int, _Region] = OrderedDict()  # the one that was called last comes last
        self._lock = threading.RLock()
        self._trimmed = 0.0
        _look_after(self)

    @property
    def size(self) -> int:
        return self._scratch.size

    @contextmanager
    def placing(self, files: Iterable[Path]) -> Iterator[None]:
        self._sources = [*files]
        before = os.environ.get(_ONE_BY_ONE)
        os.environ[_ONE_BY_ONE] = "1"
        hook = register_module_parameter_registration_hook(self._place)  # type: ignore[arg-type] # what it returns counts
        try:
            yield
        finally:
            hook.remove()
            if before is None:
                del os.environ[_ONE_BY_ONE]
            else:
                os.environ[_ONE_BY_ONE] = before
            self._sources = []

    def watch(self, model: nn.Module, layers: nn.ModuleList) -> None:
        with self._lock:
            self._by_use.clear()
        self._layers = [self._region(layer, layer.parameters()) for layer in layers]
        within = {id(module) for layer in layers for module in layer.modules()}
        for module in model.modules():
            own = [one for one in module.parameters(recurse=False) if id(module) not in within]
            if own:
                self._region(module, own)

    def keep(self, value: Tensor) -> Tensor:
        made = self._scratch.put(value)
        self._known(None, [made])
        return made

    def recast(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        if value.dtype == dtype or self._scratch.stretch(value) is None:
            return value.to(dtype)
        cast = value.to(dtype)
        made = self._scratch.replace(value, cast) if cast.nbytes <= value.nbytes else self.keep(cast)
        self.make_room()
        return made

    def at_most(self, wanted: int) -> int:
        return min(wanted, self._bound // _SHARE)

    def relieve(self, wanted: int = 0) -> None:
        self.make_room(wanted)

    def check_room(self, wanted: int, what: str) -> None:
        for region in self._by_use.values():
            region.give_back()
        largest = max((region.size for region in self._by_use.values()), default=0)
        least = bound_over(resident() + 2 * largest + wanted)
        if self._bound < least:
            enough = said_bytes(with_margin(least))
            where, remedy = f"--memory {said_bytes(self._bound)}", f"say --memory {enough}"
            raise RecipeError(where, f"at least {enough} for {what} on this model", "less", remedy)

    def close(self) -> None:
        with self._lock:
            self._layers, self._by_use = [], OrderedDict()
            self._scratch.close()

    def anew(self) -> OnDisk:
        return OnDisk(self._bound, self._folder, self._expected)

    def make_room(self, wanted: int = 0) -> None:
        """Give pages back until `wanted` bytes more fit under the bound, or none are left to give."""
        if resident() + wanted <= self._limit:
            return
        with self._lock:
            forget_files(self._sources)
            regions = [*self._by_use.values()]
            # those that were called since their pages went hold most; others may have been looked at without a call
            for among in ([one for one in regions if not one.gone], regions):
                over = 0
                for region in among:
                    if over <= 0 and (over := resident() + wanted - self._limit) <= 0:
                        return
                    over -= region.size
                    region.give_back()
            if time.monotonic() > self._trimmed + _TRIM_EVERY and resident() + wanted > self._limit:
                give_back()
                self._trimmed = time.monotonic()

    def _place(self, _module: nn.Module, _name: str, parameter: Any) -> nn.Parameter | None:
        """A parameter that was made, where it lives; None where it stays what it is."""
        if not isinstance(parameter, nn.Parameter) or parameter.device.type != "cpu":
            return None
        if self._scratch.stretch(parameter) is not None:  # tied to another that is there already
            return None
        made = nn.Parameter(self._scratch.put(parameter), requires_grad=parameter.requires_grad)
        vars(made).update(vars(parameter))  # what the loader notes of it
        self._known(None, [made])  # until the model's layers are known
        self.make_room()
        return made

    def _known(self, module: nn.Module | None, values: Iterable[Tensor]) -> _Region:
        found = (self._scratch.stretch(value) for value in values)
        region = _Region(module, [one for one in found if one is not None])
        with self._lock:
            self._by_use[id(region)] = region
        return region

    def _region(self, module: nn.Module, parameters: Iterable[nn.Parameter]) -> _Region:
        region = self._known(module, parameters)
        wanted = 0 if isinstance(module, nn.Embedding) else region.size  # of a table a few rows are looked at
        store = weakref.ref(self)

        def called(*_: Any) -> None:  # a function, which copies of the module share
            if (own := store()) is not None:
                own._use(region, wanted)

        module.register_forward_pre_hook(called)
        return region

    def _use(self, region: _Region, wanted: int) -> None:
        with self._lock:
            if id(region) not in self._by_use:  # of a model that was given up
                return
            last = next(reversed(self._by_use.values()))
            self._by_use.move_to_end(id(region))
            if region is last and not region.gone:
                return
            region.gone = False
            self.make_room(wanted)
            region.gone = False
        following = self._following(region)
        if following is not None and following.gone:
            following.fetch()

    def _following(self, region: _Region) -> _Region | None:
        """The layer that is called next, of those that are left; after the last one the first."""
        left = [one for one in self._layers if one.used]
        if region not in left:
            return None
        return left[(left.index(region) + 1) % len(left)]


def _look_after(store: OnDisk) -> None:
    """As long as the store is used, from a thread."""
    known = weakref.ref(store)

    def look() -> None:
        while (own := known()) is not None:
            own.make_room()
            del own
            time.sleep(_LOOK_EVERY)

    threading.Thread(target=look, name="resident memory", daemon=True).start()


def _joined(stretches: list[Stretch]) -> list[Stretch]:
    """The same pages in fewer pieces."""
    joined: list[Stretch] = []
    for one in sorted({(id(one.mapping), one.start): one for one in stretches}.values(), key=lambda one: one.start):
        if joined and one.follows(joined[-1]):
            joined[-1] = Stretch(one.mapping, joined[-1].start, joined[-1].length + one.length)
        else:
            joined.append(one)
    return joined
