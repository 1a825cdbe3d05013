"""How many nodes the edge keeps in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.messages import Commit
from shared.policy.batching import STEPS_IN_FLIGHT

SMOOTHING = 0.2
"""Weight of the newest commit in an average."""


class Beat(Protocol):
    """What an edge measures of its server and its drafter; 0: nothing yet."""

    @property
    def round_trip_ms(self) -> float:
        """From a message to what shows that it arrived, at the shortest."""
        ...

    @property
    def gap_ms(self) -> float:
        """Between two commits, smoothed."""
        ...

    @property
    def forward_ms(self) -> float:
        """Of the drafter, smoothed."""
        ...


class Window(Protocol):
    """Fed with every commit; asked before every draft."""

    def size(self) -> int:
        """Nodes that may be in flight now; at least 1."""
        ...

    def committed(self, commit: Commit) -> None:
        """A commit arrived."""
        ...


@dataclass(slots=True)
class FixedWindow:
    """Always the same."""

    nodes: int

    def size(self) -> int:
        """See `Window.size`."""
        return self.nodes

    def committed(self, commit: Commit) -> None:
        """See `Window.committed`."""


@dataclass(slots=True)
class AdvisedWindow:
    """At most `nodes`, fewer while the cloud advises fewer."""

    nodes: int
    advised: int = 0

    def size(self) -> int:
        """See `Window.size`."""
        return min(self.nodes, self.advised) if self.advised else self.nodes

    def committed(self, commit: Commit) -> None:
        """See `Window.committed`."""
        self.advised = commit.advised_window


@dataclass(slots=True)
class MeasuredWindow:
    """As many nodes as the steps between sending and verdict can look at, by what the cloud says a step is worth.

    The cloud advises what `STEPS_IN_FLIGHT` steps of its own would look at; it cannot know how many of them fit into
    this edge's round trip, and the edge measures that.
    """

    most: int
    steps_in_flight: Callable[[], float]
    """From the commit that was seen last to the verdict on what is sent now, in verify steps."""
    advised: int = 0

    def size(self) -> int:
        """See `Window.size`."""
        if not self.advised:
            return self.most
        steps = self.steps_in_flight() + 2.0
        return max(1, min(self.most, round(self.advised * steps / STEPS_IN_FLIGHT)))

    def committed(self, commit: Commit) -> None:
        """See `Window.committed`."""
        self.advised = commit.advised_window


@dataclass(slots=True)
class EmaWindow:
    """DSD's simple baseline (arXiv 2511.21669): grows while more than half of the judged tokens were right."""

    least: int = 2
    most: int = 12
    gain: float = 0.5
    smoothing: float = 0.2
    acceptance: float = 0.5
    nodes: float = 4.0

    def size(self) -> int:
        """See `Window.size`."""
        return round(self.nodes)

    def committed(self, commit: Commit) -> None:
        """See `Window.committed`."""
        if commit.judged:
            rate = commit.accepted / commit.judged
            self.acceptance += self.smoothing * (rate - self.acceptance)
            grown = self.nodes * (1 + self.gain * (self.acceptance - 0.5))
            self.nodes = min(max(grown, self.least), self.most)


@dataclass(slots=True)
class MeasuredBlock:
    """The block of synchronous speculation that gives the most tokens per time, by what a round was measured to cost.

    A block of k tokens, each right with chance a, gives (1 - a^(k+1)) / (1 - a) of them (Leviathan et al. 2023,
    arXiv 2211.17192, equation 1) for a round trip, the server's time and k forwards.
    """

    most: int
    beat: Beat
    memory: float = 0.98
    """Weight of a judged token, one commit later."""
    nodes: int = 4
    _judged: float = 8.0
    _accepted: float = 6.0
    """As if so many had been seen already: an edge that drafts at all is more often right than not."""
    _server_ms: float = 0.0

    def size(self) -> int:
        """See `Window.size`."""
        return min(self.nodes, self.most)

    def committed(self, commit: Commit) -> None:
        """See `Window.committed`."""
        self._judged = self.memory * self._judged + commit.judged
        self._accepted = self.memory * self._accepted + commit.accepted
        server_ms = (commit.queue_us + commit.verify_us) / 1000
        weight = SMOOTHING if self._server_ms else 1.0
        self._server_ms += weight * (server_ms - self._server_ms)
        fixed_ms = self.beat.round_trip_ms + self._server_ms
        if fixed_ms > 0.0:
            self.nodes = best_block(self._accepted / self._judged, fixed_ms, self.beat.forward_ms, self.most)


def best_block(acceptance: float, fixed_ms: float, forward_ms: float, most: int) -> int:
    """The block length in 1..`most` with the most tokens per time: a round takes `fixed_ms` and a forward a token."""
    best, most_per_ms = 1, 0.0
    tokens, chance = 1.0, 1.0
    for nodes in range(1, most + 1):
        chance *= acceptance
        tokens += chance
        per_ms = tokens / (fixed_ms + nodes * forward_ms)
        if per_ms <= most_per_ms:
            break  # it has one maximum: what a token adds falls, and what it costs does not
        best, most_per_ms = nodes, per_ms
    return best
