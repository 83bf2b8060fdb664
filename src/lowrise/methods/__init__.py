"""All methods, one row each: criteria that choose layers, repairs of what is left, networks that are put back.

Whatever depends on a method asks its row; no other place names one. Rows of other packages come by entry points of the
group `lowrise.methods` (docs/adding.md). Imports nothing heavy: functions stand here as dotted paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Literal, get_args

from lowrise.errors import UNUSABLE, MethodError, close_names, reason

Kind = Literal["criterion", "repair", "network"]
LooksAt = Literal["states", "windows", "sentences", "nothing"]
GROUP = "lowrise.methods"
_UNUSABLE: tuple[type[Exception], ...] = (*UNUSABLE, SyntaxError)  # what importing a module may raise

# Keys of a recipe that only some methods look at, and what methods do that look at them. A key of settings within it
# stands for all of those. `calibration_length` and `written` need no row's word: they are of windows.
OF_SOME: Mapping[str, str] = MappingProxyType(
    {
        "collapse": "search merges",
        "strict": "search merges",
        "avoid_massive": "choose by states",
        "effort": "search with repair",
        "layers": "take layers by hand",
        "form": "put a network of two forms back",
        "training.loss": "train",
    }
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row. Dotted paths are `package.module:name`, imported when they are first called.

    function: of a criterion `choose(selection: Selection) -> Choice` (select/selection.py, select/choice.py), of a
        repair `repair(task: RepairTask) -> Repaired` (edit/context.py); None of networks, which edit/replace.py makes.
    paper: its address; None for a method of lowrise's own, or of a package that names none.
    looks_at: what it is shown: `states` are what `observe` gathers of the layers' inputs and outputs, which massive
        activations can mislead (there is a warning then); `windows` and `sentences` are tokens.
    settings: of OF_SOME, those that it looks at.
    check: refuses a model, by an InputError, before anything is computed: of a criterion `(decoder, recipe, k)`, k
        layers to go or None, of a repair `(decoder)`.
    loads_plainly: whether stock `from_pretrained` opens what comes of it. A network that looks at `form` does in its
        portable one.

    Of criteria. decides_number: it may say itself how many layers go, and has k None where no size is asked for.
    one_span: it always answers one. takes_network: one, in whose place a network may stand.

    Of repairs. marked: its windows are overwritten by a special token each (`Windows.marked`). on_networks: solves the
    last matrix of a trained network too, `(fitted, held_out: Gram, matrix (k, d)) -> Solution`; None: it does not.
    parameters: what it adds to the model, `(decoder, edits) -> int`; None: nothing. did: what it did, for the page, the
    card and the terminal; {layers} is `layer 3` or `layers 3, 5`, {matrices} `matrix` or `matrices`, {first} the lowest
    of the layers. did_reading: the same where none of the layers could be solved in what it writes. did_to_network: the
    same of a trained network.
    """

    name: str
    kind: Kind
    summary: str
    function: str | None = None
    paper: str | None = None
    looks_at: LooksAt = "windows"
    settings: tuple[str, ...] = ()
    check: str | None = None
    loads_plainly: bool = True
    decides_number: bool = False
    one_span: bool = False
    takes_network: bool = False
    marked: bool = False
    on_networks: str | None = None
    parameters: str | None = None
    did: str = "layers that are left were repaired from {first} on"
    did_reading: str | None = None
    did_to_network: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a row that is none: rows of other packages are read by this too."""
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"the name {self.name!r} is not of small letters, digits and single dashes")
        for field, values in (("kind", get_args(Kind)), ("looks_at", get_args(LooksAt))):
            if getattr(self, field) not in values:
                raise ValueError(f"{field} of {self.name} is {getattr(self, field)!r}, none of {', '.join(values)}")
        for field in ("function", "check", "on_networks", "parameters"):
            path = getattr(self, field)
            if path is not None and not (isinstance(path, str) and re.fullmatch(r"[\w.]+:\w+", path)):
                raise ValueError(f"{field} of {self.name} is {path!r}, not `package.module:name`")
        if (self.function is None) != (self.kind == "network"):
            raise ValueError(f"function of {self.name}: a criterion or a repair has one, a network none")
        if self.takes_network and not self.one_span:
            raise ValueError(f"{self.name} takes a network, but one_span is not said of it")
        unknown = [key for key in self.settings if key not in OF_SOME]
        if unknown:
            raise ValueError(f"settings of {self.name}: {unknown[0]!r} is none of {', '.join(OF_SOME)}")
        if not isinstance(self.summary, str) or not isinstance(self.paper, str | None):
            raise ValueError(f"summary and paper of {self.name} are not text")
        self.sentence([0])

    def sentence(self, layers: list[int], *, reading: bool = False) -> str:
        """What it did to these layers, from the lowest up. reading: in what they read alone."""
        several = "s" if len(layers) > 1 else ""
        names = {
            "layers": f"layer{several} {', '.join(map(str, layers))}",
            "matrices": "matrices" if several else "matrix",
            "first": layers[0],
        }
        try:
            return (self.did_reading or self.did if reading else self.did).format(**names)
        except LookupError as error:
            raise ValueError(f"did of {self.name} takes {', '.join(names)}, not {error}") from error


_STREAMLINE = "https://arxiv.org/abs/2403.19135"
_REPLACEME = "https://arxiv.org/abs/2505.02819"
_BASELINES = "https://arxiv.org/abs/2411.15558"
_FOLDED = "a linear map folded into the MLP output {matrices} of {layers}, in closed form"
_LINEAR_PATCH = "https://arxiv.org/abs/2505.24680"
_MAPPED = "the stream goes through a linear map where layers are gone, found in closed form"

_OWN = (
    Method(
        name="cosine",
        kind="criterion",
        summary="the span whose ends are most alike",
        paper=_STREAMLINE,
        function="lowrise.select.cosine:choose",
        looks_at="states",
        settings=("avoid_massive",),
        one_span=True,
        takes_network=True,
    ),
    Method(
        name="collapse",
        kind="criterion",
        summary="runs of layers whose merge leaves the output alike",
        paper="https://arxiv.org/abs/2402.11187",
        function="lowrise.select.collapse:choose",
        looks_at="sentences",
        settings=("collapse", "strict"),
        check="lowrise.select.collapse:check",
        decides_number=True,
    ),
    Method(
        name="block-influence",
        kind="criterion",
        summary="the layers that turn the residual stream least",
        paper="https://arxiv.org/abs/2403.03853",
        function="lowrise.select.block_influence:choose",
        looks_at="states",
        settings=("avoid_massive",),
    ),
    Method(
        name="angular",
        kind="criterion",
        summary="the span whose ends are least apart, as an angle at the last token",
        paper="https://arxiv.org/abs/2403.17887",
        function="lowrise.select.angular:choose",
        looks_at="states",
        settings=("avoid_massive",),
        one_span=True,
    ),
    Method(
        name="greedy-perplexity",
        kind="criterion",
        summary="one layer after the other, always the one whose removal raises the loss least",
        paper="https://arxiv.org/abs/2402.09025",
        function="lowrise.select.greedy:choose",
    ),
    Method(
        name="taylor",
        kind="criterion",
        summary="the layers whose weights matter least to the loss, to first order",
        paper="https://arxiv.org/abs/2402.02834",
        function="lowrise.select.taylor:choose",
        check="lowrise.select.taylor:check",
    ),
    Method(
        name="tail",
        kind="criterion",
        summary="the layers before the last one",
        paper=_BASELINES,
        function="lowrise.select.tail:choose",
        looks_at="nothing",
        one_span=True,
    ),
    Method(
        name="random",
        kind="criterion",
        summary="layers drawn by the seed",
        paper=_BASELINES,
        function="lowrise.select.random:choose",
        looks_at="nothing",
    ),
    Method(
        name="repaired",
        kind="criterion",
        summary="the layers that a repaired model misses least",
        function="lowrise.select.repaired:choose",
        settings=("effort",),
        check="lowrise.select.repaired:check",
    ),
    Method(
        name="repaired-span",
        kind="criterion",
        summary="the span that the layer before it bridges best",
        function="lowrise.select.repaired:choose_span",
        settings=("effort",),
        check="lowrise.select.repaired:check",
        one_span=True,
    ),
    Method(
        name="lorp",
        kind="criterion",
        summary="layers clustered by how alike their states are, and taken from the most redundant cluster",
        paper="https://arxiv.org/abs/2605.27786",
        function="lowrise.select.lorp:choose",
        looks_at="states",
        check="lowrise.select.lorp:check",
    ),
    Method(
        name="given",
        kind="criterion",
        summary="the layers that --layers names",
        function="lowrise.select.given:choose",
        looks_at="nothing",
        settings=("layers",),
        check="lowrise.select.given:check",
        decides_number=True,
    ),
    Method(
        name="fold",
        kind="repair",
        summary="a least-squares map folded into the MLP output matrix before each gap",
        paper=_REPLACEME,
        function="lowrise.edit.fold:repair",
        check="lowrise.model.matrices:check_writes",
        on_networks="lowrise.edit.gram:fold",
        did=_FOLDED,
        did_to_network="a linear map folded into its last matrix",
    ),
    Method(
        name="fold-cosine",
        kind="repair",
        summary="as fold, the map found by Adam to bring directions together",
        paper=_REPLACEME,
        function="lowrise.edit.cosine_map:repair",
        check="lowrise.model.matrices:check_writes",
        did=_FOLDED,
    ),
    Method(
        name="refit",
        kind="repair",
        summary="ridge regressions refit the matrices of all layers from the first gap up",
        function="lowrise.edit.refit:repair",
        check="lowrise.model.refittable:check_refit",
        marked=True,
        on_networks="lowrise.edit.refit:refit_network",
        did="ridge regressions refit the matrices of the layers that are left from {first} on, in closed form",
        did_reading="ridge regressions refit the matrices that read the stream, in the layers that are left from "
        "{first} on, in closed form",
        did_to_network="a ridge regression refit its last matrix",
    ),
    Method(
        name="prune-comp",
        kind="repair",
        summary="the stream below each gap scaled to the length that the next layer expects, folded into the weights",
        paper="https://arxiv.org/abs/2507.18212",
        function="lowrise.edit.magnitude:repair",
        check="lowrise.edit.magnitude:check",
        did="the embedding, and what layers below each gap write, were scaled to the length of the states behind it",
    ),
    Method(
        name="linear-patch",
        kind="repair",
        summary="at each gap the stream's channels scaled in Hadamard-rotated space",
        paper=_LINEAR_PATCH,
        function="lowrise.edit.linear_patch:repair",
        loads_plainly=False,
        parameters="lowrise.edit.maps:parameters_added",
        did=_MAPPED,
    ),
    Method(
        name="linear-patch-diagonal",
        kind="repair",
        summary="as linear-patch, the channels as they are",
        paper=_LINEAR_PATCH,
        function="lowrise.edit.linear_patch:repair_diagonal",
        loads_plainly=False,
        parameters="lowrise.edit.maps:parameters_added",
        did=_MAPPED,
    ),
    Method(
        name="ghosted",
        kind="repair",
        summary="at each gap the least-squares linear map of what the layers did that are gone",
        paper="https://arxiv.org/abs/2605.15491",
        function="lowrise.edit.ghosted:repair",
        loads_plainly=False,
        parameters="lowrise.edit.maps:parameters_added",
        did=_MAPPED,
    ),
    Method(name="layer", kind="network", summary="decoder layer", paper=_STREAMLINE, settings=("training.loss",)),
    Method(
        name="ffn",
        kind="network",
        summary="feed-forward network",
        paper=_STREAMLINE,
        settings=("training.loss", "form"),
        loads_plainly=False,
    ),
    Method(
        name="swiglu",
        kind="network",
        summary="gated network",
        paper=_STREAMLINE,
        settings=("training.loss", "form"),
        loads_plainly=False,
    ),
)


@dataclass(frozen=True)
class _Outside:
    """rows and presets of other packages, and the distribution that each comes from."""

    rows: dict[tuple[Kind, str], tuple[Method, str]]
    presets: dict[str, tuple[dict[str, Any], str]]


def methods(kind: Kind) -> Mapping[str, Method]:
    """All rows of a kind by name, lowrise's own first. Raises MethodError for a package whose rows are none."""
    return _table()[kind]


