"""How many messages may be sent or taken now: a token bucket. Both sides count the contract's message rate with it."""

from __future__ import annotations

NANOSECONDS = 1_000_000_000


class Allowance:
    """Grows with time (ns) up to `most`; each message takes one."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, most: float, *, now: int) -> None:
        self._rate = rate
        """Messages a second."""
        self._most = most
        self._left = most
        self._at = now

    def left(self, now: int) -> float:
        """Messages that may go now."""
        return min(self._most, self._left + (now - self._at) * self._rate / NANOSECONDS)

    def take(self, now: int) -> None:
        """One message goes, whatever is left."""
        self._left = self.left(now) - 1.0
        self._at = now
