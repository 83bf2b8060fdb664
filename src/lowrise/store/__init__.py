"""Where a model's layers live: in memory, or on disk under a bound on resident memory; the same bytes either way."""

from lowrise.store.choosing import Memory, bound_of, check_bound, layer_of, least_of, stays_in_memory, store_for
from lowrise.store.layer_store import LayerStore
from lowrise.store.on_disk import OnDisk

__all__ = [
    "LayerStore",
    "Memory",
    "OnDisk",
    "bound_of",
    "check_bound",
    "layer_of",
    "least_of",
    "stays_in_memory",
    "store_for",
]
