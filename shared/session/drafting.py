"""Drafting: what of the edge's tree is forwarded next, and what is sent next.

Both are asked of two frontiers over one tree, likeliest first: nodes that no forward has gone to, and nodes that were
not sent on this stream. Law 5 makes this simple: what has died meanwhile falls out by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.messages import Limits
from shared.policy.agreement import Agreement
from shared.policy.expansion import Candidate, Expansion, Frontier
from shared.policy.pacing import Pacing
from shared.session.log import TokenLog
from shared.session.tree import DraftTree, Node
from shared.session.uplink import Uplink


class Drafting:
    """The log and the tree are the session's: drafts are added to the tree here, and nowhere else."""

    def __init__(
        self,
        log: TokenLog,
        tree: DraftTree,
        *,
        expansion: Expansion | None,
        pacing: Pacing,
        agreement: Agreement,
        draft_context: int,
    ) -> None:
        self._log = log
        self._tree = tree
        self._expansion = expansion
        self._pacing = pacing
        self._agreement = agreement
        self._context = draft_context
        self._frontier = Frontier()
        self._frontier.push(tree.root)
        self._pending = Frontier()
        self._claims: dict[int, float] = {}  # node key -> the drafter's own cost of it

    # ---- the tree grows and is pruned ----

    def adopt(self, node: Node, candidates: Sequence[Candidate]) -> int:
        """Hang a forward's candidates below a live node; returns how many are new."""
        added = 0
        for candidate in candidates[: self._expansion.width if self._expansion is not None else 0]:
            if candidate.token in node.children:
                continue  # a drafter may repeat itself; the node is in both frontiers already
            child = self._tree.add(node, candidate.token, self._agreement.cost(candidate.cost))
            self._claims[child.key] = candidate.cost
            added += 1
            self._pending.push(child)
            if candidate.token not in self._log.stop_tokens:  # nothing follows a stop token
                self._frontier.push(child)
        return added

    def judge(self, token: int) -> None:
        """The target draws this token next: what the drafter said of it and of the others is now known."""
        children = self._tree.root.children.values()
        self._agreement.judged((self._claims[child.key], child.token == token) for child in children)

    def forget(self, nodes: Iterable[Node]) -> None:
        """These nodes are dead or part of the log now."""
        for node in nodes:
            self._claims.pop(node.key, None)

    def bare(self) -> None:
        """The end is one that no draft foresaw: it has been in no forward."""
        self._frontier.push(self._tree.root)

    def reopened(self) -> None:
        """A new stream: nothing has been sent on it."""
        self._pending = Frontier()
        for node in self._tree.nodes():
            self._pending.push(node)

    # ---- what goes out ----

    def may_expand(self, limits: Limits) -> bool:
        """Whether any node is worth a forward."""
        return (
            self._expansion is not None
            and bool(self._frontier)
            and self._within(self._frontier.peek(), limits)
        )

    def next_forward(self, limits: Limits) -> list[Node]:
        """The nodes of the next forward, none if nothing is worth one."""
        if self._expansion is None:
            return []
        return self._expansion.choose(self._frontier, lambda node: self._within(node, limits))

    def path(self, node: Node) -> tuple[int, ...]:
        """The tokens from the end of the log down to a live node; empty for the end itself."""
        tokens: list[int] = []
        while node is not self._tree.root:
            tokens.append(node.token)
            if node.parent is None:
                raise ValueError(f"{node} does not hang from the end")
            node = node.parent
        return tuple(reversed(tokens))

    def next_message(self, uplink: Uplink, room: int, limits: Limits, now: int) -> list[Node]:
        """The likeliest nodes that can still matter when they arrive, and the ancestors that they hang from."""
        room = min(room, limits.max_nodes_per_message, self._pacing.room(now))
        past = len(self._log) - 1 + self._pacing.steps_ahead(now)
        nodes: dict[int, Node] = {}
        while self._pending and self._worthwhile(self._pending.peek(), limits):
            node = self._pending.peek()
            path: list[Node] = []
            # A node that the log will have passed is of use as an ancestor only: it goes with its first descendant.
            if node.position > past:
                path = self._unsent(node, nodes, uplink)
                if len(nodes) + len(path) > room:
                    if (
                        not nodes and room > 0
                    ):  # a path longer than a message begins in this one, from the top
                        nodes = {one.key: one for one in path[-room:]}
                    break
            self._pending.pop()
            nodes.update((one.key, one) for one in path)
        return list(nodes.values())

    def _unsent(self, node: Node, chosen: dict[int, Node], uplink: Uplink) -> list[Node]:
        path: list[Node] = []
        while node is not self._tree.root and node.key not in chosen and not uplink.holds(node):
            path.append(node)
            if node.parent is None:
                raise ValueError(f"{node} does not hang from the end")
            node = node.parent
        return path

    def _worthwhile(self, node: Node, limits: Limits) -> bool:
        root = self._tree.root
        return (
            self._expansion is not None
            and node.path_cost - root.path_cost <= self._expansion.max_cost
            and node.position - root.position <= limits.max_depth
        )

    def _within(self, node: Node, limits: Limits) -> bool:
        """Whether a forward on the node can lead to a commit."""
        return (
            self._worthwhile(node, limits)
            and node.position + 1 < self._log.limit
            and node.position + 1 <= self._context
            and node.position - self._tree.root.position < limits.max_depth
        )
