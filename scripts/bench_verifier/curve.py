"""The cost of a step over nodes, sessions and context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psutil
import torch

from cloud_server.kv_pool import PAGE_SLOTS
from cloud_server.verifier import DRAFT_SLOTS, Verifier, default_kv_bytes
from scripts.bench_verifier.workload import Effort, Sessions, median_ms
from shared.hardware import ModelShape, StepPoint

CPU_KV_SHARE: Final = 0.3
"""Of a host's free memory, for keys and values."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Which steps are measured."""

    nodes: tuple[int, ...]
    sessions: tuple[int, ...]
    contexts: tuple[int, ...]
    effort: Effort

    @property
    def context_length(self) -> int:
        """Tokens of the longest log with its drafts."""
        return max(self.contexts) + DRAFT_SLOTS

    def points(self) -> Iterator[tuple[int, int, int]]:
        """(nodes, sessions, context) in the order of measurement: logs only grow."""
        for context in self.contexts:
            for sessions in self.sessions:
                for nodes in self.nodes:
                    if nodes >= sessions and nodes // sessions <= DRAFT_SLOTS:
                        yield nodes, sessions, context

    def most_sessions(self, context: int, verifier: Verifier) -> int:
        """How many of `sessions` the cache holds with logs of that length; 0: not even one."""
        trunk = -(-context // PAGE_SLOTS) + 1
        # A session keeps the pages of its longest chain, and each number of sessions has others with the longest.
        drafts = len(self.sessions) * -(-max(self.nodes) // PAGE_SLOTS)
        return max((n for n in self.sessions if n * trunk + drafts <= verifier.pool.pages), default=0)


QUICK: Final = Grid(
    nodes=(1, 4, 16, 32, 64, 128, 256),
    sessions=(1, 4, 16, 64),
    contexts=(128, 1024),
    effort=Effort(least=3, most=9, seconds=0.3),
)
FULL: Final = Grid(
    nodes=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    sessions=(1, 2, 4, 8, 16, 32, 64),
    contexts=(128, 256, 512, 1024, 2048, 4096, 8192),
    effort=Effort(least=5, most=25, seconds=1.0),
)


def kv_bytes(shape: ModelShape, dtype: str, grid: Grid, device: torch.device) -> int:
    """Memory for keys and values: what the whole grid needs, or what there is."""
    # Room for every session to grow without being scattered: a scattered one costs a CPU several times as much.
    wanted = (max(grid.sessions) + 1) * (grid.context_length + PAGE_SLOTS)
    free = (
        default_kv_bytes(device)
        if device.type == "cuda"
        else round(CPU_KV_SHARE * psutil.virtual_memory().available)
    )
    return min(wanted * shape.kv_bytes(dtype), free)


def measure_curve(
    verifier: Verifier,
    grid: Grid,
    device: torch.device,
    temperature: float,
    done: Callable[[StepPoint | None], None],
) -> None:
    """Measure every point of the grid that fits into the cache, and hand each to `done`; None: it does not fit."""
    sessions = Sessions(verifier, verifier.info.vocabulary_size, temperature=temperature)
    for nodes, count, context in grid.points():
        if count > grid.most_sessions(context, verifier) or context + nodes > verifier.info.context_length:
            done(None)
            continue
        if sessions.context != context:
            sessions.resize(grid.most_sessions(context, verifier), context)
        done(StepPoint(nodes, count, context, median_ms(sessions, nodes, count, grid.effort, device)))
