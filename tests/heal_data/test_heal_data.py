"""What healing trains on: parts, passes, what is held out, BOS and datasets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from heal_texts import CHAT, chat_file, chatting, made, talk, write
from lowrise.calibration import text as text_module
from lowrise.errors import InputError, TextError
from lowrise.heal.data import check_training_tokens
from lowrise.heal.mixture import equal_parts, passes
from lowrise.heal.sources import most_held_out
from lowrise.model.source import OpenModel, open_model
from lowrise.recipe import Recipe
from lowrise.settings import Heal


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    return open_model(str(tiny.save(tmp_path_factory.mktemp("bos") / "model", template="<s> $A")), device="cpu")


def rows(ids: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in ids.tolist()}


def windows_of(path: str, length: int) -> set[tuple[int, ...]]:
    ids = tiny.tokenizer()(Path(path).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    return {tuple(ids[at : at + length]) for at in range(0, len(ids) - length + 1, length)}


@pytest.mark.parametrize(
    ("windows", "most", "parts"),
    [(9, [9, 9, 9], [3, 3, 3]), (10, [9, 9, 9], [3, 3, 4]), (10, [1, 9, 9], [1, 4, 5]), (10, [9, 1, 2], [7, 1, 2]),
     (10, [2, 3], [2, 3]), (0, [], []), (1, [5, 5], [0, 1])],
)  # fmt: skip
def test_equal_parts_of_what_there_is(windows: int, most: list[int], parts: list[int]) -> None:
    assert equal_parts(windows, most) == parts


def test_every_pass_has_all_of_them_in_another_order() -> None:
    found = passes(20, 50, torch.Generator().manual_seed(0)).tolist()
    first, second, third = found[:20], found[20:40], found[40:]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert len(set(third)) == 10


class TestTexts:
    def test_two_texts_have_equal_parts_of_their_own_windows(self, opened: OpenModel, tmp_path: Path) -> None:
        paths = [write(tmp_path / f"{name}.txt", 3000, seed) for seed, name in enumerate("ab")]
        found = made(opened, text=paths)
        assert found.ids.shape == (2000 // 32, 32)
        assert found.ids.dtype == torch.int32
        assert found.counted is None
        assert found.prefix == 0
        assert found.names == ("a.txt", "b.txt")
        assert sorted(torch.bincount(found.source).tolist()) == [31, 31]
        assert len(found.source[:31].unique()) == 2  # not one after the other
        for number, path in enumerate(paths):
            mine = rows(found.ids[found.source == number])
            assert mine <= windows_of(path, 32)
            assert len(mine) == 31  # none twice, while there are enough

    def test_what_is_held_out_is_never_trained_on(self, opened: OpenModel, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", 1000, 0)
        there = windows_of(path, 32)
        found = made(opened, dict(tokens=str(32 * len(there))), text=[path])
        held = rows(found.held_out["a.txt"].ids)
        assert len(held) == len(there) // 10
        assert rows(found.ids) == there - held
        assert found.held_out["a.txt"].ids.dtype == torch.int64

    def test_no_more_is_held_out_than_tells_a_difference(self, opened: OpenModel, tmp_path: Path) -> None:
        found = made(opened, text=[write(tmp_path / "a.txt", 3000, 0)])
        assert len(found.held_out["a.txt"]) == len(found.guard[1]) == 512 // 32

    def test_the_same_text_under_two_names_is_held_out_of_both(self, opened: OpenModel, tmp_path: Path) -> None:
        paths = [write(tmp_path / f"{name}.txt", 1000, 0) for name in "ab"]
        found = made(opened, text=paths)
        held = rows(found.held_out["a.txt"].ids) | rows(found.held_out["b.txt"].ids)
        assert not rows(found.ids) & held

    def test_files_of_one_name_are_told_apart(self, opened: OpenModel, tmp_path: Path) -> None:
        for folder in "ab":
            (tmp_path / folder).mkdir()
        paths = [write(tmp_path / folder / "x.txt", 1000, seed) for seed, folder in enumerate("ab")]
        assert made(opened, text=paths).names == tuple(paths)

    def test_of_a_small_text_the_other_gives_the_rest(self, opened: OpenModel, tmp_path: Path) -> None:
        small, large = write(tmp_path / "small.txt", 50, 0), write(tmp_path / "large.txt", 3000, 1)
        found = made(opened, text=[small, large])
        there = len(windows_of(small, 32)) - len(found.held_out["small.txt"])
        assert len(found.ids) == 2000 // 32
        assert len(found.ids[found.source == 0]) == there
        assert len(rows(found.ids)) == len(found.ids)  # nothing is read twice

    @pytest.mark.parametrize("tokens", ["2k", "4k"])
    def test_no_text_is_read_twice_more_than_another(self, tokens: str, opened: OpenModel, tmp_path: Path) -> None:
        small, large = write(tmp_path / "small.txt", 50, 0), write(tmp_path / "large.txt", 450, 1)
        found = made(opened, dict(tokens=tokens), text=[small, large])
        mine, other = (found.ids[found.source == number] for number in (0, 1))
        there, beside = (
            len(windows_of(path, 32)) - len(found.held_out[path.name]) for path in map(Path, (small, large))
        )
        windows = int(tokens[0]) * 1000 // 32
        all_read, left = divmod(windows, there + beside)
        assert all_read >= 1 <= left
        for rows_of, count, part in (
            (mine, there, min(there, left // 2)),
            (other, beside, left - min(there, left // 2)),
        ):
            _, times = torch.unique(rows_of, dim=0, return_counts=True)
            assert sorted(times.tolist()) == [all_read] * (count - part) + [all_read + 1] * part
        assert [row.tolist() for row in mine[:there]] != [row.tolist() for row in mine[there : 2 * there]]

    def test_too_little_text_is_one_line(self, opened: OpenModel, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", 100, 0)
        there = 32 * (len(windows_of(path, 32)) - 1)
        expected = (
            rf"text for 20,000 tokens, found {there:,} tokens .*{2 * there:,} .*2 times; give more .*heal\.repeat"
        )
        with pytest.raises(TextError, match=expected):
            made(opened, dict(tokens="20k", repeat=2), text=[path])

    def test_a_text_of_one_window_is_refused(self, opened: OpenModel, tmp_path: Path) -> None:
        with pytest.raises(TextError, match=r"at least two windows of 100 tokens.*smaller --length"):
            made(opened, dict(length=100), text=[write(tmp_path / "a.txt", 30, 0)])

    @pytest.mark.parametrize("tokens", ["1", "31"])
    def test_a_budget_of_no_window_is_refused(self, opened: OpenModel, tokens: str) -> None:
        with pytest.raises(InputError, match=r"--tokens: expected one window at least, of 32 tokens"):
            made(opened, {"tokens": tokens})

    def test_the_seed_alone_decides(self, opened: OpenModel, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", 3000, 0)
        one, again, other = (made(opened, text=[path], seed=seed) for seed in (0, 0, 1))
        assert torch.equal(one.ids, again.ids)
        assert torch.equal(one.held_out["a.txt"].ids, again.held_out["a.txt"].ids)
        assert not torch.equal(one.ids, other.ids)
        assert rows(one.held_out["a.txt"].ids) != rows(other.held_out["a.txt"].ids)


class TestBos:
    def test_every_window_begins_with_it(self, with_bos: OpenModel, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", 3000, 0)
        found = made(with_bos, dict(synthetic_share=0.5), text=[path])
        assert found.prefix == 1
        assert found.counted is None
        for ids in (found.ids, found.guard[1].ids, *(held.ids for held in found.held_out.values())):
            assert (ids[:, 0] == 0).all()
        assert rows(found.ids[found.source == 0, 1:]) <= windows_of(path, 31)

    def test_never_leaves_it_out(self, with_bos: OpenModel, tmp_path: Path) -> None:
        path = write(tmp_path / "a.txt", 3000, 0)
        found = made(with_bos, text=[path], bos="never")
        assert found.prefix == 0
        assert rows(found.ids) <= windows_of(path, 32)


class TestOwnWriting:
    def test_without_a_source_the_model_writes_all(self, opened: OpenModel) -> None:
        found = made(opened)
        assert found.names == ("written by the model",)
        assert found.ids.shape == (62, 32)
        assert len(rows(found.ids)) == 62  # never repeated
        held = rows(found.held_out["written by the model"].ids)
        assert len(held) == 6
        name, guard = found.guard
        assert name == "guard: written by the model, held out"
        assert len(rows(found.ids) | held | rows(guard.ids)) == 62 + 6 + len(guard)

    def test_its_share_beside_a_text(self, opened: OpenModel, tmp_path: Path) -> None:
        found = made(opened, dict(synthetic_share=0.25), text=[write(tmp_path / "a.txt", 3000, 0)])
        assert found.names == ("a.txt", "written by the model")
        assert torch.bincount(found.source).tolist() == [62 - 16, 16]


class TestGuard:
    def test_a_file(self, opened: OpenModel, tmp_path: Path) -> None:
        path, guard = write(tmp_path / "a.txt", 3000, 0), write(tmp_path / "guard.txt", 100, 1)
        name, windows = made(opened, dict(guard=guard), text=[path]).guard
        assert name == "guard: guard.txt"
        assert rows(windows.ids) == windows_of(guard, 32)

    def test_one_that_is_trained_on_is_refused(self, opened: OpenModel, tmp_path: Path) -> None:
        path, copy = (write(tmp_path / name, 3000, 0) for name in ("a.txt", "b.txt"))
        with pytest.raises(
            TextError, match=r"--guard: expected a text that is not trained on, found .*b\.txt.* a\.txt"
        ):
            made(opened, dict(guard=copy), text=[path])

    def test_a_text_with_a_line_more_is_the_same_but_one_with_a_word_in_common_is_not(
        self, opened: OpenModel, tmp_path: Path
    ) -> None:
        path, more = write(tmp_path / "a.txt", 3000, 0), tmp_path / "more.txt"
        more.write_text(tiny.text(3000, 0) + "\n\none more", encoding="utf-8")
        with pytest.raises(TextError, match=r"--guard: .*more\.txt"):
            made(opened, dict(guard=str(more)), text=[path])
        other = write(tmp_path / "other.txt", 3000, 1)
        made(
            opened, dict(guard=other, length=2, tokens="100"), text=[path]
        )  # windows of two tokens are alike by chance


class TestBeforeACut:
    """What would be refused is refused before the model writes anything, by the same words."""

    def test_texts_and_budget(self, opened: OpenModel, tmp_path: Path) -> None:
        text = [write(tmp_path / "a.txt", 300, 0)]
        for heal, says in ((dict(tokens="10"), "one window at least"), (dict(tokens="9M"), "heal.repeat")):
            settings = Heal.model_validate({"length": 32, **heal})
            with pytest.raises(InputError, match=says):
                check_training_tokens(opened, settings, Recipe(model="x", text=text))

    def test_a_dataset_is_not_read(self, opened: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_module, "dataset_documents", lambda _name: pytest.fail("read"))
        check_training_tokens(opened, Heal(tokens="9M", length=32), Recipe(model="x", dataset="large"))
        guard = write(tmp_path / "guard.txt", 3, 0)
        with pytest.raises(TextError, match=r"guard\.txt: expected at least one window of 32"):
            check_training_tokens(opened, Heal(length=32, guard=guard), Recipe(model="x", dataset="large"))


class TestDatasets:
    def test_its_beginning_is_streamed(
        self, opened: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        documents = [tiny.text(50, seed) for seed in range(400)]
        file = tmp_path / "corpus.jsonl"
        file.write_text("".join(json.dumps({"id": 3, "text": one}) + "\n" for one in documents), encoding="utf-8")
        monkeypatch.setattr(text_module, "_AT_ONCE", 1000)
        read, plain = [], text_module.dataset_documents
        monkeypatch.setattr(text_module, "dataset_documents", lambda name: (read.append(1) or d for d in plain(name)))
        found = made(opened, dataset=str(file))
        tokens = tiny.tokenizer()("\n\n".join(documents))["input_ids"]
        most = 62 + most_held_out(32)
        there = {tuple(tokens[at * 32 : at * 32 + 32]) for at in range(most)}
        held = rows(found.held_out[str(file)].ids)
        mine = rows(found.ids)
        assert not mine & held
        assert len(mine) == 62
        # documents are tokenised a few at a time: windows are those of the whole, but where two parts meet
        assert len((mine | held) & there) >= 60
        assert len(read) < 150

    def test_beside_a_chat_it_has_half(self, opened: OpenModel, tmp_path: Path) -> None:
        opened = chatting(opened, CHAT)
        corpus = tmp_path / "corpus.txt"
        corpus.write_text(tiny.text(3000), encoding="utf-8")
        chat = chat_file(tmp_path / "chat.jsonl", [talk(seed, 4) for seed in range(40)])
        found = made(opened, dict(chat=[chat]), dataset=str(corpus))
        assert found.names == ("chat.jsonl", str(corpus))
        assert torch.bincount(found.source).tolist() == [31, 31]
        assert found.counted is not None
        assert found.counted[found.source == 1].all()
        assert not found.counted[found.source == 0].all(1).any()
