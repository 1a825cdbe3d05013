"""Which nodes the drafter's next forward goes to, and which of the candidates become nodes (edge)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from shared.session.brood import Brood
from shared.session.tree import Node

_SWEEP = 64
"""Entries up to which a frontier is not worth sweeping."""
_Entry = tuple[float, int, int, Node, Brood | None]
"""Path cost and key of a node, -1, and the node; or of a child in a brood, its rank there, its parent and the brood.
The entry is dead when the node in it is."""


class Candidate(NamedTuple):
    """A child that the drafter proposes."""

    token: int
    cost: float
    """Nats: -ln of the estimate that the target draws this token given its parent. Finite, at least 0."""


_bare_candidate: Callable[[tuple[int, float]], Candidate] = partial(tuple.__new__, Candidate)


def candidates(tokens: Iterable[int], costs: Iterable[float]) -> list[Candidate]:
    """One for each token and cost. Drafters make tens of thousands a second: no Python runs for each of them."""
    return list(map(_bare_candidate, zip(tokens, costs, strict=True)))


class Frontier:
    """Live nodes that no forward has gone to yet, likeliest first, whether they are nodes already or still in a brood.

    Of each brood the likeliest that is left stands for all of it. Dead ones fall out when they are met, and all at once
    before they are more than half: memory follows the live tree.
    """

    def __init__(self, leave_out: Container[int] = ()) -> None:
        """`leave_out`: tokens of broods that are passed over."""
        self._leave_out = leave_out
        self._heap: list[_Entry] = []
        self._sweep_at = _SWEEP

    def __bool__(self) -> bool:
        return self.first() is not None

    def push(self, node: Node) -> None:
        """Add a node."""
        heapq.heappush(self._heap, (node.path_cost, node.key, -1, node, None))
        self._sweep()

    def push_brood(self, brood: Brood) -> None:
        """Add all children of a node."""
        for rank, (path_cost, key, token, _) in enumerate(brood.ranked):
            if token not in self._leave_out:
                heapq.heappush(self._heap, (path_cost, key, rank, brood.parent, brood))
                self._sweep()
                return

    def first(self) -> Node | None:
        """The likeliest node; None: there is none."""
        heap = self._heap
        while heap:
            _, _, rank, node, brood = heap[0]
            if node.alive:
                return node if brood is None else brood.made[rank] or brood.node(rank)
            heapq.heappop(heap)
        return None

    def pop(self) -> Node:
        """Take the likeliest node.

        Raises:
            IndexError: there is none.
        """
        found = self.first()
        if found is None:
            raise IndexError("an empty frontier has no likeliest node")
        self.drop_first()
        return found

    def drop_first(self) -> None:
        """Take away what `first` has just returned."""
        _, _, rank, parent, brood = self._heap[0]
        if brood is not None:
            leave_out = self._leave_out
            for path_cost, key, token, _ in brood.ranked[rank + 1 :]:
                rank += 1
                if token not in leave_out:
                    heapq.heapreplace(self._heap, (path_cost, key, rank, parent, brood))
                    return
        heapq.heappop(self._heap)

    def _sweep(self) -> None:
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[3].alive]
            heapq.heapify(self._heap)
            self._sweep_at = 2 * len(self._heap) + _SWEEP


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

    def forwarded(self, nodes: int, duration: int) -> None:
        """A forward on so many nodes took so long (ns)."""
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
        while len(chosen) < self.branches and (node := frontier.first()) is not None and within(node):
            chosen.append(node)
            frontier.drop_first()
        return chosen

    def forwarded(self, nodes: int, duration: int) -> None:
        """See `Expansion.forwarded`: a fixed width learns nothing."""


@dataclass(slots=True)
class ForwardCost:
    """Duration of a drafter forward as a straight line in its nodes: least squares over the recent forwards."""

    memory: float = 0.99
    """Weight of a forward, one forward later."""
    prior: float = 0.25
    """What a further node is taken to cost before anything was measured, as a share of a forward on one."""
    _weight: float = 0.0
    _nodes: float = 0.0
    _duration: float = 0.0
    _square: float = 0.0
    _product: float = 0.0

    def learn(self, nodes: int, duration: int) -> None:
        """One more measurement (ns)."""
        keep = self.memory
        self._weight = keep * self._weight + 1.0
        self._nodes = keep * self._nodes + nodes
        self._duration = keep * self._duration + duration
        self._square = keep * self._square + nodes * nodes
        self._product = keep * self._product + nodes * duration

    def line(self) -> tuple[float, float]:
        """What a forward costs before its first node, and what each node adds; in any unit."""
        if not self._duration:
            return 1.0 - self.prior, self.prior
        nodes, duration = self._nodes / self._weight, self._duration / self._weight
        # One forward's worth of the prior: forwards of one size say nothing about the slope.
        flat = duration / (1.0 - self.prior + self.prior * nodes)
        variance = self._square / self._weight - nodes * nodes
        covariance = self._product / self._weight - nodes * duration
        doubt = PRIOR_WEIGHT / self._weight
        slope = (covariance + doubt * self.prior * flat) / (variance + doubt)
        slope = min(max(slope, 0.0), duration / nodes)
        return duration - slope * nodes, slope


PRIOR_WEIGHT = 4.0


@dataclass(slots=True)
class MarginalGain:
    """As many branches as pay: a forward takes a further node if that adds to the chance of being right per time.

    What a node brings is the chance that it lies on the true path. A drafter that is unsure and whose forwards cost
    the same on one node as on many goes wide; one that is sure, or pays for every node, drafts a chain.
    """

    branches: int = 8
    width: int = 8
    max_cost: float = 6.0
    cost: ForwardCost = field(default_factory=ForwardCost)

    def choose(self, frontier: Frontier, within: Callable[[Node], bool]) -> list[Node]:
        """See `Expansion.choose`."""
        start, each = self.cost.line()
        chosen: list[Node] = []
        gain = 0.0
        while len(chosen) < self.branches and (node := frontier.first()) is not None and within(node):
            # Relative to the likeliest: where the tree began does not matter.
            chance = math.exp((chosen[0] if chosen else node).path_cost - node.path_cost)
            if chosen and chance * (start + each * len(chosen)) < gain * each:
                break
            gain += chance
            chosen.append(node)
            frontier.drop_first()
        return chosen

    def forwarded(self, nodes: int, duration: int) -> None:
        """See `Expansion.forwarded`."""
        self.cost.learn(nodes, duration)


def chain() -> BestFirst:
    """One candidate per node, one node per forward, as deep as the window allows."""
    return BestFirst(branches=1, width=1, max_cost=float("inf"))