def method(kind: Kind, name: str) -> Method:
    """Raises MethodError, with close names, where there is none of that name."""
    rows = methods(kind)
    if name not in rows:
        raise MethodError(f"{kind} {name!r}", f"a {kind} that exists", "none of that name", close_names(name, rows))
    return rows[name]


def origin(kind: Kind, name: str) -> str | None:
    """The distribution that a row comes from; None: lowrise."""
    found = _outside().rows.get((kind, name))
    return None if found is None else found[1]


def presets_of_others() -> Mapping[str, tuple[Mapping[str, Any], str]]:
    """By name: (what `recipes/NAME.yaml` would hold, the distribution it comes from)."""
    return _outside().presets


def load(path: str) -> Callable[..., Any]:
    """What a dotted path of a row names. Raises MethodError where it cannot be imported."""
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except _UNUSABLE as error:
        raise MethodError(path, "a function that can be imported", reason(error), "mend its package") from error
    if not callable(found):
        raise MethodError(path, "a function", type(found).__name__, "mend its package")
    return found  # type: ignore[no-any-return]


@cache
def _table() -> Mapping[Kind, Mapping[str, Method]]:
    kinds: tuple[Kind, ...] = get_args(Kind)
    rows = [*_OWN, *(row for row, _ in _outside().rows.values())]
    return {kind: MappingProxyType({row.name: row for row in rows if row.kind == kind}) for kind in kinds}


