"""Networks in their published form on the stream: linear maps, several in one checkpoint, and older outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from cuts import config_of, logits
from lowrise.edit.maps import attach_networks
from lowrise.errors import ModelError, PlanError
from lowrise.model.checkpoint import save_and_prove
from lowrise.model.custom import refuse_network
from lowrise.model.decoder import Decoder
from lowrise.model.networks import SpanNetwork, linear_network, random_network
from lowrise.model.source import open_model

D = 32


def matrix(seed: int) -> torch.Tensor:
    """Near 1, so that all layers above it still count."""
    return torch.eye(D) + 0.2 * torch.randn(D, D, generator=torch.Generator().manual_seed(seed))


def written(
    folder: Path, out: Path, networks: dict[int, SpanNetwork], gone: tuple[int, ...]
) -> tuple[Path, torch.Tensor]:
    """(the checkpoint, the logits that the model in memory had)."""
    opened = open_model(str(folder), device="cpu")
    for layer in sorted(gone, reverse=True):
        opened.decoder.drop(layer, layer + 1)
    attach_networks(opened.decoder, tiny.without(*gone), networks)
    expected = logits(opened.model, tiny.ids())
    out.mkdir()
    save_and_prove(opened, out, out=out, compute=torch.float32)
    return out, expected


def by_hand(folder: Path, maps: dict[int, torch.Tensor], gone: tuple[int, ...]) -> torch.Tensor:
    """Logits of the dense layers one by one, the stream multiplied in front of those in `maps`."""
    decoder, ids = Decoder(AutoModelForCausalLM.from_pretrained(folder)), tiny.ids()
    with torch.no_grad():
        h, calls = decoder.embed(ids)
        for layer in range(tiny.LAYERS + 1):
            if layer in maps:
                h = h @ maps[layer]
            if layer < tiny.LAYERS and layer not in gone:
                h = decoder.step(layer, h, calls)
        return decoder.logits(h, ids)


@pytest.mark.parametrize(
    ("places", "gone"),
    [((3,), (1, 2)), ((1,), (0,)), ((6,), (4, 5)), ((2, 4), (1, 3)), ((1, 3, 6), (0, 2, 5))],
)
def test_maps_act_where_layers_are_gone_in_memory_and_after_plain_loading(
    tiny_folder: Path, tmp_path: Path, places: tuple[int, ...], gone: tuple[int, ...]
) -> None:
    """The proof compares cached with uncached logits besides."""
    maps = {place: matrix(place) for place in places}
    networks = {place: linear_network(one) for place, one in maps.items()}
    out, in_memory = written(tiny_folder, tmp_path / "out", networks, gone)
    assert torch.allclose(in_memory, by_hand(tiny_folder, maps, gone), atol=1e-5)
    loaded = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert torch.equal(logits(loaded, tiny.ids()), in_memory)
    decoder = Decoder(loaded)
    assert [network.kind for network in decoder.networks] == ["linear"] * len(places)
    assert decoder.depth == len(decoder) == tiny.LAYERS - len(gone)


def test_a_checkpoint_of_maps_is_written_the_same_again(tiny_folder: Path, tmp_path: Path) -> None:
    networks = {place: linear_network(matrix(place)) for place in (2, 4)}
    one, other = (written(tiny_folder, tmp_path / name, networks, (1, 3))[0] for name in ("one", "other"))
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name


def test_without_its_code_a_checkpoint_of_maps_is_refused_not_opened_without_them(
    tiny_folder: Path, tmp_path: Path
) -> None:
    networks = {place: linear_network(matrix(place)) for place in (2, 4)}
    out, _ = written(tiny_folder, tmp_path / "out", networks, (1, 3))
    assert config_of(out)["model_type"] == "lowrise-llama"
    with pytest.raises(ModelError, match="--trust-remote-code"):
        open_model(str(out), device="cpu")


@pytest.mark.parametrize("places", [(2,), (2, 4)])
def test_a_model_with_maps_is_not_pruned_again(tiny_folder: Path, tmp_path: Path, places: tuple[int, ...]) -> None:
    gone = tuple(place - 1 for place in places)
    out, _ = written(tiny_folder, tmp_path / "out", {one: linear_network(matrix(one)) for one in places}, gone)
    opened = open_model(str(out), device="cpu", trust_remote_code=True)
    with pytest.raises(ModelError, match="linear maps between them; prune the model it was made from"):
        refuse_network(opened.decoder)


def test_one_trained_network_keeps_its_words_and_its_weights_names(tiny_folder: Path, tmp_path: Path) -> None:
    """What loaders of older outputs and of new ones read alike."""
    network = random_network("ffn", D, 4 * D, "relu", 0)
    out, _ = written(tiny_folder, tmp_path / "out", {3: network}, (1, 2))
    settings = {"kind": "ffn", "hidden": D, "intermediate": 4 * D, "activation": "relu"}
    assert config_of(out)["span_network"] == {"settings": settings, "layers": "model.layers", "position": 1}
    assert (out / "modeling_lowrise.py").read_text(encoding="utf-8") == MODELLING_FILE
    names = {
        name for name in Decoder(AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)).model.state_dict()
    }
    assert {f"span_network.{part}.{kind}" for part in ("up", "down") for kind in ("weight", "bias")} <= names


def test_an_older_output_with_its_own_networks_file_opens(tiny_folder: Path, tmp_path: Path) -> None:
    network = random_network("swiglu", D, 48, "silu", 0)
    out, in_memory = written(tiny_folder, tmp_path / "out", {3: network}, (1, 2))
    (out / "lowrise_networks.py").write_text(OLDER_NETWORKS, encoding="utf-8")
    opened = open_model(str(out), device="cpu", trust_remote_code=True)
    assert torch.equal(logits(opened.model, tiny.ids()), in_memory)
    assert opened.decoder.depth == 5
    with pytest.raises(ModelError, match="make it anew with --form portable"):
        refuse_network(opened.decoder)


@pytest.mark.parametrize("kinds", [("ffn", "linear"), ("linear", "ffn"), ("ffn", "swiglu")])
def test_a_trained_network_stands_alone(kinds: tuple[str, str]) -> None:
    decoder = Decoder(tiny.model())
    first, second = (SpanNetwork(kind, D, 48, "relu") for kind in kinds)
    decoder.attach(first, 1)
    with pytest.raises(PlanError, match="one published-form network"):
        decoder.attach(second, 2)


def test_a_map_is_no_bias_and_d_squared_numbers() -> None:
    network = linear_network(matrix(0))
    assert [tuple(one.shape) for one in network.parameters()] == [(D, D)]
    h = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(network(h), h @ matrix(0), atol=1e-5)
    assert json.loads(json.dumps(network.settings)) == {"kind": "linear", "hidden": D}


MODELLING_FILE = '''"""Opens this checkpoint: LlamaForCausalLM with a lightweight network in a removed span's place \
(made by lowrise).

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
"""

from transformers import LlamaConfig
from transformers import LlamaForCausalLM

from .lowrise_networks import SpanNetwork, attach


class LowriseConfig(LlamaConfig):
    model_type = "lowrise-llama"


class LowriseForCausalLM(LlamaForCausalLM):
    config_class = LowriseConfig

    def __init__(self, config):
        super().__init__(config)
        self.span_network = SpanNetwork(**config.span_network["settings"])
        attach(self.get_submodule(config.span_network["layers"]), self.span_network, config.span_network["position"])
        self.post_init()
'''
OLDER_NETWORKS = """
from torch import nn
from transformers.activations import ACT2FN


class SpanNetwork(nn.Module):
    def __init__(self, kind, hidden, intermediate, activation):
        super().__init__()
        self.settings = {"kind": kind, "hidden": hidden, "intermediate": intermediate, "activation": activation}
        self.gate = nn.Linear(hidden, intermediate, bias=False)
        self.up = nn.Linear(hidden, intermediate, bias=False)
        self.down = nn.Linear(intermediate, hidden, bias=False)
        self.kind = kind
        self.act = ACT2FN[activation]

    def forward(self, h):
        return self.down(self.act(self.gate(h)) * self.up(h))


def attach(layers, network, position):
    def before(_module, args, kwargs):
        if args:
            return (network(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": network(kwargs["hidden_states"])}

    layers[position].register_forward_pre_hook(before, with_kwargs=True)
"""
