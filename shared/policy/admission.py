"""Whether one more session is taken in, and when to come again if not (cloud).

A full pool refuses instead of slowing everybody: who was let in keeps the pace at which it was let in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

LEAST_RETRY_MS: Final = 200
MOST_RETRY_MS: Final = 30_000
UNKNOWN_RETRY_MS: Final = 2_000
"""Until a session has ended there is nothing to reckon with."""


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """A pool at the moment at which somebody asks to come in."""

    sessions: int
    workers: int
    """That serve."""
    step_us: float
    """Average verify step over the workers; 0: nothing was measured yet."""
    node_us: float
    """What one more token adds to a step; 0: nothing, as far as was measured."""
    life_ms: float
    """How long sessions last, smoothed; 0: none has ended yet."""


class Admission(Protocol):
    """Asked for every complete `Open` that the contract's own limit of sessions has room for."""

    def refused(self, load: PoolLoad) -> int | None:
        """None: come in. Else in how many milliseconds there is probably room."""
        ...


@dataclass(frozen=True, slots=True)
class TokenPace:
    """As many sessions as plain decoding can serve with at most `itl_ms` between tokens, by measured step costs.

    Speculation only ever makes it faster, and gives way first (`MeasuredBudget`).
    """

    itl_ms: float

    def refused(self, load: PoolLoad) -> int | None:
        """See `Admission.refused`."""
        each = load.sessions / max(load.workers, 1)
        # What is measured is a step with today's drafts in it; without any, and with one end more, it takes this.
        plain_us = load.step_us + load.node_us
        return retry_ms(load) if each >= 1.0 and plain_us > self.itl_ms * 1000 else None


def retry_ms(load: PoolLoad) -> int:
    """When one of the sessions will have ended, on average."""
    if load.life_ms <= 0.0:
        return UNKNOWN_RETRY_MS
    return round(min(max(load.life_ms / max(load.sessions, 1), LEAST_RETRY_MS), MOST_RETRY_MS))
