"""When a step that does not come back is given up on, and its facts asked of another worker (cloud).

Facts are pure (law 3), so asking twice is only a matter of cost: the first answer counts, the second is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MICROSECOND = 1_000
MILLISECOND = 1_000_000


class Hedging(Protocol):
    """Asked when a step begins."""

    def overdue_after(self, expected_us: float) -> int | None:
        """How long (ns) a step that should take `expected_us` may be out; None: for ever. 0 means unknown."""
        ...


@dataclass(frozen=True, slots=True)
class NoHedging:
    """A step is waited for until its worker is said to have left."""

    def overdue_after(self, expected_us: float) -> int | None:
        """See `Hedging.overdue_after`."""
        return None


@dataclass(frozen=True, slots=True)
class HedgeAfter:
    """A step is overdue after a multiple of what it should take (Dean and Barroso 2013, "The tail at scale")."""

    factor: float = 5.0
    least_ms: float = 100.0
    """No step is overdue before: what holds up a machine for a moment would double its work."""

    def overdue_after(self, expected_us: float) -> int | None:
        """See `Hedging.overdue_after`."""
        if expected_us <= 0.0:
            return None
        return round(max(self.factor * expected_us * MICROSECOND, self.least_ms * MILLISECOND))
