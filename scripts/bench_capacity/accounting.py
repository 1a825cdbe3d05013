"""What a measuring window says of closed-loop clients: pure arithmetic over the commits that arrived in it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

SLICES = 8
"""Parts of a window, for the interval of its rate."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One commit at the edge."""

    at_ms: float
    tokens: int
    facts: int
    """Evaluated in the cloud since the commit before."""
    accepted: int
    judged: int


@dataclass(frozen=True, slots=True)
class Written:
    """One generation of one client, whole or as far as it came."""

    client: int
    asked_ms: float
    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two moments; times as they were measured."""

    duration_ms: float
    tokens: int
    slices: tuple[int, ...]
    """Tokens in each equal part of the window."""
    itl_ms: tuple[float, ...]
    """Between neighbouring tokens of one generation, by when the later one came; 0 within a commit."""
    ttft_ms: tuple[float, ...]
    """From asking to the first token, by when that came."""
    facts: int
    accepted: int
    judged: int


def within(generations: Sequence[Written], begin_ms: float, end_ms: float) -> Window:
    """Counts what arrived from `begin_ms` on and before `end_ms`.

    A commit before the window is what the first gap in it counts from; the first commit of a generation ends no gap.
    """
    tokens = facts = accepted = judged = 0
    slices = [0] * SLICES
    gaps: list[float] = []
    firsts: list[float] = []
    for one in generations:
        for before, arrival in itertools.pairwise((None, *one.arrivals)):
            if arrival is None or not begin_ms <= arrival.at_ms < end_ms:
                continue
            tokens += arrival.tokens
            facts += arrival.facts
            accepted += arrival.accepted
            judged += arrival.judged
            slices[int((arrival.at_ms - begin_ms) / (end_ms - begin_ms) * SLICES)] += arrival.tokens
            if before is None:
                firsts.append(arrival.at_ms - one.asked_ms)
            else:
                gaps.append(arrival.at_ms - before.at_ms)
            gaps += [0.0] * (arrival.tokens - 1)
    return Window(
        end_ms - begin_ms, tokens, tuple(slices), tuple(gaps), tuple(firsts), facts, accepted, judged
    )
