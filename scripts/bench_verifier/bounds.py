"""What the device can do at best: bytes per second of a large copy, and operations per second of a large product."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from scripts.bench_verifier.workload import synchronise
from shared.hardware import DTYPE_BYTES, ModelShape

COPY_BYTES: Final = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Far beyond any cache."""
PRODUCT_SIZE: Final = {"cpu": 1024, "cuda": 8192}
TURNS: Final = 7


@dataclass(frozen=True, slots=True)
class Bounds:
    """What was measured on a device, and the least time of a step that follows."""

    bytes_per_s: float
    """Reads and writes of a copy."""
    flop_per_s: float
    """A multiplication and an addition count as two."""

    def memory_ms(self, shape: ModelShape, dtype: str, sessions: int, context: int) -> float:
        """Reading each weight and each session's keys and values once."""
        weights = shape.matrix_weights * DTYPE_BYTES[dtype]
        return (weights + sessions * context * shape.kv_bytes(dtype)) / self.bytes_per_s * 1e3

    def compute_ms(self, shape: ModelShape, nodes: int, context: int) -> float:
        """Every weight once per node, and every node's scores and sums over its session's context."""
        attention = 2 * shape.layers * shape.heads * shape.head_dim * context
        return 2 * nodes * (shape.matrix_weights + attention) / self.flop_per_s * 1e3

    def least_ms(self, shape: ModelShape, dtype: str, nodes: int, sessions: int, context: int) -> float:
        """The greater of the two."""
        return max(
            self.memory_ms(shape, dtype, sessions, context),
            self.compute_ms(shape, nodes, context),
        )


def measure_bounds(device: torch.device, dtype: torch.dtype) -> Bounds:
    """The best of several turns of each: a bound is what nothing on this device can beat."""
    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    moved = 2 * source.nbytes
    copy_s = _best_seconds(lambda: target.copy_(source), device)
    size = PRODUCT_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product_s = _best_seconds(lambda: torch.mm(a, b, out=out), device)
    if device.type == "cuda":
        del source, target, a, b, out
        torch.cuda.empty_cache()  # else what was used here would count as taken
    return Bounds(moved / copy_s, 2 * size**3 / product_s)


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(TURNS):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return best
