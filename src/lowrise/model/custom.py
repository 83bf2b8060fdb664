"""A checkpoint that needs its own modelling file: the stock class plus one published-form network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lowrise.model import networks
from lowrise.model.decoder import Decoder

_TEMPLATE = '''"""Opens this checkpoint: {model} with a lightweight network in a removed span's place (made by lowrise).

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
"""

from transformers import {config}, {model}

from .{networks} import SpanNetwork, attach


class LowriseConfig({config}):
    model_type = "lowrise-{family}"


class LowriseForCausalLM({model}):
    config_class = LowriseConfig

    def __init__(self, config):
        super().__init__(config)
        self.span_network = SpanNetwork(**config.span_network["settings"])
        attach(self.get_submodule(config.span_network["layers"]), self.span_network, config.span_network["position"])
        self.post_init()
'''
NETWORKS_FILE = "lowrise_networks"


def write_custom_model(decoder: Decoder, folder: Path) -> None:
    """save_pretrained with the network among the weights, and the two Python files that a loader needs.

    The model type is a new one, so that a loader without these files refuses instead of leaving the network out.
    """
    model, network = decoder.model, decoder.network
    assert network is not None
    model.save_pretrained(folder)
    names = {"config": type(model.config).__name__, "model": type(model).__name__, "family": decoder.family}
    code = _TEMPLATE.format(networks=NETWORKS_FILE, **names)
    (folder / "modeling_lowrise.py").write_text(code, encoding="utf-8")
    shutil.copyfile(networks.__file__, folder / f"{NETWORKS_FILE}.py")
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model_type"] = f"lowrise-{decoder.family}"
    config["architectures"] = ["LowriseForCausalLM"]
    config["auto_map"] = {
        "AutoConfig": "modeling_lowrise.LowriseConfig",
        "AutoModelForCausalLM": "modeling_lowrise.LowriseForCausalLM",
    }
    config["span_network"] = {
        "settings": network.settings,
        "layers": decoder.layers_path,
        "position": decoder.network_position,
    }
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
