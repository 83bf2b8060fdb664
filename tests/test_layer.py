"""The view of one decoder layer (`model/layer.py`)."""

from __future__ import annotations

import pytest
import torch

import tiny
from lowrise.errors import ModelError
from lowrise.model import layer as module
from lowrise.model.decoder import Decoder
from lowrise.model.families import FAMILIES

FAMILIES_HERE = sorted(tiny.FAMILIES)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_a_layer_called_by_itself_is_the_models_own(family: str) -> None:
    decoder = Decoder(tiny.model(family))
    states = [h for _, h in decoder.states(tiny.ids())]
    _, calls = decoder.embed(tiny.ids())
    for index in range(len(decoder)):
        assert torch.equal(decoder.layer(index).call(states[index], calls[index]), states[index + 1])


@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_matrices_are_those_that_the_family_names(family: str) -> None:
    decoder, names = Decoder(tiny.model(family)), FAMILIES[family]
    layer = decoder.layer(2)
    found = [*layer.attention_inputs, layer.attention_output, *layer.mlp_inputs, layer.mlp_output]
    paths = [*names.attention_inputs, names.attention_output, *names.mlp_inputs, names.mlp_output]
    assert [matrix.parameter for matrix in found] == [f"{path}.weight" for path in paths]
    assert all(
        matrix.module is decoder.layers[2].get_submodule(path) for matrix, path in zip(found, paths, strict=True)
    )


def test_structure_is_looked_up_once_and_parameters_are_those_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Decoder(tiny.model("gemma2")).layer(1)
    asked = []
    monkeypatch.setattr(module, "layer_names", lambda *args: asked.append(args) or FAMILIES["gemma2"])
    for _ in range(3):
        assert layer.mlp_inputs and layer.attention_norm is not None and layer.neuron_count == 48
    assert len(asked) == 1
    path = layer.mlp_output.parameter
    layer.module.get_parameter(path).data.zero_()
    assert not layer.parameter(path).any()


def test_a_view_after_a_cut_is_of_the_layer_that_stands_there() -> None:
    decoder = Decoder(tiny.model("qwen2"))
    above = decoder.layer(3)
    settings = dict(above.settings)
    decoder.drop(1, 3)
    assert decoder.layer(1).module is above.module
    assert decoder.layer(1).settings == settings and settings


def test_a_matrix_that_is_none_is_refused_by_name() -> None:
    decoder = Decoder(tiny.model("llama"))
    decoder.layers[0].mlp.down_proj.weight = None
    with pytest.raises(ModelError, match=r"mlp\.down_proj: expected a linear module"):
        _ = decoder.layer(0).mlp_output
