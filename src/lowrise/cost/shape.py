"""A model as the few numbers that its cost hangs on."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ModelShape:
    """layers: L. hidden: d. inner: d_ff, what the MLP's last matrix is given; of a mixture, one expert's. heads,
    key_heads, head_size: of attention. vocabulary: rows of the head. layer_parameters: of a layer, the mean. rest:
    parameters outside of the layers. tied: the head's matrix is the embedding's. compute, stored: bytes of a number in
    memory and on disk. longest: tokens that the positions allow. moves: neurons can go from layer to layer.
    """

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    layer_parameters: float
    rest: float
    tied: bool = False
    compute: int = 4
    stored: int = 4
    longest: int = 2**31
    moves: bool = True

    @classmethod
    def dense(
        cls,
        name: str,
        *,
        layers: int,
        hidden: int,
        inner: int,
        heads: int,
        key_heads: int,
        vocabulary: int,
        head_size: int | None = None,
        tied: bool = False,
        compute: int = 4,
        stored: int = 4,
    ) -> ModelShape:
        """A decoder with grouped queries and a gated MLP, as Llama's, its parameters counted from its sizes."""
        size = hidden // heads if head_size is None else head_size
        attention = hidden * size * (2 * heads + 2 * key_heads)
        layer = attention + 3 * hidden * inner + 2 * hidden
        rest = vocabulary * hidden * (1 if tied else 2) + hidden
        named = {"tied": tied, "compute": compute, "stored": stored}
        return cls(name, layers, hidden, inner, heads, key_heads, size, vocabulary, layer, rest, **named)  # type: ignore[arg-type]

    @property
    def parameters(self) -> float:
        return self.layers * self.layer_parameters + self.rest

    @property
    def attention_inputs(self) -> int:
        """What attention's last matrix is given."""
        return self.heads * self.head_size

    @property
    def attention_share(self) -> float:
        """Of a layer's parameters, those that are passed before its MLP."""
        own = self.hidden * self.head_size * (2 * self.heads + 2 * self.key_heads)
        return min(0.9, own / max(1.0, self.layer_parameters))

    @property
    def key_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return 2 * self.key_heads * self.head_size * self.compute

    @property
    def bytes(self) -> float:
        """In memory."""
        return self.parameters * self.compute

    @property
    def layer_bytes(self) -> float:
        return self.layer_parameters * self.compute

    @property
    def head_parameters(self) -> int:
        return self.vocabulary * self.hidden

    def without(self, layers: int) -> ModelShape:
        """So many layers less."""
        return replace(self, layers=self.layers - layers)
