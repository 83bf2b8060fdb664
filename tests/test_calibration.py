"""Text to windows: packing, order, hash; and text that the model writes itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from lowrise.calibration import calibration_windows, text_windows, written
from lowrise.calibration.stored import store_tokens, stored_tokens
from lowrise.calibration.tokens import Windows, pack, sample
from lowrise.calibration.written import write_windows
from lowrise.errors import TextError
from lowrise.model.decoder import Decoder
from lowrise.progress import Reporter

QUIET = Reporter(quiet=True)


def windows(text: list[str], samples: int = 8, length: int = 16, seed: int = 0, dataset: str | None = None) -> Windows:
    return calibration_windows(
        Decoder(tiny.model()),
        tiny.tokenizer(),
        text=text,
        dataset=dataset,
        samples=samples,
        length=length,
        seed=seed,
        progress=QUIET,
    )


def test_windows_are_cut_from_each_stream_and_partial_ones_go() -> None:
    streams = [torch.arange(10), torch.arange(100, 107)]
    assert pack(streams, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [100, 101, 102], [103, 104, 105]]


def test_sampling_repeats_no_window_and_follows_the_seed() -> None:
    every = torch.arange(50).view(50, 1)
    one = sample(every, 20, seed=1)
    assert len(set(one.flatten().tolist())) == 20
    assert torch.equal(one, sample(every, 20, seed=1))
    assert not torch.equal(one, sample(every, 20, seed=2))


def test_the_hash_covers_content_order_and_shape() -> None:
    ids = torch.arange(12).view(3, 4)
    hashes = {Windows(variant, "", 0).sha256() for variant in (ids, ids.flip(0), ids.view(4, 3), ids + 1)}
    assert len(hashes) == 4
    assert Windows(ids.clone(), "elsewhere", 7).sha256() == Windows(ids, "", 0).sha256()


def test_windows_hold_the_tokens_of_the_text_without_special_ones(text_file: Path) -> None:
    tokenizer = tiny.tokenizer()
    stream = tokenizer(text_file.read_text(), add_special_tokens=False)["input_ids"]
    found = text_windows(tokenizer, str(text_file), 16)
    assert found.ids.flatten().tolist() == stream[: len(stream) // 16 * 16]


def test_the_split_holds_out_the_last_windows_and_leaves_one_of_each() -> None:
    ids = torch.arange(20).view(10, 2)
    rest, held_out = Windows(ids, "", 0).split(0.2)
    assert torch.equal(torch.cat([rest.ids, held_out.ids]), ids)
    assert len(held_out) == 2
    assert [len(part) for part in Windows(ids[:2], "", 0).split(0.01)] == [1, 1]


def test_a_single_window_cannot_be_split() -> None:
    with pytest.raises(TextError, match="at least two windows"):
        Windows(torch.arange(4).view(1, 4), "one.txt", 0).split(0.1)


def test_length_is_capped_by_the_models_positions(text_file: Path) -> None:
    assert windows([str(text_file)], samples=2, length=4096).length == 128


def test_several_files_are_pooled(tmp_path: Path) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file, word in zip(files, ("alpha ", "beta "), strict=True):
        file.write_text(word * 200)
    found = windows([str(file) for file in files], samples=1000)
    assert found.source == "a.txt, b.txt"
    assert len(found) == sum(len(text_windows(tiny.tokenizer(), str(file), 16)) for file in files)


def test_a_local_dataset_is_read_by_its_text_column(tmp_path: Path) -> None:
    rows = [{"id": "x", "text": tiny.text(200, seed)} for seed in range(4)]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = windows([], dataset=str(tmp_path))
    expected = tiny.tokenizer()("\n\n".join(row["text"] for row in rows), add_special_tokens=False)["input_ids"]
    assert set(map(tuple, found.ids.tolist())) <= {tuple(expected[i : i + 16]) for i in range(0, len(expected), 16)}


def test_a_dataset_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="--dataset"):
        windows([], dataset=str(tmp_path / "nothing"))


# -- written by the model -----------------------------------------------------------------------------------------


def write(family: str = "llama", samples: int = 5, length: int = 20, seed: int = 0) -> torch.Tensor:
    return write_windows(
        Decoder(tiny.model(family)), tiny.tokenizer(), samples=samples, length=length, seed=seed, progress=QUIET
    )


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2", "gpt2", "opt", "gpt_neox"])
def test_rows_are_what_the_model_gives_without_a_cache(family: str) -> None:
    """Each token is the inverse of its uniform number under the model's own softmax, the whole prefix recomputed."""
    decoder, found = Decoder(tiny.model(family)), write(family, samples=2)
    uniform = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))
    prefix = torch.zeros(2, 1, dtype=torch.long)
    for column in range(20):
        with torch.no_grad():
            logits = decoder.model(input_ids=prefix, use_cache=False).logits[:, -1]
        cumulated = logits.double().softmax(-1).cumsum(-1)
        token = found[:, column : column + 1]
        upper = cumulated.gather(1, token)
        lower = upper - logits.double().softmax(-1).gather(1, token)
        assert (
            (lower - 1e-4 <= uniform[:, column : column + 1]) & (uniform[:, column : column + 1] <= upper + 1e-4)
        ).all()
        prefix = torch.cat([prefix, torch.where(token == 1, 0, token)], dim=1)


