"""What a command is asked for, as numbers, and the pieces that the work of every method is put together of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowrise.cost.shape import ModelShape
from lowrise.cost.work import Work
from lowrise.methods import method
from lowrise.model.batching import CPU_TOKENS
from lowrise.recipe import Recipe
from lowrise.select.choice import spans_of
from lowrise.sizes import named_layers

_FIRST = 0.4  # of the layers, those below the first gap: where cuts begin on the models that were looked at
_ADAM = 15  # times that a step of Adam reads or writes each weight, with its gradient, moments and temporaries


@dataclass(frozen=True)
class Text:
    """A text that perplexity is measured on."""

    windows: int
    length: int

    @property
    def tokens(self) -> int:
        return self.windows * self.length


@dataclass(frozen=True)
class Job:
    """removed: net layers that go. windows, length: of the calibration; written: windows that the model writes itself.
    texts: that are measured. task_tokens: what tasks ask of a model, about. spans: layers that go, once they are known.
    batch: tokens of a batch.
    """

    shape: ModelShape
    recipe: Recipe
    removed: int
    windows: int
    length: int
    written: int
    texts: tuple[Text, ...] = ()
    task_tokens: int = 0
    spans: tuple[tuple[int, int], ...] | None = None
    batch: int = CPU_TOKENS

    @property
    def tokens(self) -> int:
        """Of the calibration."""
        return self.windows * self.length

    @property
    def held_out(self) -> int:
        """Tokens of them that nothing is fitted on."""
        most = max(1, self.windows - 1)
        return min(max(1, round(self.recipe.training.validation * self.windows)), most) * self.length

    @property
    def fitted(self) -> int:
        return max(self.length, self.tokens - self.held_out)

    @property
    def taken(self) -> int:
        """Layers that the criterion takes out."""
        return self.removed + self.recipe.put_back

    @property
    def after(self) -> ModelShape:
        return self.shape.without(self.removed)

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """[start, stop) of what goes, from the bottom up. Before it is chosen: as it mostly is, a span and, with
        criteria that take layers one by one, one layer more.
        """
        if self.spans is not None:
            return self.spans
        if self.recipe.layers is not None:
            return tuple(spans_of(named_layers(self.recipe.layers)))
        layers, k, row = self.shape.layers, self.taken, method("criterion", self.recipe.select)
        start = max(1, min(round(_FIRST * layers), layers - k - 2))
        if row.one_span or k < 2 or start + k + 2 > layers:
            return ((start, min(layers, start + k)),)
        return ((start, start + k - 1), (start + k + 1, start + k + 2))

    def with_spans(self, spans: Sequence[tuple[int, int]]) -> Job:
        return replace(self, spans=tuple(sorted(spans)))


def passes(tokens: float, layers: float, length: float) -> Work:
    """Tokens in windows of a length, through layers."""
    return Work(forward=tokens * layers, context=tokens * layers * length, visits=layers)


def to_mlp(shape: ModelShape, tokens: float, length: float) -> Work:
    """Tokens through one layer up to its MLP, where the run is left."""
    return Work(forward=shape.attention_share * tokens, context=tokens * length, visits=1)


def gram(tokens: float, k: float, d: float) -> Work:
    """The sums of `edit/gram.Gram`: AᵀA, of which a quarter is not multiplied, and AᵀE."""
    return Work(sums=2 * tokens * (0.75 * k * k + k * d))


def solve(k: float, d: float, tries: float) -> Work:
    """`edit/gram.solve`: a Cholesky factorisation, a solution and its held-out error for every λ that is tried."""
    return Work(solves=tries * (k**3 / 3 + 4 * k * k * d))


def adam(steps: float, parameters: float) -> Work:
    """So many steps of Adam, in float32."""
    return Work(touched=steps * _ADAM * 4 * parameters)


def gram_bytes(k: float, d: float) -> float:
    """Two sets of sums, float64, and while they are solved a factor and three solutions."""
    return 8 * (3 * k * k + 5 * k * d)


def batch_bytes(job: Job, length: float) -> float:
    """What one batch holds while it passes a layer: states, the MLP's inner ones, and scores of attention."""
    shape, rows = job.shape, max(1.0, job.batch / length)
    states = job.batch * (6 * shape.hidden + 4 * shape.inner) + rows * shape.heads * length * length
    return shape.compute * states


def loss_bytes(job: Job) -> float:
    """Logits of as many tokens as are held at once, and what a loss makes of them."""
    return 3 * 4 * max(2.0**23, job.shape.vocabulary)
