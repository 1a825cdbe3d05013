"""The candidates of one drafter forward, below one node: each becomes a node of the tree when its turn comes.

Most never do. A drafter names several candidates for a place; one of them is right, a few are forwarded or sent, and
the others die with the next commit. Until then they are numbers in a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.session.tree import DraftTree, Node

Ranked = tuple[float, int, int, float]
"""Path cost, key, token and cost (nats) of a candidate: compares as nodes are ranked, the older first among equals."""


class Brood:
    """Children to be of one node, their parent: they die with it, and when another node is the end."""

    __slots__ = ("_tree", "claims", "left", "made", "parent", "ranked")

    def __init__(
        self, tree: DraftTree, parent: Node, claims: Mapping[int, float], costs: Iterable[float]
    ) -> None:
        """`claims`: by token, the drafter's own cost; `costs`: in the same order, those of the nodes.

        Raises:
            ValueError: nothing can hang from `parent`.
        """
        self._tree = tree
        self.parent = parent
        self.claims = claims
        first, above = tree.reserve(parent, len(claims)), parent.path_cost
        self.ranked: list[Ranked] = [
            (cost + above, key, token, cost)
            for key, (token, cost) in enumerate(zip(claims, costs, strict=True), first)
        ]
        self.ranked.sort()
        """The likeliest first."""
        self.made: list[Node | None] = [None] * len(claims)
        """By rank, those that are nodes."""
        self.left = len(claims)
        """How many of them are no nodes yet."""

    def node(self, rank: int) -> Node:
        """The node of that rank, made now if it was not."""
        node = self.made[rank]
        if node is None:
            _, key, token, cost = self.ranked[rank]
            node = self.made[rank] = self._tree.add_reserved(self.parent, token, cost, key)
            self.left -= 1
        return node

    def make(self, token: int) -> None:
        """The candidate with this token is to be a node, if there is one."""
        if token in self.claims:
            self.node(next(rank for rank, one in enumerate(self.ranked) if one[2] == token))
