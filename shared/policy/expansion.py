"""Which nodes the drafter's next forward goes to, and which of the candidates become nodes (edge)."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.session.tree import Node

_SWEEP = 64
"""Entries up to which a frontier is not worth sweeping."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A child that the drafter proposes."""

    token: int
    cost: float
    """Nats: -ln of the estimate that the target draws this token given its parent. Finite, at least 0."""


class Frontier:
    """Live nodes that no forward has gone to yet, likeliest first.

    Dead ones fall out when they are met, and all at once before they are more than half: memory follows the live tree.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Node]] = []
        self._sweep_at = _SWEEP

    def __bool__(self) -> bool:
        self._tidy()
        return bool(self._heap)

    def push(self, node: Node) -> None:
        """Add a node."""
        heapq.heappush(self._heap, (node.path_cost, node.key, node))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].alive]
            heapq.heapify(self._heap)
            self._sweep_at = 2 * len(self._heap) + _SWEEP

    def peek(self) -> Node:
        """The likeliest node."""
        self._tidy()
        return self._heap[0][2]

    def pop(self) -> Node:
        """Take the likeliest node."""
        self._tidy()
        return heapq.heappop(self._heap)[2]

    def _tidy(self) -> None:
        while self._heap and not self._heap[0][2].alive:
            heapq.heappop(self._heap)


class Expansion(Protocol):
    """Shape of the draft tree."""

    @property
    def width(self) -> int:
        """Candidates per forwarded node that are worth having."""
        ...

    @property
    def max_cost(self) -> float:
        """Nats below the end beyond which a node is not worth a forward or a place in the window."""
        ...

    def choose(self, frontier: Frontier, within: Callable[[Node], bool]) -> list[Node]:
        """Take from the frontier the nodes of the next forward: those `within` reach, at most a batch."""
        ...


@dataclass(frozen=True, slots=True)
class BestFirst:
    """The unexpanded nodes most likely to lie on the true path, several branches in one forward."""

    branches: int = 4
    width: int = 4
    max_cost: float = 5.0

    def choose(self, frontier: Frontier, within: Callable[[Node], bool]) -> list[Node]:
        """See `Expansion.choose`."""
        chosen: list[Node] = []
        while len(chosen) < self.branches and frontier and within(frontier.peek()):
            chosen.append(frontier.pop())
        return chosen


def chain() -> BestFirst:
    """One candidate per node, one node per forward, as deep as the window allows."""
    return BestFirst(branches=1, width=1, max_cost=float("inf"))