@cache
def _outside() -> _Outside:
    found = _Outside({}, {})
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_distribution(entry), entry.name)):
        _read(entry, found)
    return found


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _read(entry: EntryPoint, found: _Outside) -> None:
    """Add what a package offers. Raises MethodError naming it for what is no row or no preset, or a name twice."""
    package = _distribution(entry)
    where = f"methods of the package {package} ({entry.value})"
    remedy = f"mend {package}, or uninstall it"
    try:
        offered = entry.load()
    except _UNUSABLE as error:
        raise MethodError(where, "a module that can be imported", reason(error), remedy) from error
    rows, presets = getattr(offered, "METHODS", ()), getattr(offered, "PRESETS", {})
    if not isinstance(rows, Iterable) or not isinstance(presets, Mapping) or not (rows or presets):
        raise MethodError(where, "METHODS, rows, or PRESETS, a mapping by name", "neither", remedy)
    for row in rows:
        if not isinstance(row, Method) or row.kind == "network":
            what = type(row).__name__ if not isinstance(row, Method) else f"the network {row.name}"
            raise MethodError(where, "rows of criteria and repairs", what, remedy)
        taken = [own.name for own in _OWN if own.kind == row.kind] + ["none"]
        if row.name in taken or (row.kind, row.name) in found.rows:
            whose = "lowrise" if row.name in taken else found.rows[row.kind, row.name][1]
            raise MethodError(where, f"a {row.kind} of a new name", f"{row.name}, which {whose} has", remedy)
        found.rows[row.kind, row.name] = row, package
    for name, preset in presets.items():
        if not isinstance(name, str) or not isinstance(preset, Mapping):
            raise MethodError(where, "presets by name, each a mapping", f"{name!r}: {type(preset).__name__}", remedy)
        if name in found.presets:
            raise MethodError(where, "a preset of a new name", f"{name}, which {found.presets[name][1]} has", remedy)
        found.presets[name] = dict(preset), package
