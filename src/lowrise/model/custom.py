"""A checkpoint that needs its own modelling file: the stock class plus networks in their published form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lowrise.errors import ModelError
from lowrise.model import networks
from lowrise.model.decoder import CUSTOM_TYPE, Decoder
from lowrise.model.wrappers import CAUSAL, auto_class_of

_TEMPLATE = '''"""Opens this checkpoint: {model} with {what} (made by lowrise).

    {auto}.from_pretrained(FOLDER, trust_remote_code=True)
"""

{imports}

from .{networks} import SpanNetwork, attach


class LowriseConfig({config}):
    model_type = "{custom_type}{family}"


class LowriseForCausalLM({model}):
    config_class = LowriseConfig

    def __init__(self, config):
        super().__init__(config)
{networks_of}
        self.post_init()
'''
_ONE = """\
        self.span_network = SpanNetwork(**config.span_network["settings"])
        attach(self.get_submodule(config.span_network["layers"]), self.span_network, config.span_network["position"])"""
_SEVERAL = """\
        self.span_networks = ModuleList(SpanNetwork(**one["settings"]) for one in config.span_networks)
        for network, one in zip(self.span_networks, config.span_networks):
            attach(self.get_submodule(one["layers"]), network, one["position"])"""
NETWORKS_FILE = "lowrise_networks"
_OWN_CLASSES = ("LowriseConfig", "LowriseForCausalLM")  # of `_TEMPLATE`


def write_custom_model(decoder: Decoder, folder: Path) -> None:
    """Beside a saved model with the networks among its weights: the Python files that a loader needs, and their names.

    The model type is a new one, so that a loader without these files refuses instead of leaving the networks out.
    """
    model = decoder.model
    places = [
        {"settings": network.settings, "layers": decoder.layers_path, "position": position}
        for network, position in zip(decoder.networks, decoder.network_positions, strict=True)
    ]
    classes = (_stock(type(model.config)), _stock(type(model)))
    kind = _stock_type(model.config)
    auto = CAUSAL if decoder.config is model.config else auto_class_of(kind).__name__
    names = {"config": classes[0].__name__, "model": classes[1].__name__, "family": kind, "auto": auto}
    names["custom_type"] = CUSTOM_TYPE
    imports = [_import(one) for one in classes]
    if len(places) > 1:
        imports.insert(0, "from torch.nn import ModuleList")
    code = _TEMPLATE.format(
        what=_what(places),
        networks=NETWORKS_FILE,
        networks_of=_ONE if len(places) == 1 else _SEVERAL,
        imports="\n".join(imports),
        **names,
    )
    (folder / "modeling_lowrise.py").write_text(code, encoding="utf-8")
    shutil.copyfile(networks.__file__, folder / f"{NETWORKS_FILE}.py")
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model_type"] = f"{CUSTOM_TYPE}{kind}"
    config["architectures"] = ["LowriseForCausalLM"]
    config["auto_map"] = {
        "AutoConfig": "modeling_lowrise.LowriseConfig",
        **dict.fromkeys((CAUSAL, auto), "modeling_lowrise.LowriseForCausalLM"),
    }
    config |= {"span_network": places[0]} if len(places) == 1 else {"span_networks": places}
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_stock_type(decoder: Decoder, folder: Path) -> None:
    """Of a saved model that was opened with networks already: config.json as its stock class would have it, so that
    what follows reads it as such.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config["model_type"].startswith(CUSTOM_TYPE):
        own = {"model_type": _stock_type(decoder.model.config), "architectures": [_stock(type(decoder.model)).__name__]}
        left_out = ("auto_map", "span_network", "span_networks")
        stock = {name: value for name, value in config.items() if name not in left_out}
        file.write_text(json.dumps(stock | own, indent=2) + "\n", encoding="utf-8")


def _what(places: list[dict[str, Any]]) -> str:
    if places[0]["settings"]["kind"] != "linear":
        return "a lightweight network in a removed span's place"
    return f"{'linear maps' if len(places) > 1 else 'a linear map'} of the residual stream where layers are gone"


def _stock(of: type) -> type:
    """Without the class that a checkpoint with networks of its own puts before it."""
    return of.__mro__[1] if of.__name__ in _OWN_CLASSES else of


def _stock_type(config: Any) -> str:
    return str(config.model_type).removeprefix(CUSTOM_TYPE)


def _import(of: type) -> str:
    """The line that imports a class of transformers, or one of the model's own code, whose file lies beside."""
    if of.__module__.startswith("transformers_modules."):
        return f"from .{of.__module__.rpartition('.')[2]} import {of.__name__}"
    return f"from transformers import {of.__name__}"


def refuse_network(decoder: Decoder) -> None:
    """Raises ModelError for a model with a published-form network in it: layers cannot be told apart from it again."""
    found = decoder.networks
    if not found:
        return
    linear = found[0].kind == "linear"
    raise ModelError(
        decoder.where,
        "a model of decoder layers alone",
        "linear maps between them" if linear else "a network in its published form between them",
        "prune the model it was made from" + ("" if linear else ", or make it anew with --form portable"),
    )
