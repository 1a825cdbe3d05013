"""Drafting: what of the edge's tree is forwarded next, and what is sent next.

Both are asked of two frontiers over one tree, likeliest first: nodes that no forward has gone to, and nodes that were
not sent on this stream. Law 5 makes this simple: what has died meanwhile falls out by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

from shared.messages import Limits
from shared.policy.agreement import Agreement
from shared.policy.expansion import Candidate, Expansion, Frontier
from shared.policy.pacing import Pacing
from shared.session.brood import Brood
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
        self._frontier = Frontier(leave_out=log.stop_tokens)  # nothing follows a stop token
        self._frontier.push(tree.root)
        self._pending = Frontier()
        self._broods: dict[int, Brood] = {}
        """By the key of their parent, a live node or the end."""
        self._forwarded: set[int] = set()
        """Keys of live nodes that are in a forward, or were."""

    # ---- the tree grows and is pruned ----

    def adopt(self, node: Node, candidates: Sequence[Candidate]) -> int:
        """A forward's candidates hang below a live node, each when its turn comes; returns how many they are."""
        found = candidates[: self._expansion.width if self._expansion is not None else 0]
        claims = dict(found)
        if len(claims) < len(found):  # a drafter may repeat itself: what it said first counts
            first = dict(reversed(found))
            claims = {token: first[token] for token in claims}
        costs = self._agreement.costs(tuple(claims.values()))
        brood = self._broods[node.key] = Brood(self._tree, node, claims, costs)
        self._pending.push_brood(brood)
        self._frontier.push_brood(brood)
        return brood.left

    def judge(self, token: int) -> None:
        """The target draws this token next: what the drafter said of it and of the others is now known."""
        brood = self._broods.get(self._tree.root.key)
        if brood is None:
            return
        self._agreement.judged((claim, one == token) for one, claim in brood.claims.items())
        brood.make(token)

    def moved(self, before: int) -> None:
        """The end is another one than that with the key `before`."""
        self._drop(before)
        # Perhaps no draft foresaw it, or it was of use as an ancestor only.
        if self._tree.root.key not in self._forwarded:
            self._frontier.push(self._tree.root)

    def forget(self, nodes: Iterable[Node]) -> None:
        """These nodes are dead."""
        for node in nodes:
            if node.key in self._forwarded:  # else it has no children
                self._drop(node.key)

    def clear(self) -> None:
        """Nothing is drafted any more: the tree was cleared."""
        self._drop(self._tree.root.key)

    def _drop(self, key: int) -> None:
        self._forwarded.discard(key)
        brood = self._broods.pop(key, None)
        if brood is not None:
            self._tree.release(brood.left)

    def reopened(self) -> None:
        """A new stream: nothing has been sent on it."""
        self._pending = Frontier()
        for brood in self._broods.values():
            self._pending.push_brood(brood)

    # ---- what goes out ----

    def may_expand(self, limits: Limits) -> bool:
        """Whether any node is worth a forward."""
        if self._expansion is None:
            return False
        node = self._frontier.first()
        return node is not None and self._within(self._expansion, limits)(node)

    def next_forward(self, limits: Limits) -> list[Node]:
        """The nodes of the next forward, none if nothing is worth one."""
        if self._expansion is None:
            return []
        nodes = self._expansion.choose(self._frontier, self._within(self._expansion, limits))
        self._forwarded.update([node.key for node in nodes])
        return nodes

    def path(self, node: Node) -> tuple[int, ...]:
        """The tokens from the end of the log down to a live node; empty for the end itself."""
        tokens: list[int] = []
        root = self._tree.root
        while node is not root:
            tokens.append(node.token)
            if node.parent is None:
                raise ValueError(f"{node} does not hang from the end")
            node = node.parent
        return tuple(reversed(tokens))

    def next_message(self, uplink: Uplink, room: int, limits: Limits, now: int) -> list[Node]:
        """The likeliest nodes that can still matter when they arrive, and the ancestors that they hang from."""
        if self._expansion is None:
            return []
        room = min(room, limits.max_nodes_per_message, self._pacing.room(now))
        past = len(self._log) - 1 + self._pacing.steps_ahead(now)
        cost, max_cost = self._tree.root.path_cost, self._expansion.max_cost
        deepest = self._tree.root.position + limits.max_depth
        nodes: dict[int, Node] = {}
        pending, sent = self._pending, uplink.sent
        while (node := pending.first()) is not None:
            if node.path_cost - cost > max_cost or node.position > deepest:
                break  # out of reach, as what follows is less likely still
            # A node that the log will have passed is of use as an ancestor only: it goes with its first descendant.
            if node.position > past and node.key not in sent and node.key not in nodes:
                path = self._unsent(node, nodes, sent)
                if len(nodes) + len(path) > room:
                    if not nodes and room > 0:
                        # A path longer than a message begins in this one, from the top.
                        nodes = {one.key: one for one in path[-room:]}
                    break
                for one in path:
                    nodes[one.key] = one
            pending.drop_first()
        return list(nodes.values())

    def _unsent(self, node: Node, chosen: Container[int], sent: Container[int]) -> list[Node]:
        """The node, and those above it that are neither chosen nor sent."""
        path: list[Node] = []
        root = self._tree.root
        while node is not root and node.key not in chosen and node.key not in sent:
            path.append(node)
            if node.parent is None:
                raise ValueError(f"{node} does not hang from the end")
            node = node.parent
        return path

    def _within(self, expansion: Expansion, limits: Limits) -> Callable[[Node], bool]:
        """Whether a forward on a node can lead to a commit."""
        root = self._tree.root
        cost, max_cost = root.path_cost, expansion.max_cost
        beyond = min(self._log.limit - 1, self._context, root.position + limits.max_depth)
        return lambda node: node.path_cost - cost <= max_cost and node.position < beyond
