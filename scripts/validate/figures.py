"""One accounting for both sides: figures of generations, and how far one side is from the other."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Generation:
    """What one client got for one prompt; ms of one clock."""

    client: int
    asked_ms: float
    times_ms: tuple[float, ...]
    """When each commit came."""
    sizes: tuple[int, ...]
    """Tokens in each."""
    facts: int
    """Evaluated in the cloud until the last commit."""
    accepted: int
    judged: int

    @property
    def tokens(self) -> int:
        """Written."""
        return sum(self.sizes)

    @property
    def tpot_ms(self) -> float:
        """(last - first token) / (N - 1)."""
        return (self.times_ms[-1] - self.times_ms[0]) / (self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Figures:
    """Unstretched."""

    tpot_ms: float
    """Median over generations."""
    tokens_per_s: float
    """Of all clients, while every one of them was being served."""
    ttft_ms: float
    """Median over generations."""
    itl_p50_ms: float
    """Between tokens at the edge; 0 within a commit."""
    itl_p95_ms: float
    acceptance: float | None
    """Of the tokens for which the cloud held a draft; None: it never did."""
    facts_per_token: float


def figures_of(generations: Sequence[Generation], stretch: float) -> Figures:
    """What so many generations were like.

    Raises:
        ValueError: there was no time in which every client was being served.
    """
    tokens = sum(one.tokens for one in generations)
    judged = sum(one.judged for one in generations)
    gaps: list[float] = []
    for one in generations:
        gaps += (later - earlier for earlier, later in itertools.pairwise(one.times_ms))
        gaps += itertools.repeat(0.0, one.tokens - len(one.sizes))
    p50, p95 = (float(value) / stretch for value in np.percentile(gaps, (50, 95)))
    return Figures(
        tpot_ms=statistics.median(one.tpot_ms for one in generations) / stretch,
        tokens_per_s=_rate(generations) * stretch,
        ttft_ms=statistics.median(one.times_ms[0] - one.asked_ms for one in generations) / stretch,
        itl_p50_ms=p50,
        itl_p95_ms=p95,
        acceptance=sum(one.accepted for one in generations) / judged if judged else None,
        facts_per_token=sum(one.facts for one in generations) / tokens,
    )


def _rate(generations: Sequence[Generation]) -> float:
    """Tokens per second from when the last client has its first token until the first has its last."""
    clients: dict[int, list[Generation]] = {}
    for one in generations:
        clients.setdefault(one.client, []).append(one)
    begin = max(min(one.times_ms[0] for one in own) for own in clients.values())
    end = min(max(one.times_ms[-1] for one in own) for own in clients.values())
    if end <= begin:
        raise ValueError(f"{len(clients)} clients were never all served at once: ask for more tokens")
    arrived = sum(
        size
        for one in generations
        for at, size in zip(one.times_ms, one.sizes, strict=True)
        if begin < at <= end
    )
    return arrived / (end - begin) * 1000


def error(predicted: float | None, measured: float | None) -> float | None:
    """How far a prediction is off, by what was measured; None: there is nothing to divide by."""
    return predicted / measured - 1.0 if predicted is not None and measured else None
