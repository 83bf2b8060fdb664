"""The processes that heal together, and the number format they compute in: accelerate's, asked in one place."""

from __future__ import annotations

import os
from datetime import timedelta
from importlib.util import find_spec
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import (
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
)

from lowrise.errors import RecipeError, close_names, reason
from lowrise.heal.precision import precision_of
from lowrise.model.placement import pick_devices
from lowrise.settings import Heal, Precision

_PATIENCE = timedelta(days=1)  # of processes that wait while the first one measures
_LOGS = "runs"  # where tensorboard looks
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

Value = TypeVar("Value")


def check_loggers(names: list[str]) -> None:
    """Raises RecipeError for a logger that accelerate does not know, or whose package is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = close_names(name, LOGGER_TYPE_TO_CLASS)
            raise RecipeError("--report-to", "loggers that accelerate knows", repr(name), known)
        package = {"comet_ml": "comet_ml", "clearml": "clearml"}.get(name, name)
        if find_spec(package) is None:
            found = f"{name}, which is not installed"
            raise RecipeError("--report-to", "a logger that is installed", found, f"pip install {package}")


def check_device(settings: Heal, device: str) -> torch.device:
    """The one that is healed on. Raises RecipeError for several, and for a number format that it does not compute in;
    InputError for one that this machine lacks.
    """
    devices = pick_devices(device)
    if len(devices) > 1:
        expected = "one device to heal on"
        raise RecipeError("--device", expected, device, "start a process for each by `accelerate launch`")
    if precision_of(settings.precision, devices[0]) == "fp16" and devices[0].type == "cpu":
        raise RecipeError("heal.precision", '"no" or bf16 on a processor', "fp16", "leave it out")
    return devices[0]


def start(settings: Heal, device: str) -> Accelerator:
    """Joins the processes that `accelerate launch` started, if it did.

    Raises RecipeError for what the launcher's environment asks for and cannot be had, and for several devices of one
    process; InputError for a device that this machine lacks.
    """
    where = check_device(settings, device)
    try:
        return Accelerator(
            cpu=where.type == "cpu" or None,
            device_placement=False,  # models are opened where they are to be
            mixed_precision=precision_of(settings.precision, where),
            # what the launcher says of it would divide losses, which are sums over the whole step already
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with=settings.report_to or None,
            project_config=ProjectConfiguration(project_dir=".", logging_dir=_LOGS),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, ValueError) and AcceleratorState._shared_state:  # it is one for the whole process
            expected = "the precision and device that accelerate was first used with in this process"
            remedy = "say that precision, or begin a new process"
            raise RecipeError("heal.precision", expected, reason(error), remedy) from error
        said = ", ".join(sorted(name for name in os.environ if name in _LAUNCHED or name.startswith("ACCELERATE_")))
        expected, remedy = "what `accelerate launch` sets", "start it by `accelerate launch -m`, or unset them"
        raise RecipeError(f"the environment ({said})", expected, reason(error), remedy) from error


def begin_logs(accelerator: Accelerator, settings: Heal) -> None:
    """Raises RecipeError for a logger that does not start. Loggers take numbers and words, no lists."""
    if not settings.report_to:
        return
    plain = {
        key: ", ".join(map(str, one)) if isinstance(one, list) else one for key, one in settings if one is not None
    }
    try:
        accelerator.init_trackers("lowrise", config=plain)
    except Exception as error:
        expected, remedy = "loggers that start", "log in to it as it says, or leave it out"
        raise RecipeError("--report-to", expected, reason(error), remedy) from error


def computed_in(accelerator: Accelerator) -> Precision:
    """The number format that a healing computes in. accelerate's is one for a whole process; a trial may end it."""
    ended = accelerator.autocast_handler is not None and not accelerator.autocast_handler.enabled
    precision: Precision = "no" if ended else accelerator.mixed_precision
    return precision


def of_the_first(accelerator: Accelerator, value: Value) -> Value:
    """What the first process gives, in all of them."""
    values = [value]
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]
