"""The draft tree and settling: the whole of accept, reject, correct and bonus.

A node is one guessed token hanging off the end of the log or off another node. A fact says which token the
target draws after a node. Everything else follows:

- a fact kills the children of its node that it contradicts, with their subtrees, at once;
- while the fact at the end is known, its token is committed and the child that carries it becomes the end.

The end itself is a node (the root); it stands for the last token of the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shared.session.log import TokenLog
from shared.step import Fact


class Node:
    """One draft token, or the end of the log. Owned and changed by its tree alone."""

    __slots__ = (
        "alive",
        "children",
        "claimed",
        "cost",
        "drafted",
        "fact",
        "key",
        "parent",
        "path_cost",
        "position",
        "token",
    )

    def __init__(
        self, key: int, token: int, parent: Node | None, position: int, cost: float, *, drafted: bool
    ) -> None:
        self.key = key
        """Unique within the tree and growing: a parent's key is smaller than its children's."""
        self.token = token
        self.parent = parent
        self.position = position
        """The log index that this token takes if it is committed."""
        self.cost = cost
        """Nats: -ln of the estimate that the target draws this token given its parent."""
        self.path_cost: float = cost + (parent.path_cost if parent is not None else 0.0)
        """Sum of the costs down from wherever the tree began: comparable within a tree only."""
        self.children: dict[int, Node] = {}
        self.fact: Fact | None = None
        self.claimed: float | None = None
        """The chance that its drafted children together claimed when the fact came; None: there were none to judge."""
        self.drafted = drafted
        """Whether an edge proposed it. One that the cloud only looked up is nobody's: it counts for no edge's limit and
        in no drafter's figures, and nothing drafted hangs from it (an edge names a parent by an id of its own)."""
        self.alive = True

    def __repr__(self) -> str:
        return f"Node(key={self.key}, token={self.token}, position={self.position}, alive={self.alive})"


class DraftTree:
    """The live nodes below the end of a log."""

    __slots__ = ("_next_key", "live", "looked_up", "reserved", "root")

    def __init__(self, log: TokenLog) -> None:
        self._next_key = 0
        self.root = Node(self._take_key(), log.tokens[-1], None, len(log) - 1, 0.0, drafted=True)
        self.live = 0
        """Number of live nodes, the end not counted."""
        self.looked_up = 0
        """How many of them no edge has proposed."""
        self.reserved = 0
        """Children of live nodes that may still be added with keys of their own."""

    def _take_key(self) -> int:
        self._next_key += 1
        return self._next_key - 1

    def reserve(self, parent: Node, count: int) -> int:
        """The first of so many keys, for children of a live node that are added later."""
        if not parent.alive:
            raise ValueError(f"{parent} is dead; nothing can hang from it")
        first = self._next_key
        self._next_key += count
        self.reserved += count
        return first

    def release(self, count: int) -> None:
        """So many of the reserved keys will not be used."""
        self.reserved -= count

    def add_reserved(self, parent: Node, token: int, cost: float, key: int) -> Node:
        """Hang a guess with a key of `reserve` below the live node for which it was reserved; each token once."""
        node = parent.children[token] = Node(key, token, parent, parent.position + 1, cost, drafted=True)
        self.live += 1
        self.reserved -= 1
        return node

    def add(self, parent: Node, token: int, cost: float, *, drafted: bool = True) -> Node:
        """Hang a guess below a live node; the same guess twice is one node."""
        if not parent.alive:
            raise ValueError(f"{parent} is dead; nothing can hang from it")
        if parent.fact is not None and parent.fact.token != token:
            raise ValueError(f"token {token} contradicts the fact after {parent}")
        known = parent.children.get(token)
        if known is not None:
            return known
        key, position = self._take_key(), parent.position + 1
        node = parent.children[token] = Node(key, token, parent, position, cost, drafted=drafted)
        self.live += 1
        self.looked_up += not drafted
        return node

    def adopt(self, node: Node, cost: float) -> None:
        """An edge proposes what the cloud had looked up: from now on it is a draft, at the edge's own cost."""
        if node.drafted:
            return
        node.drafted = True
        self.looked_up -= 1
        shift = cost - node.cost
        node.cost = cost
        below = [node]
        for one in below:  # grows while it is walked; nothing but looked-up nodes hangs below a looked-up one
            one.path_cost += shift
            below.extend(one.children.values())

    def learn(self, node: Node, fact: Fact) -> list[Node]:
        """Record the first fact at a live node; returns the nodes that it kills."""
        node.fact = fact
        node.claimed = _claim(node)
        killed: list[Node] = []
        for token in [token for token in node.children if token != fact.token]:
            killed += self._kill(node.children.pop(token))
        return killed

    def advance(self, token: int) -> tuple[Node | None, list[Node]]:
        """The end moves over `token`: returns the node that became the end (None: a bare end) and the killed."""
        old = self.root
        heir = old.children.pop(token, None)
        killed: list[Node] = []
        for child in old.children.values():
            killed += self._kill(child)
        old.children = {}
        old.alive = False
        if heir is None:
            self.root = Node(self._take_key(), token, None, old.position + 1, 0.0, drafted=True)
        else:
            heir.parent = None  # the path behind the end belongs to the log now
            self.live -= 1
            self.looked_up -= not heir.drafted
            self.root = heir
        return heir, killed

    def clear(self) -> list[Node]:
        """Kill every node below the end."""
        killed: list[Node] = []
        for child in self.root.children.values():
            killed += self._kill(child)
        self.root.children = {}
        return killed

    def nodes(self) -> Iterator[Node]:
        """All live nodes below the end, parents first."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def _kill(self, top: Node) -> list[Node]:
        killed = [top]
        for node in killed:  # grows while it is walked
            node.alive = False
            self.looked_up -= not node.drafted
            if node.children:
                killed.extend(node.children.values())
                node.children = {}
        self.live -= len(killed)
        return killed


@dataclass(slots=True)
class Settlement:
    """What settling did, in order."""

    tokens: list[int] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    promoted: list[Node] = field(default_factory=list)
    """Nodes that are now part of the log (the present end among them)."""
    killed: list[Node] = field(default_factory=list)
    judged: int = 0
    """Committed tokens for which a draft was at hand."""
    claimed: float = 0.0
    """How many of the judged tokens the drafts' costs said they would have right."""
    accepted: int = 0
    """Committed tokens that a draft had right."""
    looked_up: int = 0
    """Committed tokens that no draft had right, and that the cloud had looked up."""
    missed: bool = False
    """Whether the last of the tokens is one that the drafts at hand did not have."""


