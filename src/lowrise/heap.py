"""What GNU's C library keeps of memory that was freed. Elsewhere nothing here does anything."""

from __future__ import annotations

import ctypes
import gc
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_LARGE = 8 * 2**20  # bytes
_TOP = 64 * 2**20  # that may stay free at the end of the heap
BETWEEN_STEPS = 64 * 2**20  # bytes that may stay free from one step of a search to the next
_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h; fordblks: bytes of the heap that are free, of all arenas."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def map_large_blocks() -> None:
    """Blocks of 8 MiB and more go back to the system as soon as they are freed. To be called before any is taken.

    The C library otherwise raises that bound up to 32 MiB as it sees such blocks come and go, keeps them in its heap
    from then on, and what lies between them keeps their pages: half of the peak of a search was memory that nobody
    used. What the user has set stands.
    """
    library = _library()
    if library is not None and not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, _TOP)


def collect() -> None:
    """What nobody refers to is freed, and goes back to the system: before a model takes the place of another."""
    gc.collect()
    give_back()


def give_back(more_than: int = 0) -> None:
    """All pages that hold nothing go back to the system, where they come to `more_than` bytes.

    Between the steps of a long search, too: each takes blocks of other sizes, which do not fit where the last step's
    were, and the heap grows though nothing is kept.
    """
    library = _library()
    if library is None:
        return
    if more_than and hasattr(library, "mallinfo2") and library.mallinfo2().fordblks < more_than:
        return
    library.malloc_trim(0)


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        library.mallopt, library.malloc_trim, library.gnu_get_libc_version  # noqa: B018 - looked up: are they there?
    except (OSError, AttributeError, TypeError):
        return None
    if hasattr(library, "mallinfo2"):  # since version 2.33
        library.mallinfo2.restype = _MallocInfo
    return library
