"""All methods, one row each: criteria that choose layers, repairs of what is left, networks that are put back.

Whatever depends on a method asks its row; no other place names one. Rows of other packages come by entry points of the
group `lowrise.methods` (docs/adding.md). Imports nothing heavy: functions stand here as dotted paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, get_args

from lowrise.errors import UNUSABLE, MethodError, close_names, reason
from lowrise.methods.row import OF_SOME, Kind, LooksAt, Method
from lowrise.methods.rows import OWN

__all__ = [
    "OF_SOME",
    "Kind",
    "LooksAt",
    "Method",
    "current_name",
    "load",
    "method",
    "methods",
    "origin",
    "presets_of_others",
]

GROUP = "lowrise.methods"
_UNUSABLE: tuple[type[Exception], ...] = (*UNUSABLE, SyntaxError)  # what importing a module may raise


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


def current_name(kind: Kind, name: str) -> str:
    """Of a method that is named as recipes once did, and as plans still do; any other name as it is."""
    return next((row.name for row in methods(kind).values() if row.older_name == name), name)


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
    rows = [*OWN, *(row for row, _ in _outside().rows.values())]
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
        taken = [name for own in OWN if own.kind == row.kind for name in (own.name, own.older_name)] + ["none"]
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
