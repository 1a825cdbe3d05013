"""What one run's commits say. Milliseconds; every token of a commit became final at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from scripts.bench_latency.records import Commit, Run

HUNDREDTH = 100


def ttft_ms(commits: Sequence[Commit]) -> float | None:
    """From the request to the first token."""
    return commits[0][0] if commits else None


def tpot_ms(commits: Sequence[Commit]) -> float | None:
    """(last - first token) / (tokens - 1)."""
    tokens = sum(count for _, count in commits)
    return (commits[-1][0] - commits[0][0]) / (tokens - 1) if tokens > 1 else None


def itl_ms(commits: Sequence[Commit]) -> list[float]:
    """Between neighbouring tokens; 0 within a commit."""
    gaps: list[float] = []
    for number, (at, count) in enumerate(commits):
        if number:
            gaps.append(at - commits[number - 1][0])
        gaps += [0.0] * (count - 1)
    return gaps


def commit_gaps_ms(commits: Sequence[Commit]) -> list[float]:
    """Between neighbouring commits."""
    return [later - earlier for (earlier, _), (later, _) in pairwise(commits)]


def token_at_ms(commits: Sequence[Commit], number: int) -> float | None:
    """From the request to the numbered token, from 1; None: there are fewer."""
    seen = 0
    for at, count in commits:
        seen += count
        if seen >= number:
            return at
    return None


def tokens_per_s(run: Run) -> float | None:
    """From the request to the last token."""
    if not run.commits or not run.commits[-1][0]:
        return None
    return len(run.tokens) / run.commits[-1][0] * 1000
