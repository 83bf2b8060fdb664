"""`measure --draft-for`: acceptance against a loop of its own, the theory's closed forms, and the command."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import lowrise
import tiny
from lowrise.errors import ModelError
from lowrise.measure import draft as draft_module
from lowrise.measure.draft import LENGTH, break_even, expected_tokens, measure_draft, speed_up
from lowrise.model.decoder import Decoder
from lowrise.pipeline.drafting import verdict
from lowrise.progress import Reporter
from lowrise.report.table import rows
from lowrise.results import Draft, Results
from refusals import Main, assert_one_line

QUIET = Reporter(quiet=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing of single layers is tested elsewhere: dense layers take 1, what is beside them 2."""
    monkeypatch.setattr(draft_module, "decode_times", lambda *_: (1.0, 2.0))
    monkeypatch.setattr(draft_module, "NEW_TOKENS", 12)


def shallow(*gone: int) -> Decoder:
    decoder = Decoder(tiny.model("llama"))
    for layer in sorted(gone, reverse=True):
        decoder.drop(layer, layer + 1)
    return decoder


def prompts(count: int = 3) -> list[torch.Tensor]:
    return [tiny.ids(1, 4 + number, seed=number) for number in range(count)]


@torch.no_grad()
def likeliest(decoder: Decoder, ids: list[int]) -> int:
    return int(decoder.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())


def naive(
    draft: Decoder, dense: Decoder, prompt: list[int], new: int, ends: set[int]
) -> tuple[int, int, int, list[int]]:
    """(rounds, drafted, accepted, text): everything read anew for every token."""
    ids, rounds, drafted, accepted = list(prompt), 0, 0, 0
    while len(ids) < len(prompt) + new:
        written: list[int] = []
        while len(written) < min(LENGTH, len(prompt) + new - len(ids) - 1):
            written.append(likeliest(draft, ids + written))
            if written[-1] in ends:
                break
        rounds, drafted = rounds + 1, drafted + len(written)
        for one in [*written, None]:
            own = likeliest(dense, ids)
            ids.append(own)
            if own in ends:
                return rounds, drafted, accepted, ids
            if own != one:
                break
            accepted += 1
    return rounds, drafted, accepted, ids


@pytest.mark.parametrize("gone", [(2,), (1, 4), (1, 2, 3, 4)])
def test_acceptance_is_that_of_a_plain_loop(gone: tuple[int, ...]) -> None:
    draft, dense = shallow(*gone), shallow()
    found = measure_draft(draft, dense, tiny.tokenizer(), prompts(), "dense", QUIET)
    expected = [naive(draft, dense, prompt[0].tolist(), draft_module.NEW_TOKENS, {1}) for prompt in prompts()]
    assert (found.rounds, found.drafted, found.accepted) == tuple(sum(one[i] for one in expected) for i in range(3))
    assert found.tokens == sum(len(one[3]) - prompt.shape[1] for one, prompt in zip(expected, prompts(), strict=True))
    assert (found.equal, found.prompts) == (3, 3)
    assert found.cost == (2 + len(draft)) / (2 + 6)
    assert found.layers == 6 - len(gone)


def test_a_model_is_its_own_best_draft() -> None:
    found = measure_draft(shallow(), shallow(), tiny.tokenizer(), prompts(), "dense", QUIET)
    assert (found.accepted, found.chance, found.cost) == (found.drafted, 1.0, 1.0)
    assert found.expected == pytest.approx((LENGTH + 1) / (LENGTH + 1))
    assert found.layers_break_even == 5


def test_the_models_keep_their_settings_of_generation() -> None:
    draft, dense = shallow(2), shallow()
    before = [decoder.model.generation_config for decoder in (draft, dense)]
    measure_draft(draft, dense, tiny.tokenizer(), prompts(1), "dense", QUIET)
    assert [decoder.model.generation_config for decoder in (draft, dense)] == before
    assert not draft.model._forward_hooks


