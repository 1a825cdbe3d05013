"""Timing on a machine that is never quiet: sides take turns, and only what was measured side by side is compared.

Absolute times do not travel, and drift within minutes as a machine's other load changes. So every round runs each
side once, A B A B, and the ratio is taken within a round before the median is taken over rounds.

Taking turns does not make a crowded machine fair. Where more threads want to run than there are cores, one that sleeps
between steps (a server that waits for its next message) is scheduled as soon as it wakes, and one that computes without
a pause gets a plain share: with four busy neighbours on two cores the former got 0.9 of a core and the latter 0.3, so
that a server looked three times as fast as its own verifier in a loop. Hence `Neighbours` and `CpuClock`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class Spread:
    """What a figure was over the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Rounds:
    """Measurements of several sides that took turns: `values[side][round]`."""

    values: Mapping[str, Sequence[float]]

    def spread(self, side: str) -> Spread:
        """One side over all rounds."""
        return Spread.of(self.values[side])

    def ratio(self, over: str, under: str) -> Spread:
        """`over` / `under`, paired by round."""
        pairs = zip(self.values[over], self.values[under], strict=True)
        return Spread.of([a / b for a, b in pairs])

    def every_other(self, first: int) -> Rounds:
        """Every second round from `first` on: one half to choose a side by, the other to say how good it is."""
        return Rounds({side: values[first::2] for side, values in self.values.items()})

    def lowest(self, sides: Sequence[str]) -> str:
        """The side among `sides` with the lowest median."""
        return min(sides, key=lambda side: statistics.median(self.values[side]))

    def highest(self, sides: Sequence[str]) -> str:
        """The side among `sides` with the highest median."""
        return max(sides, key=lambda side: statistics.median(self.values[side]))


Side = Callable[[int], float]
"""Runs a side's share of the numbered round and returns what it measured."""


def take_turns(sides: Mapping[str, Side], rounds: int, *, warm_up: bool = True) -> Rounds:
    """Round by round, each side once and in the same order; the warm-up is round -1 and does not count."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1 if warm_up else 0, rounds):
        for name, side in sides.items():
            value = side(number)
            if number >= 0:
                values[name].append(value)
    return Rounds(values)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class CpuClock:
    """CPU seconds that this process and some others have used so far: what work costs, however long it had to wait."""

    def __init__(self, pids: Sequence[int] = ()) -> None:
        """`pids`: the processes besides this one, such as a server's. They are to live as long as the clock is read."""
        self._processes = [psutil.Process(pid) for pid in (os.getpid(), *pids)]

    def now(self) -> float:
        """Seconds, in steps of 0.01 for other processes."""
        times = [process.cpu_times() for process in self._processes]
        return sum(one.user + one.system for one in times)


class Neighbours:
    """How much of the machine others used while the block was entered."""

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._others = self._other_seconds()
        self.share = 0.0
        """Of all cores, 0..1; known when the block is left."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        used = self._other_seconds() - self._others
        self.share = max(0.0, used / ((time.perf_counter() - self._began) * (os.cpu_count() or 1)))

    @staticmethod
    def _other_seconds() -> float:
        """CPU seconds of everything, less those of this process and of its children that have ended."""
        everything, own = psutil.cpu_times()._asdict(), os.times()
        idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is in user's as well
        busy = sum(seconds for name, seconds in everything.items() if name not in idle)
        return float(busy) - (own.user + own.system + own.children_user + own.children_system)
