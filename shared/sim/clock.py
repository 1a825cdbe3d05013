"""Virtual time: events in order of (time, arrival). Integer nanoseconds, so that no order depends on rounding."""

from __future__ import annotations

import heapq
from collections.abc import Callable

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class VirtualClock:
    """Runs callbacks at their times; equal times run in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        """Callbacks run so far."""
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: int, run: Callable[[], None]) -> None:
        """Run `run` at time `when`, or now if that has passed."""
        self._count += 1
        heapq.heappush(self._queue, (max(when, self.now), self._count, run))

    def after(self, delay: int, run: Callable[[], None]) -> None:
        """Run `run` after `delay` ns."""
        self.at(self.now + delay, run)

    def step(self) -> bool:
        """Run the next event; False: there is none."""
        if not self._queue:
            return False
        self.now, _, run = heapq.heappop(self._queue)
        self.events += 1
        run()
        return True
