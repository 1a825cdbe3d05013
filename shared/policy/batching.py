"""How much of what is pending goes into the next verify step (cloud)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.session.tree import Node


@dataclass(frozen=True, slots=True)
class Pending:
    """One session's missing drafts, likeliest first, and what the cloud measured of its drafter."""

    session: int
    drafts: Sequence[Node]
    base_cost: float
    """`path_cost` of the end, in nats: subtract it to compare nodes."""
    acceptance: float
    """Share of judged tokens that its drafts had right, as the cloud counted it; 0..1."""


class NodeBudget(Protocol):
    """Chooses the draft nodes of a step. Ends are no business of a budget: they all go first (law 4)."""

    def choose(self, ends: int, pending: Sequence[Pending]) -> list[list[Node]]:
        """For each session, the nodes that enter the step, parents before children."""
        ...

    def advice(self, sessions: int) -> int:
        """How many nodes in flight are worth it for one of `sessions` sessions."""
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
        if sum(min(len(one.drafts), self.per_session) for one in pending) <= room:
            return [list(one.drafts[: self.per_session]) for one in pending]
        ranked = [
            (-rank_value(one.acceptance, rank), index, rank)
            for index, one in enumerate(pending)
            for rank in range(min(len(one.drafts), self.per_session))
        ]
        ranked.sort()
        counts = [0] * len(pending)
        for _, index, _ in ranked[: max(room, 0)]:
            counts[index] += 1
        return [list(one.drafts[:count]) for one, count in zip(pending, counts, strict=True)]

    def advice(self, sessions: int) -> int:
        """See `NodeBudget.advice`."""
        return max(1, min(self.per_session, self.nodes // max(sessions, 1)))


def rank_value(acceptance: float, rank: int) -> float:
    """Expected worth of a session's node by its rank in that session's own order."""
    return min(max(acceptance, 0.05), 0.99) ** (rank + 1)
