"""The drafts of one session whose facts are still to be asked for, in order, at a cost that does not grow with them.

Law 4: what a failed step owed is missing again. A node is put in when it is drafted and again when its step has
failed; whether it still counts is looked up when it is met, so that nothing has to be searched for.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Set as AbstractSet

from shared.session.tree import Node

SWEEP = 64
"""Entries up to which the list is not worth sweeping."""


class MissingNodes:
    """Nodes by likelihood: the lower path cost, then the older. Memory follows the live nodes."""

    __slots__ = ("_entries", "_in_flight", "_sweep_at")

    def __init__(self, in_flight: AbstractSet[int]) -> None:
        """`in_flight` is the session's own set of the keys that are asked for, read when a node is met."""
        self._entries: list[tuple[float, int, Node]] = []
        self._in_flight = in_flight
        self._sweep_at = SWEEP

    def add(self, node: Node) -> None:
        """The node's fact is missing. Its path cost must not change any more."""
        insort(self._entries, (node.path_cost, node.key, node))
        if len(self._entries) > self._sweep_at:
            self.first(len(self._entries))
            self._sweep_at = 2 * len(self._entries) + SWEEP

    def first(self, most: int) -> list[Node]:
        """The likeliest `most` nodes, parents before children."""
        entries, found = self._entries, list[Node]()
        met, before = 0, -1
        for _, key, node in entries:
            if len(found) == most:
                break
            met += 1
            # One that was given back before its older entry was met is there twice.
            if self._counts(node) and key != before:
                found.append(node)
                before = key
        if met > len(found):
            entries[:met] = [(node.path_cost, node.key, node) for node in found]
        return found

    def _counts(self, node: Node) -> bool:
        # A node without a parent has become the end.
        return (
            node.alive and node.parent is not None and node.fact is None and node.key not in self._in_flight
        )
