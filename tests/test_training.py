"""Training a lightweight network on pairs: schedule, batches, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from lowrise.calibration import Windows
from lowrise.edit.count import parameters_after
from lowrise.edit.replace import Trainee, make_trainee
from lowrise.errors import RecipeError
from lowrise.heal import mse, pairs
from lowrise.heal.mse import train
from lowrise.heal.pairs import Pairs, collect_pairs, ram_limit
from lowrise.heal.schedule import make_schedule
from lowrise.model.decoder import Decoder
from lowrise.plan import Replace
from lowrise.progress import Reporter
from lowrise.settings import Training

QUIET = Reporter(quiet=True)
FORMS = [("layer", "paper"), ("ffn", "paper"), ("swiglu", "paper"), ("ffn", "portable"), ("swiglu", "portable")]
GATED = [family for family in tiny.FAMILIES if family not in ("opt", "gpt2", "gpt_neox")]


def windows(rows: int = 10, tokens: int = 16) -> Windows:
    return Windows(tiny.ids(rows, tokens), "test", 0)


def edit(network: str = "layer", form: str = "paper", start: int = 1, stop: int = 4, **training: object) -> Replace:
    return Replace(start=start, stop=stop, network=network, form=form, training=Training(**training))


# -- schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows_", [1, 7, 115, 3000])
def test_the_last_step_runs_at_the_minimum_rate(windows_: int) -> None:
    settings = Training()
    schedule = make_schedule(windows_, 512, settings)
    assert schedule.rate(schedule.steps - 1, settings) == pytest.approx(settings.min_learning_rate)


def test_the_rate_warms_up_to_the_maximum_then_only_falls() -> None:
    settings = Training(warmup=0.1)
    schedule = make_schedule(115, 512, settings)
    rates = [schedule.rate(step, settings) for step in range(schedule.steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(settings.learning_rate)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top in (schedule.warmup - 1, schedule.warmup)


def test_the_papers_budget_gives_the_papers_batch_and_one_epoch() -> None:
    """100,000 sequences of 2,048 tokens: batches of 128 sequences, one epoch, 782 steps (METHODS 1.3)."""
    schedule = make_schedule(100_000, 2048, Training())
    assert (schedule.batch, schedule.epochs, schedule.steps) == (128, 1, 782)


@pytest.mark.parametrize("windows_", [25, 115, 460, 30_000])
def test_smaller_budgets_keep_about_the_papers_number_of_steps(windows_: int) -> None:
    assert 400 <= make_schedule(windows_, 512, Training()).steps <= 600


def test_one_epoch_takes_every_window_once() -> None:
    schedule = make_schedule(13, 16, Training(batch_tokens=4 * 16, epochs=3))
    rows = [row for batch in mse._batches(13, schedule, seed=0) for row in batch]
    assert [sorted(rows[first : first + 13]) for first in (0, 13, 26)] == [list(range(13))] * 3
    assert rows[:13] != rows[13:26]


# -- pairs --------------------------------------------------------------------------------------------------------


def test_pairs_are_the_dense_states_at_both_ends() -> None:
    decoder, data = Decoder(tiny.model()), windows()
    found = collect_pairs(decoder, data, 1, 4, limit=10**9, progress=QUIET)
    with torch.no_grad():
        states = dict(decoder.states(data.ids))
    assert torch.allclose(found.inputs, states[1], atol=1e-6)
    assert torch.allclose(found.targets, states[4], atol=1e-6)


def test_pairs_on_disk_equal_pairs_in_memory_and_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs.tempfile, "tempdir", str(tmp_path))
    decoder, data = Decoder(tiny.model()), windows()
    on_disk = collect_pairs(decoder, data, 1, 4, limit=0, progress=QUIET)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(on_disk.inputs, collect_pairs(decoder, data, 1, 4, limit=10**9, progress=QUIET).inputs)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("800M", 800 * 2**20), ("1.5g", 3 * 2**29), ("2GiB", 2**31)])
def test_sizes_are_read_with_their_unit(text: str, size: int) -> None:
    assert ram_limit(text) == size


@pytest.mark.parametrize("text", ["", "many", "-1G", "nan", "G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--max-ram"):
        ram_limit(text)


# -- training -----------------------------------------------------------------------------------------------------


class _Shift(torch.nn.Module):
    """f(h) = h + b."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.b = torch.nn.Parameter(torch.zeros(width))


def shift_trainee(width: int) -> Trainee:
    module = _Shift(width)
    return Trainee(module, list(module.parameters()), lambda h, _calls: h + module.b, install=lambda: None)


def test_mse_training_finds_the_least_squares_solution() -> None:
    """y = h + c has the exact solution b = c, with loss 0."""
    decoder = Decoder(tiny.model())
    inputs = torch.randn(10, 16, decoder.hidden_size, generator=torch.Generator().manual_seed(0))
    target = torch.linspace(-0.05, 0.05, decoder.hidden_size)
    trainee = shift_trainee(decoder.hidden_size)
    settings = Training(epochs=200, batch_tokens=64, learning_rate=1e-2, min_learning_rate=1e-5, weight_decay=0)
    curve = train(decoder, trainee, Pairs(inputs, inputs + target), settings, 0, QUIET)
    assert torch.allclose(trainee.parameters[0], target, atol=1e-4)
    assert curve.dropped == pytest.approx(target.square().mean().item(), rel=1e-5)
    assert curve.best < 1e-6 * curve.dropped + 1e-9


