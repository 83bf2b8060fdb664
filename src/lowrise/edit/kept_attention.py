"""What a layer's attention makes of every batch, kept while only its MLP changes: it is then not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lowrise.model.batching import heard, joined_rows, of_rows_at_hand
from lowrise.model.layer import Layer, LayerArguments
from lowrise.model.matrices import ReachedError

Put = Callable[[int, Tensor], None]
Get = Callable[[int], Tensor]


class KeptAttention:
    """Of one layer. put, get: where (batch, tokens, ...) of a batch lies, by its number.

    Until `forget`, nothing may change that leads to attention's output. Where attention is no module of its own, hands
    on more than one tensor or shares states with other layers, nothing is kept, and everything computed as ever.
    """

    def __init__(self, layer: Layer, put: Put, get: Get) -> None:
        path = layer.attention_output.parameter.rpartition(".")[0].rpartition(".")[0]
        self._module = layer.module.get_submodule(path) if path else None
        self._inside = f"{path}."
        self._put, self._get = put, get
        self._forms: dict[int, Callable[[Tensor], Any]] = {}  # of the batches that are kept

    @contextmanager
    def of(self, number: int, arguments: LayerArguments, instead: Mapping[str, Tensor] | None) -> Iterator[None]:
        """While the layer runs on a batch: its attention says what it said before, or it is noted.

        instead: parameters of this run alone.
        """
        module = self._module
        if module is None or arguments.lent or any(name.startswith(self._inside) for name in instead or ()):
            yield
            return
        if number in self._forms:
            kept, form = self._get(number), self._forms[number]
            with _saying(module, lambda: form(of_rows_at_hand(kept))):
                yield
            return
        forms = list[Callable[[Tensor], Any] | None]()

        def note(_module: object, _args: object, output: Any) -> None:
            forms.append(_form(output))
            seen.append(output[0] if isinstance(output, tuple) else output)

        with heard(joined_rows) as seen:
            hook = module.register_forward_hook(note)
            try:
                yield
            except ReachedError:
                self._keep(number, seen, forms)
                raise
            else:
                self._keep(number, seen, forms)
            finally:
                hook.remove()

    def _keep(self, number: int, seen: list[Tensor], forms: list[Callable[[Tensor], Any] | None]) -> None:
        form = forms[-1] if forms else None
        if form is not None:
            self._put(number, seen[-1])
            self._forms[number] = form


@contextmanager
def _saying(module: nn.Module, output: Callable[[], Any]) -> Iterator[None]:
    """While it lasts, `module` computes nothing and returns that."""
    own = vars(module).get("forward")  # of its instance, where a library has put one
    module.forward = lambda *_args, **_kwargs: output()
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _form(output: Any) -> Callable[[Tensor], Any] | None:
    """What makes of the tensor what a module returned; None where it returned more."""
    if isinstance(output, Tensor):
        return lambda kept: kept
    if isinstance(output, tuple) and isinstance(output[0], Tensor) and all(one is None for one in output[1:]):
        others = output[1:]
        return lambda kept: (kept, *others)
    return None
