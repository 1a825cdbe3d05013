"""One link model for the simulator and the WAN emulator: delay, jitter, rate, hold. A stream keeps its order."""

from __future__ import annotations

from dataclasses import dataclass

NANOSECONDS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """One direction of a link."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Extra delay, uniform in -jitter..+jitter, never below zero in sum."""
    kbit_per_s: float = 0.0
    """Rate; 0: unlimited."""

    def __post_init__(self) -> None:
        for name in ("delay_ms", "jitter_ms", "kbit_per_s"):
            value: float = getattr(self, name)
            if not 0.0 <= value < 1e9:
                raise ValueError(f"{name} {value} is outside 0..1e9")


class LinkClock:
    """When what is handed to a link now comes out at its far end (ns). Pure: draws and time are arguments."""

    __slots__ = ("_free_at", "_last", "held_until", "profile")

    def __init__(self, profile: LinkProfile) -> None:
        self.profile = profile
        self.held_until = 0
        """Nothing leaves the link before this time (an outage on a reliable stream is a wait, not a loss)."""
        self._free_at = 0
        self._last = 0

    def arrival(self, now: int, size: int, draw: float) -> int:
        """Arrival time of `size` bytes; `draw` in 0..1 decides the jitter."""
        profile = self.profile
        start = max(now, self._free_at)
        if profile.kbit_per_s:
            start += round(size * 8 * NANOSECONDS_PER_MS / profile.kbit_per_s)
            self._free_at = start
        delay = max(0.0, profile.delay_ms + (2 * draw - 1) * profile.jitter_ms)
        arrival = max(start + round(delay * NANOSECONDS_PER_MS), self.held_until, self._last)
        self._last = arrival
        return arrival
