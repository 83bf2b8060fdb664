"""What attention made is used again while a layer's MLP changes, to the last bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

import tiny
from lowrise.edit.layerwise_pass import LayerwisePass
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.observe.activation_store import ActivationStore
from tiny import windows

LAYER = 2
FAMILIES = ["llama", "gpt2", "gpt_neox", "opt", "gemma2"]  # in a row, in parallel; the last hands its weights on too


@pytest.fixture
def layerwise(request: pytest.FixtureRequest) -> Iterator[LayerwisePass]:
    decoder = Decoder(tiny.model(getattr(request, "param", "llama")))
    with torch.no_grad(), ActivationStore() as store:
        yield LayerwisePass(Student(decoder), windows(8), 2, store, LAYER, mixed=False)


def outputs(layerwise: LayerwisePass, instead: dict[str, torch.Tensor] | None = None) -> list[torch.Tensor]:
    return [layerwise.run(number, calls, instead)() for number, _, calls in layerwise.batches()]


def counted(layerwise: LayerwisePass) -> list[int]:
    """One entry a time that attention's output matrix is given something."""
    calls: list[int] = []
    layerwise.dense_layer.attention_output.module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("layerwise", FAMILIES, indirect=True)
def test_the_layer_makes_what_it_would_make(layerwise: LayerwisePass) -> None:
    dense = layerwise.dense_layer
    changed = {name: 1.5 * dense.parameter(name) for name in (*dense.neuron_parameters, dense.mlp_output.parameter)}
    expected = [outputs(layerwise), outputs(layerwise, changed)]
    layerwise.keep_attention()
    passes = counted(layerwise)
    found = [outputs(layerwise), outputs(layerwise, changed)]
    kept = layerwise.decoder.family != "gemma2"
    assert len(passes) == len(found[0]) * (1 if kept else 2)
    assert all(torch.equal(*pair) for pair in zip(itertools.chain(*found), itertools.chain(*expected), strict=True))
    layerwise.forget_attention()
    passes.clear()
    outputs(layerwise)
    assert len(passes) == len(found[0])


def test_what_changes_attention_is_computed(layerwise: LayerwisePass) -> None:
    name = layerwise.dense_layer.attention_output.parameter
    changed = {name: 1.5 * layerwise.dense_layer.parameter(name)}
    expected = outputs(layerwise, changed)
    layerwise.keep_attention()
    outputs(layerwise)
    assert all(torch.equal(*pair) for pair in zip(outputs(layerwise, changed), expected, strict=True))


def test_a_forward_that_a_library_has_put_there_stays(layerwise: LayerwisePass) -> None:
    module = layerwise.dense_layer.module.self_attn
    own = module.forward
    module.forward = lambda *args, **kwargs: own(*args, **kwargs)
    put = module.forward
    layerwise.keep_attention()
    outputs(layerwise)
    outputs(layerwise)
    assert module.forward is put


def test_what_ends_in_the_middle_leaves_nothing_behind(layerwise: LayerwisePass) -> None:
    module = layerwise.dense_layer.module.self_attn
    layerwise.keep_attention()
    outputs(layerwise)
    hook = layerwise.dense_layer.mlp_output.module.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        outputs(layerwise)
    hook.remove()
    assert "forward" not in vars(module)
