"""What is measured of greedy continuations, against naive loops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from lowrise.calibration import Windows
from lowrise.measure import greedy_text
from lowrise.measure.generation import continued, greedy
from lowrise.measure.greedy_text import (
    QUESTIONS,
    Prompts,
    agreement,
    continuations,
    make_prompts,
    repetition,
    same_choices,
    until_difference,
)
from lowrise.model.decoder import Decoder
from lowrise.report.table import rows as terminal_rows
from lowrise.results import Results
from refusals import Main

CHAT = (
    "{% for m in messages %}{{ '<s>' + m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '</s>' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy_text, "NEW_TOKENS", 12)


def naive_continuation(decoder: Decoder, prompt: list[int], count: int, ends: list[int]) -> list[int]:
    """Everything read again for every token."""
    ids, written = [*prompt], []
    for _ in range(count):
        with torch.no_grad():
            written.append(int(decoder.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        ids.append(written[-1])
        if written[-1] in ends:
            break
    return written


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_batch_writes_what_every_row_writes_alone(family: str) -> None:
    decoder, ids = Decoder(tiny.model(family)), tiny.ids(3, 20)
    expected = [naive_continuation(decoder, row, 12, []) for row in ids.tolist()]
    assert continued(decoder, ids.tolist(), [12] * 3, []) == expected


def test_each_row_ends_at_its_own_end() -> None:
    decoder, ids = Decoder(tiny.model()), tiny.ids(3, 20)
    free = [naive_continuation(decoder, row, 12, []) for row in ids.tolist()]
    ends = [free[0][3], free[1][5]]
    assert continued(decoder, ids.tolist(), [12] * 3, ends) == [
        naive_continuation(decoder, row, 12, ends) for row in ids.tolist()
    ]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_prompts_of_different_lengths_are_written_on_at_once(
    family: str,
) -> None:
    decoder = Decoder(tiny.model(family))
    prompts = [row[:length] for row, length in zip(tiny.ids(3, 20).tolist(), (20, 7, 11), strict=True)]
    counts = [3, 12, 9]
    expected = [naive_continuation(decoder, row, count, []) for row, count in zip(prompts, counts, strict=True)]
    passes: list[int] = []
    hook = decoder.model.register_forward_hook(lambda *_: passes.append(1))
    assert continued(decoder, prompts, counts, []) == expected
    hook.remove()
    assert len(passes) == 20 + 3 - 7  # as many as the longest has places behind the shortest prompt


def test_a_family_without_a_cache_reads_all_of_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, ids = Decoder(tiny.model()), tiny.ids(2, 20)
    with_cache = continued(decoder, ids.tolist(), [6] * 2, [])
    plain, lengths = decoder.model.forward, []

    def forward(input_ids: Any, use_cache: bool) -> Any:
        lengths.append(input_ids.shape[1])
        return plain(input_ids=input_ids, use_cache=False) if use_cache else None

    monkeypatch.setattr(decoder.model, "forward", forward)
    assert continued(decoder, ids.tolist(), [6] * 2, []) == with_cache
    assert lengths == [20, 21, 22, 23, 24, 25]


@torch.no_grad()
def test_a_token_is_computed_when_it_is_asked_for() -> None:
    decoder, passes = Decoder(tiny.model()), []
    decoder.model.register_forward_hook(lambda *_: passes.append(1))
    tokens = greedy(decoder, tiny.ids(2, 20))
    assert passes == []
    next(tokens)
    assert len(passes) == 1
    next(tokens)
    assert len(passes) == 2


def test_choices_are_those_of_a_loop_over_the_other_models_text() -> None:
    dense, other = Decoder(tiny.model()), Decoder(tiny.model())
    other.drop(3, 4)
    prompts = Prompts([tiny.ids(2, 20)], [tiny.ids(1, 7, seed=1)])
    written = continuations(dense, tiny.tokenizer(), prompts)
    written[0] = written[0][:5]  # one that ends early
    naive = []
    for prompt, row in zip(prompts.ids(), written, strict=True):
        with torch.no_grad():
            naive.append([
                int(other.model(input_ids=torch.tensor([prompt + row[:at]])).logits[0, -1].argmax()) == row[at]
                for at in range(len(row))
            ])  # fmt: skip
    same = same_choices(other, prompts, written)
    assert same == naive
    assert 0 < agreement(same) < 1
    assert agreement(same) == sum(map(sum, naive)) / sum(map(len, naive))


def test_up_to_the_first_difference_both_write_the_same() -> None:
    dense, other = Decoder(tiny.model()), Decoder(tiny.model())
    other.drop(5, 6)
    prompts = Prompts([tiny.ids(6, 20)], [])
    mine, theirs = (continuations(one, tiny.tokenizer(), prompts) for one in (dense, other))
    equal = [
        next((at for at, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), len(x))
        for x, y in zip(mine, theirs, strict=True)
    ]
    same = same_choices(other, prompts, mine)
    assert until_difference(same) == sum(equal) / len(equal)
    itself = same_choices(dense, prompts, mine)
    assert agreement(itself) == 1
    assert until_difference(itself) == sum(map(len, mine)) / 6


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        ([[1, 2, 3, 4, 5, 6]], 0),
        ([[1, 1, 1, 1, 1, 1]], 2 / 3),  # three runs of four, two of them seen before
        ([[1, 2, 3, 4, 1, 2, 3, 4]], 1 / 5),
        ([[1, 2, 3, 4], [1, 2, 3, 4]], 0),  # of another continuation
        ([[1, 1, 1, 1, 1, 1], [1, 2]], 2 / 3),
        ([[1, 2, 3]], None),
    ],
)
def test_repetition(rows: list[list[int]], share: float | None) -> None:
    assert repetition(rows) == share


class TestPrompts:
    def test_beginnings_of_evenly_spaced_windows(self) -> None:
        windows = tiny.windows(16)
        (batch,) = make_prompts(Decoder(tiny.model()), tiny.tokenizer(), {"a": windows}).texts
        assert torch.equal(batch, windows.ids[::2, :16])

    def test_two_texts_share_them(self) -> None:
        one, other = tiny.windows(16), tiny.windows(2, seed=1)
        (batch,) = make_prompts(Decoder(tiny.model()), tiny.tokenizer(), {"a": one, "b": other}).texts
        assert torch.equal(batch, torch.cat([one.ids[::4, :16], other.ids[:, :16]]))

    def test_texts_of_other_lengths_are_other_batches(self) -> None:
        one, other = tiny.windows(16), Windows(tiny.ids(4, 20), "b", 0)
        batches = make_prompts(Decoder(tiny.model()), tiny.tokenizer(), {"a": one, "b": other}).texts
        assert [tuple(batch.shape) for batch in batches] == [(4, 16), (4, 10)]

    def test_at_most_64_tokens(self) -> None:
        long = replace(tiny.windows(), ids=tiny.ids(3, 200))
        decoder = Decoder(tiny.model(max_position_embeddings=256))
        assert make_prompts(decoder, tiny.tokenizer(), {"a": long}).texts[0].shape == (3, 64)

    def test_questions_by_the_chat_template(self) -> None:
        tokenizer = tiny.tokenizer()
        tokenizer.chat_template = CHAT
        made = make_prompts(Decoder(tiny.model()), tokenizer, {})
        assert made.texts == []
        assert [tokenizer.decode(ids[0]) for ids in made.questions] == [f"<s>{one}</s>" for one in QUESTIONS]

    def test_questions_that_nothing_can_take_are_left_out(self) -> None:
        tokenizer = tiny.tokenizer()
        tokenizer.chat_template = "{{ raise_exception('no') }}"
        assert make_prompts(Decoder(tiny.model()), tokenizer, {}).questions == []
        tokenizer.chat_template = CHAT
        assert make_prompts(Decoder(tiny.model(max_position_embeddings=8)), tokenizer, {}).questions == []


class TestMeasure:
    def measured(self, main: Main, *arguments: object) -> Results:
        status, out, err = main("measure", *arguments, "--length", 32, "--windows", 20, "--device", "cpu", "--json")
        assert status == 0, err
        return Results.model_validate(json.loads(out))

    def test_a_model_beside_itself(self, main: Main, tiny_folder: Path, text_file: Path) -> None:
        found = self.measured(main, tiny_folder, "--dense", tiny_folder, "--text", text_file).generation
        assert found is not None
        assert (found.prompts, found.questions, found.agreement) == (8, 0, 1.0)
        assert found.until_difference == found.tokens / 8

    def test_a_shallower_one_beside_the_dense_one(
        self, main: Main, tiny_folder: Path, text_file: Path, tmp_path: Path
    ) -> None:
        shallow = tiny.save(tmp_path / "shallow", num_hidden_layers=4)
        results = self.measured(main, shallow, "--dense", tiny_folder, "--text", text_file)
        assert results.layers == 4
        assert results.generation is not None
        assert results.dense is not None
        assert results.dense.generation is not None
        assert 0 <= (results.generation.agreement or 0) < 1
        assert results.dense.generation.agreement is None
        shown = {name: (dense, compressed) for name, dense, compressed in terminal_rows(results)}
        assert shown["same greedy tokens as dense"] == ("", f"{results.generation.agreement:.1%}")
        assert shown["tokens until the first other one"] == ("", f"{results.generation.until_difference:.1f}")
        assert shown["repeated 4-grams"][0] == f"{results.dense.generation.repetition:.1%}"

    def test_without_a_text_nothing_is_written(self, main: Main, tiny_folder: Path) -> None:
        assert self.measured(main, tiny_folder).generation is None

    def test_what_was_written_once_is_kept(
        self, main: Main, tiny_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = (tiny_folder, "--dense", tiny_folder, "--text", text_file)
        first = self.measured(main, *arguments).generation
        for name in ("continuations", "same_choices"):
            monkeypatch.setattr(f"lowrise.pipeline.generating.{name}", None)
        assert self.measured(main, *arguments).generation == first


def test_files_that_named_it_before_it_was_measured_still_open() -> None:
    older = json.loads((Path(__file__).parent / "older" / "measure.json").read_text(encoding="utf-8"))
    assert Results.model_validate({**older, "generation": {}}).generation is None