def test_how_many_rows_are_written_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write()
    monkeypatch.setattr(written, "_MOST_ROWS", 2)
    assert torch.equal(write(), whole)


def test_the_seed_decides_what_is_written() -> None:
    assert torch.equal(write(seed=3), write(seed=3))
    assert not torch.equal(write(seed=3), write(seed=4))


def test_drawing_follows_the_softmax() -> None:
    """20,000 draws from four known probabilities; the standard error of a share is at most 0.0036."""
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    uniform = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    drawn = written._draw(probabilities.log().expand(20_000, 4), uniform).flatten()
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, probabilities, atol=0.015)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(3, 3)
    assert written._draw(logits, torch.tensor([[0.0], [0.5], [1 - 2**-24]])).flatten().tolist() == [1, 1, 1]


def test_a_share_of_the_windows_is_written_by_the_model_beside_text(text_file: Path) -> None:
    """The same windows as from text alone and from the model alone, in another order."""
    how = {"dataset": None, "length": 16, "seed": 1, "progress": QUIET}
    decoder, tokenizer = Decoder(tiny.model()), tiny.tokenizer()
    mixed = calibration_windows(decoder, tokenizer, text=[str(text_file)], samples=8, written=0.25, **how)  # type: ignore[arg-type]
    read = calibration_windows(decoder, tokenizer, text=[str(text_file)], samples=6, **how)  # type: ignore[arg-type]
    own = calibration_windows(decoder, tokenizer, text=[], samples=2, **how)  # type: ignore[arg-type]
    assert sorted(mixed.ids.tolist()) == sorted([*read.ids.tolist(), *own.ids.tolist()])
    assert mixed.ids[-2:].tolist() != own.ids.tolist()
    assert mixed.source == "words.txt, 2 windows written by the model"
    assert mixed.written is not None
    assert sorted(mixed.ids[mixed.written].tolist()) == sorted(own.ids.tolist())


def test_one_token_of_each_window_is_marked_and_never_the_first() -> None:
    plain = Windows(torch.full((50, 8), 9), "test", 3)
    marked = plain.with_special_tokens([1, 2])
    places = marked.ids != plain.ids
    assert places.sum(1).eq(1).all()
    assert not places[:, 0].any()
    assert marked.ids[places].tolist() == [1, 2] * 25
    assert torch.equal(marked.ids, plain.with_special_tokens([1, 2]).ids)
    assert plain.with_special_tokens([]) is plain


def test_every_other_window_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lowrise.calibration.tokens.SHORT", 4)
    ids = torch.arange(30).view(3, 10)
    assert [batch.tolist() for batch in Windows(ids, "", 0).mixed_batches(8)] == [
        [[*range(10)]],
        [[*range(20, 30)]],
        [[10, 11, 12, 13], [14, 15, 16, 17]],
    ]
    assert [batch.shape for batch in Windows(ids[:, :7], "", 0).mixed_batches(8)] == [(1, 7)] * 3
    assert [batch.shape for batch in Windows(ids[:1], "", 0).mixed_batches(8)] == [(1, 10)]  # and no empty batch


def test_pieces_come_from_as_many_windows_as_can_be() -> None:
    windows = Windows(torch.arange(20).view(2, 10), "text", 3)
    assert windows.pieces(4).ids.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13], [4, 5, 6, 7], [14, 15, 16, 17]]
    assert torch.equal(windows.pieces(16).ids, windows.ids)


def test_what_the_model_wrote_comes_first_in_the_order_it_was_in() -> None:
    ids = torch.arange(24).view(6, 4)
    windows = Windows(ids, "text", 3, torch.tensor([False, True, False, True, True, False]))
    assert windows.written_first().ids[:, 0].tolist() == [4, 12, 16, 0, 8, 20]
    rest, held_out = windows.split(0.5)
    assert rest.written_first().ids[:, 0].tolist() == [4, 0, 8]
    assert held_out.pieces(2).written_first().ids[:, 0].tolist() == [12, 16, 14, 18, 20, 22]
    assert windows.with_special_tokens([99]).first(4).written_first().ids[:, 0].tolist() == [4, 12, 0, 8]
    assert Windows(ids, "text", 3).written_first().ids is ids


def test_stored_windows_know_which_of_them_the_model_wrote(tmp_path: Path) -> None:
    ids, mine = torch.arange(12).view(3, 4), torch.tensor([False, True, True])
    for number, which in enumerate((None, mine)):
        file = tmp_path / f"{number}.safetensors"
        store_tokens(Windows(ids, "text", 3, which), file)
        stored = stored_tokens(str(file))
        assert isinstance(stored, Windows)
        assert (None if stored.written is None else stored.written.tolist()) == (
            None if which is None else which.tolist()
        )
