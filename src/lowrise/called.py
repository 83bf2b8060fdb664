"""Modules that are called as the public function of their name: `lowrise.plan(model, ...)`.

`lowrise.plan` is a module, with `Plan` in it, and Python puts a module that is imported into its package under its
name, over any function there. So the module itself is what is called, and shows the function's signature and text.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._function(*arguments, **options)

    @property
    def _function(self) -> Any:
        return getattr(import_module("lowrise.api"), self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._function)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return str(self._function.__doc__)


def called(name: str) -> None:
    """Let the module `name` be called as the function of `lowrise.api` of the same name."""
    sys.modules[name].__class__ = _Called
