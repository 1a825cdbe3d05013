"""Something that a paper proves or claims, held to what was simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NANOSECONDS = 1e-6
"""Relative. Times are whole nanoseconds, so equal ones may differ by a rounding."""


@dataclass(frozen=True, slots=True)
class Check:
    """One claim over many cells. A cell's value must not exceed `limit`."""

    key: str
    claim: str
    conditions: str
    cells: int
    failed: int
    limit: float
    worst: float
    worst_cell: str
    must: bool = True
    """False: it may fail, since it is not meant for these conditions, or is what is being asked."""

    @property
    def passed(self) -> bool:
        """Whether it holds in every cell."""
        return self.failed == 0

    @property
    def verdict(self) -> str:
        """For people."""
        return "pass" if self.passed else "FAIL" if self.must else "does not hold"


def check(
    key: str,
    claim: str,
    conditions: str,
    values: Sequence[tuple[str, float]],
    limit: float = 1.0,
    *,
    must: bool = True,
) -> Check:
    """`values`: the cell in words, and what must be at most `limit`."""
    worst_cell, worst = max(values, key=lambda one: one[1])
    failed = sum(value > limit * (1.0 + NANOSECONDS) for _, value in values)
    return Check(key, claim, conditions, len(values), failed, limit, round(worst, 6), worst_cell, must)
