"""States on their way to and from a file in a thread, as for an accelerator: nothing is lost, late or out of order."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lowrise.errors import OutputError
from lowrise.observe.activation_store import ActivationStore, LastingStore
from lowrise.observe.moving import Mover


def overlapped(store: Any) -> Any:
    store._mover.overlap()
    return store


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_got_is_what_was_put_last(lasting: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """Keys in the order of batches, read ahead, and at random; put anew while what was there is read ahead."""
    generator = random.Random(0)
    expected: dict[Any, Tensor] = {}
    files = (tmp_path / "0", tmp_path / "1")
    with overlapped(LastingStore(files, ("student",)) if lasting else ActivationStore()) as store:
        for turn in range(40):
            for number in range(6):
                for name in ("student", "dense"):
                    if turn == 0 or generator.random() < 0.5:
                        expected[name, number] = torch.randn(number + 1, 3).to(dtype)
                        store.put((name, number), expected[name, number])
                    assert torch.equal(store.get((name, number)), expected[name, number])
            key = generator.choice([*expected])
            assert torch.equal(store.get(key), expected[key])
            if lasting and turn % 7 == 0:
                store.mark()


def test_what_lasts_is_found_by_another(tmp_path: Path) -> None:
    files = (tmp_path / "0", tmp_path / "1")
    with overlapped(LastingStore(files, ("student",))) as store:
        for number in range(5):
            store.put(("student", number), torch.full((2, 3), number))
        marked = store.mark()
        for number in range(5):
            store.put(("student", number), torch.full((2, 3), 9))
    with LastingStore(files, ("student",)) as other:
        assert other.restore(marked)
        assert [int(other.get(("student", number))[0, 0]) for number in range(5)] == [0, 1, 2, 3, 4]


def test_what_is_put_may_change_at_once() -> None:
    with overlapped(ActivationStore()) as store:
        h = torch.zeros(1000, 1000)
        store.put("h", h)
        h.fill_(1)
        assert not store.get("h").any()


def test_a_full_disk_is_said_before_anything_is_read_back() -> None:
    with overlapped(ActivationStore()) as store:
        store._file.close()
        store._file = io.FileIO("/dev/full", "r+")
        store.put("h", torch.zeros(4))
        with pytest.raises(OutputError, match="room for the states of a search"):
            store.get("h")


def test_a_failed_write_is_said_at_the_next_one() -> None:
    mover = Mover()
    mover.overlap()

    def fail() -> None:
        raise OutputError("disk", "room", "none", "free some")

    mover.write(fail)
    with pytest.raises(OutputError):
        for _ in range(10):
            mover.write(lambda: None)
    mover.close()


def test_on_cpu_no_thread_is_begun() -> None:
    with ActivationStore() as store:
        store.put("h", torch.ones(3))
        assert not store._mover.overlaps
        assert torch.equal(store.get("h"), torch.ones(3))
