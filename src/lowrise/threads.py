"""How torch's threads wait for each other."""

from __future__ import annotations

import os

# Turns of the loop in which a thread waits for the others before it sleeps; each is some tens of nanoseconds.
_TURNS = "1000"


def wait_briefly() -> None:
    """Let threads that wait for another one sleep soon. To be called before torch is imported; later it does nothing.

    GNU's OpenMP, which torch shares its work with, otherwise lets them spin for milliseconds at the end of every
    operation. Beside one other busy process a spinning thread holds the very core that the thread it waits for would
    run on: writing token by token, hundreds of operations a step, was ten times slower than on a single thread. The
    work is cut as before, so results are the same to the byte. What the user has set stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
