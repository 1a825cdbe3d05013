"""When a lost stream is opened again, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass

NANOSECONDS = 1_000_000_000


@dataclass(slots=True)
class Reconnect:
    """Exponential backoff, given up when nothing was committed for `patience` seconds."""

    first_delay: float = 0.05
    """Seconds before the second attempt in a row that brought nothing."""
    longest_delay: float = 1.0
    patience: float = 30.0
    """Seconds without a commit after which a lost stream is final."""

    _failures: int = 0
    _progress_at: int | None = None

    def next_attempt(self, now: int) -> int:
        """When to connect (ns). The first attempt after progress is made at once."""
        if self._progress_at is None:
            self._progress_at = now
        delay = 0.0
        if self._failures:
            # The exponent stops where a float would overflow: an edge may be told to try for hours.
            delay = min(self.first_delay * 2.0 ** min(self._failures - 1, 60), self.longest_delay)
        self._failures += 1
        return now + round(delay * NANOSECONDS)

    def progressed(self, now: int) -> None:
        """Something was committed."""
        self._failures = 0
        self._progress_at = now

    def allows(self, now: int) -> bool:
        """Whether another attempt is worth making."""
        return self._progress_at is None or now - self._progress_at < self.patience * NANOSECONDS
