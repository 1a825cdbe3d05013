"""How many nodes the edge keeps in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.messages import Commit
from shared.policy.batching import STEPS_IN_FLIGHT


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