def test_the_best_weights_on_held_out_windows_are_kept_not_the_last() -> None:
    """Targets of the training windows and of the held-out ones pull apart: the start is the best and must come back."""
    decoder = Decoder(tiny.model())
    inputs = torch.randn(10, 16, decoder.hidden_size, generator=torch.Generator().manual_seed(0))
    targets = inputs + 1.0
    targets[-1] = inputs[-1] - 1.0
    trainee = shift_trainee(decoder.hidden_size)
    curve = train(decoder, trainee, Pairs(inputs, targets), Training(epochs=5), 0, QUIET)
    assert curve.best_step == 0
    assert torch.equal(trainee.parameters[0], torch.zeros(decoder.hidden_size))
    assert curve.validation[-1][1] > curve.best


def test_a_split_into_pieces_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for micro in (16, 10**6):
        monkeypatch.setattr(mse, "MICRO_TOKENS", micro)
        decoder = Decoder(tiny.model())
        data = collect_pairs(decoder, windows(), 1, 4, 10**9, QUIET)
        trainee = make_trainee(decoder, edit(), seed=0)
        losses.append(train(decoder, trainee, data, Training(epochs=3), 0, QUIET).validation)
    for one, other in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("loss", ["mse", "relative"])
@pytest.mark.parametrize(("network", "form"), FORMS)
def test_training_lowers_the_held_out_loss(network: str, form: str, loss: str) -> None:
    decoder = Decoder(tiny.model())
    data = collect_pairs(decoder, windows(20), 1, 4, 10**9, QUIET)
    chosen = edit(network, form, loss=loss, epochs=10, learning_rate=3e-3)
    curve = train(decoder, make_trainee(decoder, chosen, 0), data, chosen.training, 0, QUIET)
    assert curve.best < curve.validation[0][1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_layer_network_starts_as_the_first_pruned_layer(family: str) -> None:
    decoder = Decoder(tiny.model(family))
    before = {name: value.clone() for name, value in decoder.layers[1].state_dict().items()}
    trainee = make_trainee(decoder, edit(), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in trainee.module.state_dict().items())


@pytest.mark.parametrize(
    ("family", "network"),
    [(family, "ffn") for family in tiny.FAMILIES] + [(family, "swiglu") for family in GATED],
)
class TestPortable:
    def test_attention_writes_nothing_before_and_after_training(self, family: str, network: str) -> None:
        """With a portable form in place, what a token gets from it does not depend on the other tokens."""
        decoder = Decoder(tiny.model(family))
        data = collect_pairs(decoder, windows(), 1, 4, 10**9, QUIET)
        chosen = edit(network, "portable", epochs=1)
        trainee = make_trainee(decoder, chosen, 0)
        train(decoder, trainee, data, chosen.training, 0, QUIET)
        h, calls = decoder.embed(tiny.ids(rows=1))
        with torch.no_grad():
            whole = decoder.step(1, h, calls)
            changed = decoder.step(1, torch.cat([h[:, :1] + 1, h[:, 1:]], dim=1), calls)
        assert torch.allclose(whole[:, 1:], changed[:, 1:], atol=1e-6)

    def test_the_result_is_a_plain_layer_less(self, family: str, network: str) -> None:
        decoder = Decoder(tiny.model(family))
        chosen = edit(network, "portable")
        promised = parameters_after(decoder, [chosen])
        make_trainee(decoder, chosen, 0).install()
        assert len(decoder) == tiny.LAYERS - 2
        assert not decoder.networks
        assert decoder.parameters() == promised


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_portable_ffn_in_a_gated_mlp_keeps_gate_and_up_equal(family: str) -> None:
    decoder = Decoder(tiny.model(family))
    data = collect_pairs(decoder, windows(), 1, 4, 10**9, QUIET)
    chosen = edit("ffn", "portable", epochs=3)
    train(decoder, make_trainee(decoder, chosen, 0), data, chosen.training, 0, QUIET)
    mlp = decoder.layers[1].mlp
    gate, up = mlp.gate_up_proj.weight.chunk(2) if family == "phi3" else (mlp.gate_proj.weight, mlp.up_proj.weight)
    assert torch.equal(gate, up)


@pytest.mark.parametrize("network", ["ffn", "swiglu"])
@pytest.mark.parametrize("span", [(0, 2), (2, 4), (3, 6)])
def test_a_published_network_acts_where_the_span_was(network: str, span: tuple[int, int]) -> None:
    """The edited model equals layers before, the network, layers after, each run by hand."""
    model, ids = tiny.model(), tiny.ids()
    decoder = Decoder(model)
    chosen = edit(network, start=span[0], stop=span[1])
    promised = parameters_after(decoder, [chosen])
    trainee = make_trainee(decoder, chosen, seed=0)
    with torch.no_grad():
        h, calls = decoder.embed(ids)
        for layer in range(span[0]):
            h = decoder.step(layer, h, calls)
        h = trainee.forward(h, calls)
        for layer in range(span[1], tiny.LAYERS):
            h = decoder.step(layer, h, calls)
        expected = decoder.logits(h, ids)
        trainee.install()
        found = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-6)
    assert decoder.parameters() == promised
    assert decoder.depth == tiny.LAYERS - (span[1] - span[0]) + 1


def test_the_network_depends_on_the_seed_and_leaves_the_global_generator_alone() -> None:
    decoder = Decoder(tiny.model())
    torch.manual_seed(5)
    undisturbed = torch.rand(1)
    torch.manual_seed(5)
    one = make_trainee(decoder, edit("ffn"), seed=0).parameters[0]
    assert torch.equal(torch.rand(1), undisturbed)
    assert torch.equal(one, make_trainee(decoder, edit("ffn"), seed=0).parameters[0])
    assert not torch.equal(one, make_trainee(decoder, edit("ffn"), seed=1).parameters[0])
