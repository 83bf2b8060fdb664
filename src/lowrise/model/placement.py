"""Where a model's weights lie: on one device, or its layers over several, by accelerate's device map and hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lowrise.errors import InputError, ModelError, reason
from lowrise.model.batching import free_memory

# Of a device's free memory, what weights may take: batches and the sums of a repair want the rest.
_WEIGHTS = 0.7


def pick_devices(name: str, weights: int = 0) -> list[torch.device]:
    """Those that `--device` names: one, or several with commas between.

    `auto`: the accelerator if there is one, and as many of its kind as are needed for weights of so many bytes. Raises
    InputError for a device that this machine lacks, and for kinds that cannot be mixed.
    """
    if name == "auto":
        first = torch.accelerator.current_accelerator(check_available=True)
        if first is None:
            return [torch.device("cpu")]
        found = [torch.device(first.type, number) for number in range(torch.accelerator.device_count())]
        chosen = enough(found, weights)
        return chosen if len(chosen) > 1 else [first]
    devices = list(dict.fromkeys(_device(one.strip()) for one in name.split(",")))
    if len({device.type for device in devices}) > 1 or (len(devices) > 1 and devices[0].type == "cpu"):
        expected, remedy = "one device, or several accelerators of one kind", "name such, or say auto"
        raise InputError("--device", expected, name, remedy)
    return devices


def enough(devices: Sequence[torch.device], weights: int) -> list[torch.device]:
    """The first, where the weights fit there, else as few more as hold them; all where that is not known."""
    room = 0.0
    for count, device in enumerate(devices, 1):
        free = free_memory(device)
        if free is None:
            return [devices[0]]
        room += _WEIGHTS * free
        if weights <= room:
            return [*devices[:count]]
    return [*devices]


def _device(name: str) -> torch.device:
    try:
        device = torch.empty(0, device=name).device
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        return device
    except (RuntimeError, AssertionError) as error:
        found = f"{name!r} ({reason(error)})"
        raise InputError("--device", "a device of this machine", found, "try cpu or auto") from error


def how_to_load(devices: Sequence[torch.device], *, gguf: bool = False) -> dict[str, Any]:
    """What `from_pretrained` is told: to bring weights to the one accelerator as it reads them, or to spread the layers
    over several evenly. gguf: the file is one, which is unpacked on the CPU; `settle` brings the model to its device.
    """
    if len(devices) == 1:
        return {} if gguf or devices[0].type == "cpu" else {"device_map": {"": devices[0]}}
    free = {device: free_memory(device) for device in devices}
    return {
        "device_map": "balanced",
        "max_memory": {_key(device): int(_WEIGHTS * room) for device, room in free.items() if room is not None},
    }


def settle(model: Any, devices: Sequence[torch.device], source: str) -> Any:
    """The model where it is to be, once it was loaded as `how_to_load` says. Raises ModelError for one that did not fit
    on its devices.
    """
    if len(devices) == 1:
        return model.to(devices[0])
    away = sorted({str(place) for place in getattr(model, "hf_device_map", {}).values()} & {"cpu", "disk"})
    if away:
        named = ", ".join(map(str, devices))
        raise ModelError(f"--device {named}", f"room for {source}", f"layers left on {away[0]}", "name more devices")
    return model


def devices_of(model: nn.Module) -> list[torch.device]:
    """On which its parameters lie, in order."""
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))


def place_on(network: nn.Module, device: torch.device, *, spread: bool) -> None:
    """What joins a model that is spread lies there, and what it is given goes there."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    if spread:
        add_hook_to_module(network.to(device), AlignDevicesHook(execution_device=device))


def _key(device: torch.device) -> int | str:
    """accelerate's word for it."""
    return device.type if device.index is None else device.index
