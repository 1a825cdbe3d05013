"""Looks at one session's facts and effects, and remembers when they were."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edge_client.driver import Event
from edge_client.model_thread import Drafted
from edge_client.transport import Received
from scripts.bench_latency.records import Commit as Committed
from scripts.bench_latency.records import ForwardCost, Picture
from shared.messages import Commit, Draft
from shared.session.edge import Forward, SendUp

NS_PER_MS = 1e6


class Recorder:
    """See `edge_client.driver.Observe`. Appends to lists only: it must not slow down what it looks at."""

    def __init__(self, began_at: int) -> None:
        """`began_at`: when the generation was asked for, monotonic ns."""
        self._began = began_at
        self._out: tuple[int, int] | None = None
        self._forwards: list[tuple[int, int, int]] = []
        self._sent: list[tuple[int, int]] = []
        self._commits: list[tuple[int, Commit]] = []

    def __call__(self, now: int, event: Event) -> None:
        """One event at `now` (monotonic ns)."""
        match event:
            case Received(message=Commit() as commit):
                self._commits.append((now, commit))
            case Forward():
                self._out = (now, len(event.paths))
            case Drafted():
                if self._out is not None:
                    self._forwards.append((self._out[0], now, self._out[1]))
                    self._out = None
            case SendUp(message=Draft() as draft):
                self._sent.append((now, len(draft.tokens)))

    @property
    def forwards(self) -> tuple[ForwardCost, ...]:
        """What forwards took, by their nodes."""
        by_nodes: dict[int, list[float]] = {}
        for begin, end, nodes in self._forwards:
            by_nodes.setdefault(nodes, []).append((end - begin) / NS_PER_MS)
        return tuple(
            ForwardCost(nodes, len(took), round(statistics.fmean(took), 4))
            for nodes, took in sorted(by_nodes.items())
        )

    @property
    def verify_ms(self) -> float | None:
        """Mean duration of the steps that brought commits, as measured in the cloud."""
        return _mean_ms([commit.verify_us for _, commit in self._commits])

    @property
    def queue_ms(self) -> float | None:
        """Mean wait for them, as measured in the cloud."""
        return _mean_ms([commit.queue_us for _, commit in self._commits])

    def picture(self) -> Picture:
        """Everything."""
        return Picture(
            forwards=tuple((self._ms(begin), self._ms(end), nodes) for begin, end, nodes in self._forwards),
            sent=tuple((self._ms(at), nodes) for at, nodes in self._sent if nodes),
            commits=tuple(
                (self._ms(at), len(one.tokens), one.queue_us / 1000, one.verify_us / 1000, one.accepted)
                for at, one in self._commits
            ),
        )

    def _ms(self, at: int) -> float:
        return round((at - self._began) / NS_PER_MS, 3)


class Clock:
    """When tokens became final at the edge, as its user sees them."""

    def __init__(self, began_at: int) -> None:
        """`began_at`: when the generation was asked for, monotonic ns."""
        self._began = began_at
        self._commits: list[tuple[int, int]] = []

    def committed(self, now: int, tokens: int) -> None:
        """So many tokens became final at `now` (monotonic ns)."""
        self._commits.append((now, tokens))

    @property
    def commits(self) -> tuple[Committed, ...]:
        """See `records.Commit`."""
        return tuple((round((at - self._began) / NS_PER_MS, 3), tokens) for at, tokens in self._commits)


def _mean_ms(microseconds: Sequence[int]) -> float | None:
    return round(statistics.fmean(microseconds) / 1000, 4) if microseconds else None
