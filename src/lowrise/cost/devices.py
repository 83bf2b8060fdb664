"""Machines that are not at hand, by what their makers say of them, and shapes of well-known models, by their configs.

What a layer reaches of a maker's figure is not in any data sheet: `REACHED` is a guess, and so is everything that comes
of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowrise.cost.shape import ModelShape
from lowrise.cost.work import Rates

REACHED = 0.5  # of a maker's operations and bytes a second, in products of the sizes that occur here
_BACKWARD = 3.0  # times a forward pass
_HASHED = 1.5e9  # bytes a second, SHA-256 with the instructions for it
_CALL = {"cpu": 50e-6, "cuda": 150e-6}  # seconds until a layer's call has been handed over, one token or many


@dataclass(frozen=True)
class Device:
    """half, single, double: operations a second of products, in 16 bits, float32 and float64. bandwidth: bytes a
    second of its memory, memory: bytes of it, of all `count`. host: bytes of the machine's own memory. disk: bytes a
    second.

    Several are used one after the other, layers shared out among them: `count` brings memory, not speed.
    """

    name: str
    kind: str
    half: float
    single: float
    double: float
    bandwidth: float
    memory: float
    host: float
    disk: float
    source: str
    count: int = 1

    def rates(self, shape: ModelShape) -> Rates:
        """Of a model that is computed in `shape.compute` bytes a number."""
        speed = REACHED * (self.half if shape.compute == 2 else self.single)
        moved = REACHED * self.bandwidth
        token = 2 * shape.layer_parameters / speed
        attention = 4 * shape.heads * shape.head_size / speed / 2  # causal: half of the pairs
        return Rates(
            forward=token,
            context=attention,
            backward=_BACKWARD * token,
            mixed=_BACKWARD * token,
            head=2 * shape.head_parameters / speed,
            taught=_BACKWARD * 2 * shape.head_parameters / speed,
            decoded=token,
            decode_calls=_CALL[self.kind] + shape.layer_bytes / moved,
            cached=1 / moved,
            sums=1 / (REACHED * self.single),
            solves=1 / (REACHED * self.double),
            touched=1 / moved,
            states=1 / self.disk,
            read=1 / self.disk,
            written=1 / self.disk,
            hashed=1 / _HASHED,
            fixed=1.0,
        )


# The host's side of a machine with GPUs is an assumption: 64 GB beside one, 1 TB beside eight; local NVMe, 3 GB/s.
DEVICES = (
    Device(
        name="laptop, 16 GB",
        kind="cpu",
        half=0.4e12,
        single=0.4e12,
        double=0.2e12,
        bandwidth=68e9,
        memory=16e9,
        host=16e9,
        disk=2.0e9,
        source="assumed: 4 fast cores of 3.2 GHz, 32 float32 operations a cycle each (two 256-bit FMA units); 128 bits "
        "of LPDDR4X-4266; NVMe",
    ),
    Device(
        name="one GPU, 24 GB",
        kind="cuda",
        half=165.2e12,
        single=82.6e12,
        double=1.29e12,
        bandwidth=1008e9,
        memory=24e9,
        host=64e9,
        disk=3e9,
        source="NVIDIA GeForce RTX 4090: NVIDIA Ada GPU Architecture whitepaper, appendix A (FP16 tensor with FP32 "
        "accumulate, FP32, FP64 at 1/64)",
    ),
    Device(
        name="eight GPUs, 80 GB each",
        kind="cuda",
        half=989e12,
        single=67e12,
        double=67e12,
        bandwidth=3350e9,
        memory=8 * 80e9,
        host=1e12,
        disk=3e9,
        source="NVIDIA H100 SXM data sheet (BF16 tensor without sparsity, FP32, FP64 tensor)",
        count=8,
    ),
)

# From the config.json that their makers publish. compute, stored: 2, bfloat16.
SHAPES = (
    ModelShape.dense(
        "8B (Llama-3.1-8B's shape)",
        layers=32, hidden=4096, inner=14336, heads=32, key_heads=8, vocabulary=128256, compute=2, stored=2,
    ),
    ModelShape.dense(
        "32B (Qwen2.5-32B's shape)",
        layers=64, hidden=5120, inner=27648, heads=40, key_heads=8, vocabulary=152064, compute=2, stored=2,
    ),
    ModelShape.dense(
        "70B (Llama-3.1-70B's shape)",
        layers=80, hidden=8192, inner=28672, heads=64, key_heads=8, vocabulary=128256, compute=2, stored=2,
    ),
)  # fmt: skip
