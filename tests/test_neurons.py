"""Neurons that the layer before a gap takes over from those that go, in every way that MLPs keep theirs."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor

import tiny
from lowrise.edit.gram import Gram
from lowrise.edit.neurons import MOST_INPUTS, WHILE_CHOOSING, blocks, obs_selection, transplant_block
from lowrise.edit.student import Student
from lowrise.model.decoder import Decoder
from lowrise.model.neurons import chosen, neurons_apart
from lowrise.observe.activation_store import ActivationStore
from lowrise.progress import Reporter
from naive import apart, naive_refit
from repairs import repair
from tiny import windows

QUIET = Reporter(quiet=True)
FAMILIES = ["llama", "qwen2", "gpt2", "gpt_neox", "opt", "phi3"]  # gated, biased, transposed, parallel, fused
HELD_OUT = 4


def make(family: str) -> Decoder:
    return Decoder(copy.deepcopy(tiny.model(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_of_every_family_are_told_apart(family: str) -> None:
    assert neurons_apart(make(family))


def test_neurons_that_are_kept_otherwise_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.model.neurons.chosen", lambda own, _other, axis, *_: own.roll(1, axis))
    assert not neurons_apart(make("llama"))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_of_two_layers_are_taken_in_the_order_asked_for(family: str) -> None:
    decoder = make(family)
    write = decoder.layer(1).mlp_write
    k = len(write.matrix(write.module.get_parameter("weight")))
    for name, axis in decoder.layer(1).neuron_parameters.items():
        own, other = (decoder.layers[layer].get_parameter(name) for layer in (1, 2))
        assert torch.equal(chosen(own, other, axis, torch.arange(k, 2 * k), k), other)
        assert torch.equal(chosen(own, other, axis, torch.arange(k), k), own)


@torch.no_grad()
def test_the_rows_that_go_cost_least_when_all_others_make_up_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against trying: every row in turn out, the others solved anew."""
    monkeypatch.setattr("lowrise.edit.neurons.STEPS", 100)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(12, 12, generator=generator)
    a = torch.randn(400, 12, generator=generator) @ mixed
    matrix = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    e = torch.randn(400, 5, generator=generator)
    fit = Gram(12, 5, torch.device("cpu"))
    fit.add(a, e)
    wanted = a.double() @ matrix + e.double()
    strength = WHILE_CHOOSING * fit.inputs.diagonal().mean()

    def cost(rows: list[int]) -> float:
        below = strength.sqrt() * torch.eye(12, dtype=torch.float64)
        stacked = torch.cat([a.double(), below])[:, rows], torch.cat([wanted, strength.sqrt() * matrix])
        solution = torch.linalg.lstsq(*stacked).solution
        return float((stacked[0] @ solution - stacked[1]).square().sum())

    rows = list(range(12))
    while len(rows) > 6:
        rows.remove(min(rows, key=lambda row: cost([other for other in rows if other != row])))
    found = obs_selection(fit, matrix, 6)
    assert found is not None
    assert found.tolist() == rows


def test_sums_that_say_nothing_choose_nothing() -> None:
    silent = Gram(4, 2, torch.device("cpu"))
    silent.add(torch.zeros(8, 4), torch.ones(8, 2))
    assert obs_selection(silent, torch.ones(4, 2, dtype=torch.float64), 2) is None


@torch.no_grad()
def test_sums_of_some_rows_are_those_of_an_mlp_that_has_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    a, e = torch.randn(50, 8, generator=generator), torch.randn(50, 3, generator=generator)
    matrix = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    whole, part = Gram(8, 3, torch.device("cpu")), Gram(4, 3, torch.device("cpu"))
    rows, gone = torch.tensor([0, 3, 4, 6]), torch.tensor([1, 2, 5, 7])
    whole.add(a, e)
    part.add(a[:, rows], e + (a[:, gone].double() @ matrix[gone]).float())
    found = whole.keeping(rows, matrix)
    assert torch.allclose(found.inputs, part.inputs, rtol=1e-5)
    assert torch.allclose(found.cross, part.cross, rtol=1e-4, atol=1e-4)
    assert found.squares == pytest.approx(part.squares, rel=1e-5)
    assert found.tokens == part.tokens


