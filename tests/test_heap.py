"""What the C library keeps of freed memory: in a process of its own, whose resident size is looked at."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SHOW = """
import sys
from lowrise.heap import give_back, map_large_blocks

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))

first = resident()
if sys.argv[1] == "large":
    map_large_blocks()
    for size in (9, 10, 12, 16):  # MiB: the bound would follow the largest that was freed
        del_me = bytearray(size * 2**20)
        del del_me
    blocks, pins = [], []
    for _ in range(10):
        blocks.append(bytearray(10 * 2**20))
        pins.append(bytearray(100_000))
else:
    blocks, pins = [], []
    for _ in range(2_000):
        blocks.append(bytearray(100_000))
        pins.append(bytearray(600))
held = resident()
blocks.clear()
freed = resident()
give_back(int(sys.argv[2]))
print(held - first, freed - first, resident() - first)
"""


def sizes(which: str, more_than: int = 0, **environment: str) -> list[int]:
    """MiB more than at the start: while blocks are held, once they are freed, once more than so many bytes go back."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _SHOW, which, str(more_than)]
    said = subprocess.check_output(command, env={**own, **environment}, text=True)
    return [int(word) for word in said.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="of GNU's C library")
class TestHeap:
    def test_pages_between_what_is_kept_go_back(self) -> None:
        held, freed, after = sizes("small")
        assert held > 150
        assert freed > 150  # small blocks that are kept lie between them
        assert after < 60

    def test_between_steps_they_go_back_only_where_they_are_many(self) -> None:
        _, freed, after = sizes("small", more_than=100 * 2**20)
        assert after < freed - 100
        _, freed, after = sizes("small", more_than=1000 * 2**20)
        assert after >= freed - 5

    def test_large_blocks_go_back_by_themselves(self) -> None:
        held, freed, _ = sizes("large")
        assert held > 90
        assert freed < 20

    def test_what_the_user_has_set_stands(self) -> None:
        held, freed, _ = sizes("large", MALLOC_MMAP_THRESHOLD_="67108864", MALLOC_TRIM_THRESHOLD_="1073741824")
        assert held > 90
        assert freed > 90


_PEAK = """
import os, subprocess, sys
held = bytearray(os.urandom(1)) * 3_000_000_000
print(subprocess.check_output([sys.executable, "-c", "from lowrise.measure.system import peak_memory; "
    "print(peak_memory()['peak_resident_bytes'])"], text=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    """As getrusage has it, of a command that a notebook with a model in memory starts."""
    said = subprocess.check_output([sys.executable, "-c", _PEAK], text=True)
    assert 100_000_000 < int(said) < 2_000_000_000
