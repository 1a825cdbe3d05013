"""How much of what is pending goes into the next verify step (cloud)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.session.guesses import Guessed
from shared.session.tree import Node

STEPS_IN_FLIGHT = 4
"""A window covers a round trip, which is a few steps: advice counts the nodes of that many."""
MEASUREMENTS = 8
"""Steps before a measured slope is believed."""


@dataclass(frozen=True, slots=True)
class Pending:
    """One session's missing drafts, likeliest first, and what the cloud measured of its drafter."""

    session: int
    drafts: Sequence[Node]
    end: Node
    """The end of its log: costs and depths of the drafts count from here."""
    acceptance: float
    """Share of judged tokens that its drafts had right, as the cloud counted it; 0..1."""
    honesty: float
    """Judged tokens that its drafts had right for each that their costs claimed, as the cloud counted it; 0..1."""

    def chance(self, node: Node) -> float:
        """The chance that a draft lies on the true path: what its costs claim, taken down by what such claims were
        worth so far, once per token. A drafter that overstates itself only takes its own nodes out of the step.
        """
        depth = node.position - self.end.position
        return math.exp(self.end.path_cost - node.path_cost) * self.honesty**depth


@dataclass(frozen=True, slots=True)
class Expected:
    """What a session has in a step already, its end not counted."""

    nodes: int
    tokens: float
    """Their chances to lie on the true path, added up."""


class NodeBudget(Protocol):
    """Chooses the draft nodes of a step. Ends are no business of a budget: they all go first (law 4)."""

    def choose(self, ends: int, pending: Sequence[Pending]) -> list[list[Node]]:
        """For each session, the nodes that enter the step, parents before children."""
        ...

    def share(self, ends: int) -> int:
        """Drafts of one session beyond which a step with so many ends has no room."""
        ...

    def fill(
        self, ends: int, chosen: Sequence[Expected], guesses: Sequence[Sequence[Guessed]], room: int
    ) -> list[list[Node]]:
        """The cloud's own guesses that enter beside the `chosen` drafts, at most `room` in all: what is left over.

        They displace nobody's draft, whatever their chances. Parents before children.
        """
        ...

    def advice(self, sessions: int) -> int:
        """How many nodes in flight are worth it for one of `sessions` sessions."""
        ...

    def measured(self, tokens: int, duration_us: int) -> None:
        """A step that forwarded `tokens` tokens took that long."""
        ...


