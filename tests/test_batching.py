"""How much is run at once: by free memory, and by halves where a device has less than it seemed. Memory ends here by
faults that stand for torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tiny
from faults import SAID
from lowrise.model import batching
from lowrise.model.batching import Batching, heard, telling
from lowrise.model.decoder import Decoder

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")  # its memory is never asked here


def pretend_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(batching, "free_memory", lambda device: None if device.type == "cpu" else free)


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_on_cpu_they_are_the_same_whatever_is_free() -> None:
    """Results hang on them to the last digit."""
    found = Batching(CPU, 1)
    assert (found.tokens, found.whole_logits, found.piece_of_logits, found.chunk_of_logits, found.cache_bytes) == (
        1024,
        2**26,
        2**23,
        2**24,
        3 * 2**30,
    )


@pytest.mark.parametrize(
    ("free", "tokens"), [(2**20, 1024), (2**33, 2**15), (2**32, 2**14), (2**32 + 1, 2**14), (2**40, 2**15)]
)
def test_on_an_accelerator_a_batch_takes_a_quarter_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int, tokens: int
) -> None:
    """A power of two of tokens that take 64 KiB each, within bounds."""
    pretend_free(monkeypatch, free)
    assert Batching(GPU, 2**16).tokens == tokens


def test_they_stay_when_less_is_free_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_free(monkeypatch, 2**33)
    found = Batching(GPU, 2**16)
    before = found.tokens, found.whole_logits, found.piece_of_logits
    pretend_free(monkeypatch, 2**28)
    assert (found.tokens, found.whole_logits, found.piece_of_logits) == before


def test_logits_and_what_looks_at_them_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 10 * 2**30
    pretend_free(monkeypatch, free)
    found = Batching(GPU, 2**16)
    assert 3 * 4 * found.whole_logits <= free // 8
    assert 3 * 4 * found.chunk_of_logits <= free // 8


def test_a_token_of_a_deeper_and_wider_model_takes_more() -> None:
    bytes_of = [
        Decoder(tiny.model("llama", **settings)).batching._token_bytes
        for settings in ({}, {"num_hidden_layers": 12}, {"intermediate_size": 96})
    ]
    assert bytes_of[0] == 4 * 32 * 7 + 32 * (32 + 48)
    assert bytes_of[1] == bytes_of[0] + 4 * 32 * 6
    assert bytes_of[2] == bytes_of[0] + 32 * 48


# -- by halves ------------------------------------------------------------------------------------------------------


def limited(most: int, seen: list[int]) -> Callable[[slice], list[int]]:
    def run(rows: slice) -> list[int]:
        count = rows.stop - rows.start
        seen.append(count)
        if count > most:
            raise torch.OutOfMemoryError(SAID)
        return [*range(rows.start, rows.stop)]

    return run


def joined(parts: Any) -> list[int]:
    return [one for part in parts for one in part]


def test_as_few_parts_as_fit_and_it_is_said_once() -> None:
    said: list[str] = []
    found, seen = Batching(CPU, 1), list[int]()
    with telling(said.append):
        assert found.in_parts(10, 64, limited(3, seen), joined) == [*range(10)]
        assert seen == [10, 5, 3, 3, 3, 1]
        seen.clear()
        assert found.in_parts(10, 64, limited(3, seen), joined) == [*range(10)]
    assert seen == [3, 3, 3, 1]  # what did not fit is not tried again
    assert said == [
        "cpu ran out of memory: 320 tokens are run at a time from now on, not 640",
        "cpu ran out of memory: 192 tokens are run at a time from now on, not 640",
    ]


def test_longer_rows_are_fewer() -> None:
    found, seen = Batching(CPU, 1), list[int]()
    with telling(lambda _: None):
        found.in_parts(8, 64, limited(4, []), joined)
    found.in_parts(8, 128, limited(4, seen), joined)
    assert seen == [2, 2, 2, 2]


def test_what_is_learned_holds_for_the_model_that_follows() -> None:
    found, other, seen = Batching(CPU, 1), Batching(CPU, 1), list[int]()
    with telling(lambda _: None):
        found.in_parts(8, 64, limited(4, []), joined)
    other.follow(found)
    other.in_parts(8, 64, limited(8, seen), joined)
    assert seen == [4, 4]


def test_a_row_that_does_not_fit_and_other_errors_are_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError), telling(lambda _: None):
        Batching(CPU, 1).in_parts(4, 64, limited(0, []), joined)

    def broken(_rows: slice) -> list[int]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        Batching(CPU, 1).in_parts(4, 64, broken, joined)


def test_nobody_listening_there_is_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="cpu ran out of memory: 128 tokens"):
        Batching(CPU, 1).in_parts(4, 64, limited(2, []), joined)


def test_what_hooks_note_is_joined_and_what_failed_is_forgotten() -> None:
    run = limited(2, [])
    with telling(lambda _: None), heard(joined) as seen:
        seen.append(["before"])

        def noting(rows: slice) -> list[int]:
            seen.append([*range(rows.start, rows.stop)])
            return run(rows)

        Batching(CPU, 1).in_parts(5, 64, noting, joined)
    assert seen == [["before"], [0, 1, 2, 3, 4]]
