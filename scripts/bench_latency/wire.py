"""What goes between the benchmark and its edge processes: one JSON line each way per generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge_client.options import GenerateOptions
from edge_client.stats import Stats
from scripts.bench_latency.records import Commit, ForwardCost, Picture

OPEN: Final = "open"
"""First word of the line that says that an edge is ready."""
REFUSED: Final = "refused"
"""First word of the line with a reason that the user can mend."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One generation."""

    options: GenerateOptions
    picture: bool = False
    """Whether every event is wanted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. `error`: the generation failed, all else is empty."""

    tokens: tuple[int, ...] = ()
    finish_reason: str = ""
    commits: tuple[Commit, ...] = ()
    stats: Stats | None = None
    forwards: tuple[ForwardCost, ...] = ()
    verify_ms: float | None = None
    queue_ms: float | None = None
    picture: Picture | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
