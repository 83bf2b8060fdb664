"""Amounts of work, and how long a machine takes for each kind of it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(frozen=True)
class Work:
    """How much there is to do, by kind. All are sums, so that work adds up.

    forward: tokens, times the layers that they pass. context: the same, times the tokens of their window.
    backward: tokens, times the layers that they pass forward and backward. mixed: the same in the number format that
    healing computes in. head: tokens that final norm, head and loss are computed for. taught: tokens that a healing
    computes these and their gradients for, in its own number format. decoded: rows, times layers, of a
    new token behind a cache. decode_calls: such calls of a layer.
    cached: bytes of keys and values that these read. sums: float32 operations of products of tokens (Gram matrices).
    solves: float64 operations on such sums. touched: bytes of weights, gradients and moments that pass through memory.
    states: bytes of states written to temporary files, or read there. read, written, hashed: bytes of weights.
    visits: layers gone through by all tokens of a pass, each of which is read from disk once where layers lie there.
    fixed: seconds that hang on nothing here.
    """

    forward: float = 0.0
    context: float = 0.0
    backward: float = 0.0
    mixed: float = 0.0
    head: float = 0.0
    taught: float = 0.0
    decoded: float = 0.0
    decode_calls: float = 0.0
    cached: float = 0.0
    sums: float = 0.0
    solves: float = 0.0
    touched: float = 0.0
    states: float = 0.0
    read: float = 0.0
    written: float = 0.0
    hashed: float = 0.0
    visits: float = 0.0
    fixed: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Work)))

    def __rmul__(self, times: float) -> Work:
        return Work(*(times * getattr(self, one.name) for one in fields(Work)))


NOTHING = Work()


@dataclass(frozen=True)
class Rates(Work):
    """Seconds of one of each kind of work, on a machine. In `visits` seconds of reading one layer from disk, where
    layers lie there.
    """

    def seconds(self, work: Work) -> float:
        return float(sum(getattr(self, one.name) * getattr(work, one.name) for one in fields(Work)))

    def streamed(self, layer_bytes: float) -> Self:
        """The same where every visit of a layer reads it from disk."""
        return replace(self, visits=layer_bytes * self.read)


@dataclass(frozen=True)
class Stage:
    """name: as the clock of a run has it. memory: bytes that it needs beside the models. models: bytes of these.
    disk: bytes that lie on disk while it lasts, beside what stays. keeps: bytes of it that stay.
    """

    name: str
    work: Work
    memory: float = 0.0
    models: float = 0.0
    disk: float = 0.0
    keeps: float = 0.0