@dataclass(frozen=True, slots=True)
class FlatBudget:
    """A step costs the same up to `nodes` nodes and is not worth more: spare room is shared by likelihood.

    An edge's costs order nodes within its own session only. Between sessions the order is by what the cloud itself
    measured: a node at depth d of a session with acceptance a counts as a**d.
    """

    nodes: int = 128
    per_session: int = 64

    def choose(self, ends: int, pending: Sequence[Pending]) -> list[list[Node]]:
        """See `NodeBudget.choose`."""
        room = self.nodes - ends
        most = [min(len(one.drafts), self.per_session) for one in pending]
        if sum(most) <= room:
            return [list(one.drafts[:count]) for one, count in zip(pending, most, strict=True)]
        # The best next node of each session: room is far less than there are nodes.
        ranked = [(-rank_value(one.acceptance, 0), index) for index, one in enumerate(pending) if most[index]]
        heapq.heapify(ranked)
        counts = [0] * len(pending)
        for _ in range(max(room, 0)):
            if not ranked:
                break
            _, index = ranked[0]
            counts[index] += 1
            if counts[index] < most[index]:
                value = rank_value(pending[index].acceptance, counts[index])
                heapq.heapreplace(ranked, (-value, index))
            else:
                heapq.heappop(ranked)
        return [list(one.drafts[:count]) for one, count in zip(pending, counts, strict=True)]

    def share(self, ends: int) -> int:
        """See `NodeBudget.share`."""
        return max(0, min(self.per_session, self.nodes - ends))

    def fill(
        self, ends: int, chosen: Sequence[Expected], guesses: Sequence[Sequence[Guessed]], room: int
    ) -> list[list[Node]]:
        """See `NodeBudget.fill`. Between sessions the likelier guess goes first: its chance was measured here."""
        room = min(room, self.nodes - ends - sum(one.nodes for one in chosen))
        ranked = [
            (-guess.chance, index, rank)
            for index, (one, chain) in enumerate(zip(chosen, guesses, strict=True))
            for rank, guess in enumerate(chain[: max(0, self.per_session - one.nodes)])
        ]
        ranked.sort()  # within a chain the chances fall, so parents come first
        filled: list[list[Node]] = [[] for _ in chosen]
        for _, index, rank in ranked[: max(room, 0)]:
            filled[index].append(guesses[index][rank].node)
        return filled

    def advice(self, sessions: int) -> int:
        """See `NodeBudget.advice`."""
        return STEPS_IN_FLIGHT * max(1, min(self.per_session, self.nodes // max(sessions, 1)))

    def measured(self, tokens: int, duration_us: int) -> None:
        """See `NodeBudget.measured`: a flat step is believed to be flat."""


@dataclass(slots=True)
class StepCost:
    """Duration of a step as a straight line in its tokens: least squares over the recent steps."""

    memory: float = 0.99
    """Weight of a step, one step later."""
    _weight: float = 0.0
    _tokens: float = 0.0
    _duration: float = 0.0
    _square: float = 0.0
    _product: float = 0.0

    def learn(self, tokens: int, duration_us: int) -> None:
        """One more measurement."""
        keep = self.memory
        self._weight = keep * self._weight + 1.0
        self._tokens = keep * self._tokens + tokens
        self._duration = keep * self._duration + duration_us
        self._square = keep * self._square + tokens * tokens
        self._product = keep * self._product + tokens * duration_us

    @property
    def mean_us(self) -> float:
        """Average duration."""
        return self._duration / self._weight if self._weight else 0.0

    @property
    def per_token_us(self) -> float:
        """What one more token costs; 0 until steps of different sizes have been seen."""
        if self._weight < MEASUREMENTS:
            return 0.0
        mean = self._tokens / self._weight
        # Steps of one size say nothing about the slope: the added variance lets it sink to 0, so that larger steps
        # are tried again.
        variance = self._square / self._weight - mean * mean + 1.0
        covariance = self._product / self._weight - mean * self._duration / self._weight
        return max(0.0, covariance / variance)


@dataclass(slots=True)
class MeasuredBudget:
    """A node enters a step only if its expected gain exceeds its measured marginal cost.

    The gain of a node is the chance that it lies on the true path times the time that a token takes; the cost is
    what it adds to the step of everybody in it. While the step is flat that is every node; as the batch fills it is
    fewer and fewer, down to plain decoding.
    """

    nodes: int = 128
    per_session: int = 64
    cost: StepCost = field(default_factory=StepCost)

    def choose(self, ends: int, pending: Sequence[Pending]) -> list[list[Node]]:
        """See `NodeBudget.choose`."""
        chosen = FlatBudget(self.nodes, self.per_session).choose(ends, pending)
        toll = self.cost.per_token_us * ends
        return [self._worthwhile(nodes, one, toll) for nodes, one in zip(chosen, pending, strict=True)]

    def share(self, ends: int) -> int:
        """See `NodeBudget.share`."""
        return FlatBudget(self.nodes, self.per_session).share(ends)

    def fill(
        self, ends: int, chosen: Sequence[Expected], guesses: Sequence[Sequence[Guessed]], room: int
    ) -> list[list[Node]]:
        """See `NodeBudget.fill`."""
        toll = self.cost.per_token_us * ends
        worth = [
            self._worthwhile_guesses(chain, one, toll) for one, chain in zip(chosen, guesses, strict=True)
        ]
        return FlatBudget(self.nodes, self.per_session).fill(ends, chosen, worth, room)

    def advice(self, sessions: int) -> int:
        """See `NodeBudget.advice`."""
        return FlatBudget(self.nodes, self.per_session).advice(sessions)

    def measured(self, tokens: int, duration_us: int) -> None:
        """See `NodeBudget.measured`."""
        self.cost.learn(tokens, duration_us)

    def _worthwhile_guesses(self, chain: Sequence[Guessed], chosen: Expected, toll: float) -> list[Guessed]:
        expected, kept = 1.0 + chosen.tokens, []
        for guess in chain:
            if guess.chance * self.cost.mean_us / expected < toll:
                break
            expected += guess.chance
            kept.append(guess)
        return kept

    def _worthwhile(self, nodes: Sequence[Node], pending: Pending, toll: float) -> list[Node]:
        expected, kept = 1.0, []
        for node in nodes:  # parents first; a child's chance is below its parent's
            chance = pending.chance(node)
            if chance * self.cost.mean_us / expected < toll:
                break
            expected += chance
            kept.append(node)
        return kept


def rank_value(acceptance: float, rank: int) -> float:
    """Expected worth of a session's node by its rank in that session's own order."""
    return min(max(acceptance, 0.05), 0.99) ** (rank + 1)


@dataclass(frozen=True, slots=True)
class Due:
    """One session whose end goes into the next step, if there is room."""

    wanted: int
    """Since when (ns)."""
    session: int
    length: int
    """Of its log, tokens."""


class Batching(Protocol):
    """Chooses whose ends share a step where there are more than it takes."""

    def choose(self, due: Sequence[Due], most: int | None) -> list[int]:
        """At most `most` sessions (None: all), the one that has waited longest always among them (law 4)."""
        ...


@dataclass(frozen=True, slots=True)
class Fifo:
    """Who has waited longest."""

    def choose(self, due: Sequence[Due], most: int | None) -> list[int]:
        """See `Batching.choose`."""
        return [one.session for one in sorted(due, key=lambda one: (one.wanted, one.session))[:most]]


@dataclass(frozen=True, slots=True)
class LengthAware:
    """Who has waited longest, and those whose logs are about as long: a step pads to its longest log."""

    def choose(self, due: Sequence[Due], most: int | None) -> list[int]:
        """See `Batching.choose`."""
        if most is None or len(due) <= most:
            return Fifo().choose(due, most)
        oldest = min(due, key=lambda one: (one.wanted, one.session))

        def distance(one: Due) -> tuple[float, int, int]:
            return abs(math.log(one.length / oldest.length)), one.wanted, one.session

        chosen = sorted((one for one in due if one is not oldest), key=distance)[: max(0, most - 1)]
        return Fifo().choose([oldest, *chosen], None)