class TestTheory:
    """Leviathan et al., equation 1, theorem 3.8, corollary 3.9."""

    @pytest.mark.parametrize("chance", [0.0, 0.3, 0.9])
    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_expected_tokens(self, chance: float, length: int) -> None:
        assert expected_tokens(chance, length) == pytest.approx((1 - chance ** (length + 1)) / (1 - chance))
        assert expected_tokens(1.0, length) == length + 1

    def test_expected_tokens_of_rounds_that_are_drawn(self) -> None:
        draw, total = random.Random(0), 0
        for _ in range(20_000):
            kept = 0
            while kept < 4 and draw.random() < 0.6:
                kept += 1
            total += kept + 1
        assert total / 20_000 == pytest.approx(expected_tokens(0.6, 4), rel=0.01)

    @pytest.mark.parametrize("chance", [0.2, 0.5, 0.8])
    def test_break_even(self, chance: float) -> None:
        for length in (1, 3, 7):
            assert speed_up(chance, length, break_even(chance, length)) == pytest.approx(1)
        assert break_even(chance, 1) == pytest.approx(chance)
        lengths = range(1, 17)
        assert max(speed_up(chance, length, chance * 0.99) for length in lengths) > 1
        assert max(speed_up(chance, length, chance * 1.01) for length in lengths) < 1

    def test_layers_that_pay(self) -> None:
        """A draft of d of 6 layers costs (2 + d)/8: below α = 0.8 that is up to 4."""
        counts = draft_module._Counts(accepted=8, refused=2, alone=1.0, assisted=1.0)
        found = draft_module._found(counts, [(1.0, 2.0), (1.0, 2.0)], shallow(1), shallow(), 1, "dense")
        assert (found.chance, found.layers_break_even) == (0.8, 4)
        counts = draft_module._Counts(accepted=1, refused=9, alone=1.0, assisted=1.0)
        found = draft_module._found(counts, [(1.0, 2.0), (1.0, 2.0)], shallow(1), shallow(), 1, "dense")
        assert found.layers_break_even is None
        assert "no depth pays" in verdict(found, 6)


def test_the_command(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "shallow", tmp_path / "results.json"
    decoder = shallow(2, 3)
    decoder.model.save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    status, stdout, err = main("measure", model, "--draft-for", tiny_folder, "--device", "cpu", "--out", out)
    assert status == 0, err
    results = Results.model_validate_json(out.read_text())
    assert results.draft is not None
    assert results.draft.equal == results.draft.prompts == 3
    assert results.to_json() + "\n" == out.read_text()
    assert json.loads(out.read_text())["draft"]["dense"] == str(tiny_folder)
    for name, _, value in rows(results):
        assert name in stdout
        assert value in stdout
    shown = {name: value for name, _, value in rows(results)}
    assert shown["same text with the draft, of 3 prompts"] == "100.0%"
    assert math.isclose(results.draft.acceptance or 0, results.draft.accepted / results.draft.drafted)
    assert "in theory" in " ".join(err.split())


def test_the_api(tiny_folder: Path) -> None:
    """By its source, by a model in memory, and as the dense model of the measuring itself."""
    dense = lowrise.open(tiny_folder, device="cpu")
    small = lowrise.open(tiny_folder, device="cpu")
    lowrise.apply(small, lowrise.plan(small, layers=[2, 3]))
    for one in (tiny_folder, dense):
        found = lowrise.measure(small, draft_for=one).draft
        assert found is not None
        assert (found.dense, found.equal, found.prompts) == (str(tiny_folder), 3, 3)
    results = lowrise.measure(small, dense=dense, draft_for=dense)
    assert results.draft is not None
    assert (results.draft.drafted, results.draft.accepted) == (found.drafted, found.accepted)
    assert lowrise.measure(small).draft is None
    plain = lowrise.wrap(tiny.model("llama"), tiny.tokenizer())
    lowrise.apply(plain, lowrise.plan(plain, layers=[2]))
    with pytest.raises(ModelError, match=r"draft_for, .*the dense model"):
        lowrise.measure(small, draft_for=plain)


def test_a_model_of_other_tokens(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.model("llama").save_pretrained(other)
    tiny.tokenizer("<s> $A").save_pretrained(other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zz"] = tokenizer["model"]["vocab"].pop("a")
    tokenizer["model"]["merges"] = []
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused = main("measure", tiny_folder, "--draft-for", other, "--device", "cpu", "--quiet")
    assert_one_line(*refused, (f"--draft-for {other}", "a model of the same tokenizer"))


def test_what_assisted_generation_does_not_take(main: Main, tiny_folder: Path, tmp_path: Path) -> None:
    """Two models of one tokenizer, of which one has more rows of embeddings."""
    other = tmp_path / "other"
    tiny.save(other, vocab_size=tiny.VOCABULARY + 8)
    refused = main("measure", tiny_folder, "--draft-for", other, "--device", "cpu", "--quiet")
    assert_one_line(*refused, ("--draft-for", "assisted generation"))


def test_results_without_a_draft_say_nothing_of_it(main: Main, tiny_folder: Path) -> None:
    status, out, err = main("measure", tiny_folder, "--device", "cpu", "--quiet", "--json")
    assert status == 0, err
    assert "draft" not in json.loads(out)


def test_types() -> None:
    made: dict[str, Any] = dict.fromkeys(Draft.model_fields, 1)
    assert Draft(**{**made, "dense": "d", "drafted": 0}).acceptance is None
