"""How much of what is pending goes into the next verify step (cloud)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.policy.step_curve import StepCurve
from shared.session.guesses import Guessed
from shared.session.tree import Node

STEPS_IN_FLIGHT = 4
"""A window covers a round trip, which is a few steps: advice counts the nodes of that many."""
AHEAD = 16
"""Nodes in flight per step, by those that a step takes: siblings are sent along, and few of them are ever asked."""
LEAST_ADVICE = 2
"""Per step: enough to notice that there is room again."""
MARGIN = 1.15
"""What a node must bring by what it costs: for nothing gained, tokens would only come later and in larger lumps."""
TAKEN_SHARE = 0.05
"""What one step weighs in the average of what steps took."""


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
class MeasuredBudget:
    """A node enters a step only if its expected gain exceeds its measured marginal cost.

    The gain of a node is the chance that it lies on the true path, by what its session's tokens are expected to be
    anyway, times the duration of the step; the cost is what it adds to the step of everybody in it. While the step is
    flat that is every node; beyond its knee it is fewer and fewer, down to plain decoding. The likeliest node of all
    sessions goes first: where room is short, a session's tenth guess is worth less than another's second.
    """

    nodes: int = 128
    per_session: int = 64
    curve: StepCurve = field(default_factory=StepCurve)
    _taken: float = 64.0
    """Drafts per session in the recent steps."""

    def choose(self, ends: int, pending: Sequence[Pending]) -> list[list[Node]]:
        """See `NodeBudget.choose`."""

        def chance(session: int, rank: int) -> float | None:
            drafts = pending[session].drafts
            most = min(len(drafts), self.per_session)
            return pending[session].chance(drafts[rank]) if rank < most else None

        counts = self._admit(ends, ends, self.nodes - ends, [1.0] * len(pending), chance)
        if ends:
            self._taken += (sum(counts) / ends - self._taken) * TAKEN_SHARE
        return [list(one.drafts[:count]) for one, count in zip(pending, counts, strict=True)]

    def share(self, ends: int) -> int:
        """See `NodeBudget.share`."""
        return FlatBudget(self.nodes, self.per_session).share(ends)

    def fill(
        self, ends: int, chosen: Sequence[Expected], guesses: Sequence[Sequence[Guessed]], room: int
    ) -> list[list[Node]]:
        """See `NodeBudget.fill`."""

        def chance(session: int, rank: int) -> float | None:
            most = min(len(guesses[session]), self.per_session - chosen[session].nodes)
            return guesses[session][rank].chance if rank < most else None

        begun = ends + sum(one.nodes for one in chosen)
        room = min(room, self.nodes - begun)
        counts = self._admit(ends, begun, room, [1.0 + one.tokens for one in chosen], chance)
        return [[guess.node for guess in chain[:count]] for chain, count in zip(guesses, counts, strict=True)]

    def advice(self, sessions: int) -> int:
        """See `NodeBudget.advice`. Many more than a step takes: most of a tree dies unasked with each commit.

        It follows what steps took: where they have no room edges stop to send, and as soon as they have, it grows.
        """
        return STEPS_IN_FLIGHT * max(LEAST_ADVICE, min(self.per_session, round(AHEAD * self._taken)))

    def measured(self, tokens: int, duration_us: int) -> None:
        """See `NodeBudget.measured`."""
        self.curve.learn(tokens, duration_us)

    def _admit(
        self,
        ends: int,
        begun: int,
        room: int,
        expected: list[float],
        chance: Callable[[int, int], float | None],
    ) -> list[int]:
        """How many nodes of each session enter a step that has `begun` tokens.

        `expected` tokens of each session are changed; `chance` is of a session's node by its rank, None: no more.
        """
        hinge = self.curve.hinge
        # By a step without drafts: by what it has grown to, each node that went in would make the next one cheaper.
        plain_us = hinge.duration_us(ends)
        counts = [0] * len(expected)
        ranked: list[tuple[float, int, float]] = []

        def offer(session: int) -> None:
            found = chance(session, counts[session])
            if found is not None:
                heapq.heappush(ranked, (-found / expected[session], session, found))

        for session in range(len(expected)):
            offer(session)
        for total in range(begun, begun + max(room, 0)):
            if not ranked:
                break
            worth, session, found = heapq.heappop(ranked)
            if -worth * plain_us < MARGIN * hinge.next_us(total) * ends:
                break  # the next one is worth less
            counts[session] += 1
            expected[session] += found
            offer(session)
        return counts


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
