"""A decoder layer as so many blocks, each of which reads the stream and then writes to it: attention, a mixer, an MLP.

What `families.py` does not know by name is found on the layer itself (`model/discovery.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lowrise.model.experts import Experts
from lowrise.model.matrices import Matrix
from lowrise.model.norms import Norm


@dataclass(frozen=True)
class ExpertsNames:
    """As of `Experts`, its module by path alone. count: of experts."""

    path: str
    count: int
    output: str
    reads: tuple[str, ...]
    input_first: bool

    def of(self, layer: nn.Module, factor: float = 1.0) -> Experts:
        module = layer.get_submodule(self.path)
        return Experts(module, self.path, self.output, self.reads, self.input_first, factor)


@dataclass(frozen=True)
class ReadNames:
    """matrices: paths in the layer of linear modules, and of modules of experts, that are given the same input.

    raw: that is no norm's output.
    """

    matrices: tuple[str, ...]
    experts: tuple[ExpertsNames, ...] = ()
    raw: bool = False


@dataclass(frozen=True)
class WriteNames:
    """module: the path of a linear module, or of a module of experts. factor: what the stream takes of what it makes.

    gate: the path of the module whose output, through a sigmoid, it is multiplied by token for token.
    """

    module: str
    factor: float = 1.0
    gate: str | None = None
    experts: ExpertsNames | None = None


@dataclass(frozen=True)
class BlockNames:
    """norm: the path of the one that what the writes make together passes before the stream is given it; behind: the
    factor that comes then. skip_scale: what is left in the end of the stream that enters the layer, a factor; None
    where it is something else.
    """

    reads: tuple[ReadNames, ...]
    writes: tuple[WriteNames, ...]
    norm: str | None = None
    behind: float = 1.0
    skip_scale: float | None = 1.0


@dataclass(frozen=True)
class Read:
    """matrices, experts: what is given the same input. module: the first of them that is called."""

    module: nn.Module
    matrices: tuple[Matrix, ...]
    experts: tuple[Experts, ...]
    raw: bool


@dataclass(frozen=True)
class Output:
    """matrix: of a linear module, times its factor; gate: what its output is multiplied by, through a sigmoid."""

    matrix: Matrix
    gate: nn.Module | None = None


@dataclass(frozen=True)
class Block:
    """reads: one after the other; writes: linear in their matrices, added up, and through `norm` where there is one.

    skip_scale: as of `BlockNames`.
    """

    reads: tuple[Read, ...]
    writes: tuple[Output | Experts, ...]
    norm: Norm | None
    skip_scale: float | None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Paths in the layer of its matrices, and of what the norm scales by."""
        read = [matrix.parameter for group in self.reads for matrix in group.matrices]
        read += [f"{one.path}.{name}" for group in self.reads for one in group.experts for name in one.reads]
        written = [one.parameter if isinstance(one, Experts) else one.matrix.parameter for one in self.writes]
        return (*read, *written, *([] if self.norm is None else [self.norm.parameter]))


def block_of(layer: nn.Module, names: BlockNames) -> Block:
    """Of `layer`, which is of the kind that the names were found on."""
    reads, writes = (_read(layer, one) for one in names.reads), (_write(layer, one) for one in names.writes)
    norm = None
    if names.norm is not None:
        norm = Norm(layer.get_submodule(names.norm), f"{names.norm}.weight", names.behind)
    return Block(tuple(reads), tuple(writes), norm, names.skip_scale)


def linear(layer: nn.Module, path: str, factor: float = 1.0) -> Matrix:
    module = layer.get_submodule(path)
    return Matrix(module, f"{path}.weight", input_first=not isinstance(module, nn.Linear), factor=factor)


def _read(layer: nn.Module, names: ReadNames) -> Read:
    matrices = tuple(linear(layer, path) for path in names.matrices)
    experts = tuple(one.of(layer) for one in names.experts)
    first: nn.Module = matrices[0].module if matrices else experts[0].module
    return Read(first, matrices, experts, names.raw)


def _write(layer: nn.Module, names: WriteNames) -> Output | Experts:
    if names.experts is not None:
        return names.experts.of(layer, names.factor)
    gate = None if names.gate is None else layer.get_submodule(names.gate)
    return Output(linear(layer, names.module, names.factor), gate)