def follow(log: TokenLog, tree: DraftTree, token: int) -> tuple[Node | None, list[Node]]:
    """One round of settling: `token` is committed. Returns the node that became the end, if any, and the killed.

    Raises:
        ValueError: the log is closed.
    """
    log.append(token)
    heir, killed = tree.advance(token)
    return heir, killed if log.closed is None else [*killed, *tree.clear()]


def settle(log: TokenLog, tree: DraftTree) -> Settlement:
    """Commit what the known facts allow (design: "Settling"). Laws 1 and 2 live in this loop."""
    done = Settlement()
    while log.closed is None and tree.root.fact is not None:
        fact = tree.root.fact
        claimed = tree.root.claimed if tree.root.claimed is not None else _claim(tree.root)
        heir, killed = follow(log, tree, fact.token)
        done.tokens.append(fact.token)
        done.facts.append(fact)
        done.killed += killed
        done.missed = claimed is not None and (heir is None or not heir.drafted)
        if claimed is not None:
            done.judged += 1
            done.claimed += claimed
        if heir is not None:
            done.promoted.append(heir)
            done.accepted += heir.drafted
            done.looked_up += not heir.drafted
    if log.closed is not None:
        done.killed += tree.clear()
    return done


def likelihood(nodes: Iterable[Node], end: Node, honesty: float) -> float:
    """The chances of those that are alive to lie on the true path, by costs and by what costs were worth so far."""
    return sum(
        math.exp(end.path_cost - node.path_cost) * honesty ** (node.position - end.position)
        for node in nodes
        if node.alive and node is not end  # the end is no guess any more
    )


def _claim(node: Node) -> float | None:
    """What the drafts of a node's children claim; what was only looked up is in no drafter's figures."""
    costs = [child.cost for child in node.children.values() if child.drafted]
    return min(1.0, sum(math.exp(-cost) for cost in costs)) if costs else None
