"""lowrise makes a Hugging Face causal language model shallower.

Importing the package loads nothing heavy: torch and transformers come in with the first public name that needs them.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lowrise.threads import wait_briefly

if TYPE_CHECKING:
    from lowrise.api import (
        Event,
        LowriseWarning,
        Model,
        apply,
        calibrate,
        check,
        compare,
        estimate,
        export,
        heal,
        measure,
        open,
        plan,
        push,
        run,
        tokens,
        wrap,
    )
    from lowrise.calibration.tokens import Windows
    from lowrise.errors import LowriseError
    from lowrise.plan import Plan
    from lowrise.results import Comparison, Estimate, Healing, Results

__all__ = [
    "Comparison",
    "Estimate",
    "Event",
    "Healing",
    "LowriseError",
    "LowriseWarning",
    "Model",
    "Plan",
    "Results",
    "Windows",
    "apply",
    "calibrate",
    "check",
    "compare",
    "estimate",
    "export",
    "heal",
    "measure",
    "open",
    "plan",
    "push",
    "run",
    "tokens",
    "wrap",
]

_ELSEWHERE = {
    "Comparison": "lowrise.results",
    "Estimate": "lowrise.results",
    "Healing": "lowrise.results",
    "LowriseError": "lowrise.errors",
    "Plan": "lowrise.plan",
    "Results": "lowrise.results",
    "Windows": "lowrise.calibration.tokens",
    "check": "lowrise.engines",
}
_MODULES = ("compare", "heal", "measure", "plan")  # called as the functions of their names: called.py

wait_briefly()  # here, because it is of use only before torch is imported


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("lowrise")  # of the installed package: its build took it from a tag of git
    if name not in __all__:
        raise AttributeError(f"module 'lowrise' has no attribute {name!r}")
    if name in _MODULES:
        return import_module(f"lowrise.{name}")
    return getattr(import_module(_ELSEWHERE.get(name, "lowrise.api")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