@pytest.mark.usefixtures("regressions_alone")
@torch.no_grad()
@pytest.mark.parametrize(
    ("kept", "takes"), [([0, 2, 3, 5], [0, 3]), ([0, 3, 4, 5], [0])], ids=["two gaps", "a gap of two"]
)
@pytest.mark.parametrize(("blocks", "most"), [(1, MOST_INPUTS), (4, 0)], ids=["whole", "by block"])
def test_a_whole_repair_with_neurons_is_the_naive_one(
    kept: list[int], takes: list[int], blocks: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowrise.edit.neurons.MOST_INPUTS", most)
    monkeypatch.setattr("lowrise.edit.neurons.CHOOSING_TOKENS", 10**6)  # all, as the naive way chooses on
    tokens, ours, naive = windows(64), make("llama"), make("llama")
    for decoder, layer in itertools.product((ours, naive), (1, 2, 4)):  # MLPs that are missed
        if layer not in kept:
            decoder.layers[layer].get_parameter("mlp.down_proj.weight").mul_(4)
    fits = repair(Student(ours, kept), tokens, HELD_OUT, "refit", QUIET)
    naive_refit(naive, kept, tokens, blocks)
    assert [fit.layer for fit in fits if fit.neurons] == takes
    assert apart(ours, naive, kept, windows(64, seed=1)) < 3e-4


def idle_layer_before_a_gap() -> Decoder:
    """Layer 2 writes nothing, and layer 3, whose MLP alone writes, much."""
    decoder = make("llama")
    with torch.no_grad():
        for layer in (2, 3):
            decoder.layers[layer].get_parameter("self_attn.o_proj.weight").zero_()
        decoder.layers[2].get_parameter("mlp.down_proj.weight").zero_()
        decoder.layers[3].get_parameter("mlp.down_proj.weight").mul_(3)
    return decoder


@torch.no_grad()
def test_an_idle_layer_takes_over_the_whole_mlp_that_goes() -> None:
    decoder = idle_layer_before_a_gap()
    fit, *_ = repair(Student(decoder, [0, 1, 2, 4, 5]), windows(96), HELD_OUT, "refit", QUIET)
    assert fit.neurons == decoder.config.intermediate_size
    assert fit.after < 0.1 * fit.before


@pytest.mark.parametrize("neurons", [1, 64, 1536, 8192, 8193, 11008, 14336, 28672])
def test_every_neuron_is_asked_once_and_no_more_at_a_time_than_there_is_room_for(neurons: int) -> None:
    asked = [range(neurons)[block] for block in blocks(neurons)]
    assert list(itertools.chain(*asked)) == list(range(neurons))
    assert neurons + max(map(len, asked)) <= max(MOST_INPUTS, neurons + -(-neurons // 4))
    assert len(asked) <= 4
    assert max(map(len, asked)) - min(map(len, asked)) <= 1


@torch.no_grad()
def test_a_wide_mlp_is_taken_over_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    made = Gram.__init__

    def noted(self: Gram, k: int, d: int, device: torch.device) -> None:
        sizes.append(k)
        made(self, k, d, device)

    decoder = idle_layer_before_a_gap()
    k = decoder.config.intermediate_size
    monkeypatch.setattr("lowrise.edit.neurons.MOST_INPUTS", 0)
    monkeypatch.setattr(Gram, "__init__", noted)
    fit, *_ = repair(Student(decoder, [0, 1, 2, 4, 5]), windows(96), HELD_OUT, "refit", QUIET)
    assert fit.neurons == k  # of all four blocks
    assert fit.after < 0.1 * fit.before
    heads = decoder.config.hidden_size
    assert max(sizes) <= max(k + heads, k + -(-k // 4))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_taken_over_meet_the_dense_state_better_on_tokens_of_their_own(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error() -> float:
        decoder, tokens, other = make(family), windows(64), windows(8, seed=1)
        write = decoder.layer(3).mlp_write
        decoder.layers[3].get_parameter(write.parameter).mul_(4)  # an MLP that is missed
        targets: dict[int, Tensor] = dict(decoder.states(other.ids))
        repair(Student(decoder, [0, 1, 2, 4, 5]), tokens, HELD_OUT, "refit", QUIET)
        h, calls = decoder.embed(other.ids)
        for layer in (0, 1, 2):
            h = decoder.step(layer, h, calls)
        return float((h - targets[4]).square().sum())

    with_neurons = error()
    monkeypatch.setattr("lowrise.edit.refit.neurons_apart", lambda _decoder: False)
    assert with_neurons < 0.9 * error()


def test_neurons_that_know_of_each_other_are_found_out() -> None:
    decoder = make("llama")
    decoder.layers[0].mlp.act_fn = torch.nn.Softmax(dim=-1)
    assert not neurons_apart(decoder)


@torch.no_grad()
def test_what_two_layers_lend_is_never_more_than_there_is() -> None:
    decoder = make("llama")
    decoder.layers[1].get_parameter("mlp.down_proj.weight").mul_(0.1)
    for layer in (1, 2, 3):
        decoder.layers[layer].get_parameter("self_attn.o_proj.weight").zero_()
    donors = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "lowrise.edit.neurons.transplant_block",
            lambda *args: donors.append(args[1].index) or transplant_block(*args),
        )
        fit, *_ = repair(Student(decoder, [0, 1, 4, 5]), windows(96), HELD_OUT, "refit", QUIET)
    assert donors == [2, 3]
    assert 0 < fit.neurons <= decoder.config.intermediate_size


@torch.no_grad()
def test_what_lies_on_disk_does_not_grow_with_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    leave = ActivationStore.__exit__
    monkeypatch.setattr(ActivationStore, "__exit__", lambda self, *of: (kept.append(self._end), leave(self, *of))[1])
    for layers in (6, 9):
        decoder = Decoder(tiny.model("llama", num_hidden_layers=layers))
        repair(Student(decoder, [one for one in range(layers) if one != 1]), windows(8), HELD_OUT, "refit", QUIET)
    assert kept[0] == kept[1]


@torch.no_grad()
def test_sums_that_are_no_numbers_take_over_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a donor's neuron overflows on held-out tokens alone."""

    class Overflown(Gram):
        def __init__(self, k: int, d: int, device: torch.device) -> None:
            super().__init__(k, d, device)
            made.append(self)

        def keeping(self, rows: Tensor, matrix: Tensor) -> Gram:
            part = super().keeping(rows, matrix)
            held_out = self in made[1::2]  # of every donor, those of fitted tokens come first
            if held_out and not torch.equal(rows, torch.arange(len(rows))):
                part.squares = float("nan")
            return part

    made: list[Gram] = []
    monkeypatch.setattr("lowrise.edit.neurons.Gram", Overflown)
    fits = repair(Student(make("llama"), [0, 1, 2, 4, 5]), windows(64), HELD_OUT, "refit", QUIET)
    assert {fit.neurons for fit in fits} == {0}


def test_layers_of_another_kind_lend_nothing() -> None:
    decoder = make("llama")
    decoder.layers[3].mlp.act_fn = torch.nn.GELU()
    fits = repair(Student(decoder, [0, 1, 2, 4, 5]), windows(64), HELD_OUT, "refit", QUIET)
    assert {fit.neurons for fit in fits} == {0}
