"""What one session's KV cache holds: a trunk and a tree of cached draft tokens.

Law 6: the KV is a cache of the log. A session's cache is asked to *follow* a log and to *place* an item's tokens; it
finds by itself what it already holds. Dropping any of it at any time costs time, never a fact.

Slots. A session numbers its tokens' places from 0: trunk token i lies in local slot i, draft tokens lie above the trunk
in any order. Attention does not care about the order, for keys carry their position; but a contiguous trunk can be
attended through a view. Local slots lie in the pages of a `PageTable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cloud_server.kv_pool import KvPool, PageTable
from cloud_server.prefix_index import Block, common_prefix, leave
from shared.step import StepItem


@dataclass(slots=True, eq=False)
class CachedNode:
    """A draft token whose K/V is held. Its place in the tree, parent and token, is its identity."""

    slot: int
    """Local."""
    children: dict[int, CachedNode] = field(default_factory=dict)


def walk(children: dict[int, CachedNode]) -> Iterator[CachedNode]:
    """All nodes below, parents first."""
    stack = list(children.values())
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())


@dataclass(slots=True)
class NodeRow:
    """A draft token to forward."""

    token: int
    position: int
    path: tuple[int, ...]
    """Local slots of its draft ancestors and, last, its own: what it sees above the trunk."""
    keys: list[int]
    """Under which its fact is wanted; several if the item names one (parent, token) twice."""


@dataclass(frozen=True, slots=True)
class Share:
    """One session's rows in a forward: trunk tokens `first` to `item.length` - 1, then draft tokens."""

    item: StepItem
    table: PageTable
    first: int
    nodes: list[NodeRow]

    @property
    def rows(self) -> int:
        return self.item.length - self.first + len(self.nodes)


class SessionCache:
    """What is held of one session. The caller serialises calls and forgets the cache if a forward fails."""

    __slots__ = ("_children", "_log", "_trunk", "blocks", "ready", "table")

    def __init__(self) -> None:
        self.table = PageTable()
        self.ready = 0
        """Trunk tokens whose keys and values are there; those of the others come with the forward in the making."""
        self.blocks: list[Block] = []
        """Its place among the known beginnings; see `PrefixIndex`."""
        self._log: Sequence[int] = ()
        self._trunk: list[int] = []
        self._children: dict[int, CachedNode] = {}

    @property
    def trunk(self) -> Sequence[int]:
        """The tokens of the log that are held."""
        return self._trunk

    @property
    def length(self) -> int:
        """Trunk tokens held."""
        return len(self._trunk)

    @property
    def draft_nodes(self) -> int:
        """Draft tokens held."""
        return sum(1 for _ in walk(self._children))

    def place(self, item: StepItem, pool: KvPool) -> Share:
        """Follow the item's log, find its nodes again and give a slot to each token that is to be forwarded.

        The tokens count as held from here on: the forward must follow, or the cache be dropped.

        Raises:
            PoolFullError: the pool is too full. Calling again is fine, also with more or less held by then.
        """
        self.follow(item.log, item.length, pool)
        found = self._find(item)
        new = len({id(node) for node, is_new in found if is_new})
        if self.table.capacity < item.length + self.draft_nodes + new:
            # Nodes that are merely not asked about may still be committed: they stay while that needs no page.
            self._keep_only({id(node) for node, _ in found})
        pool.grow(self.table, item.length + self.draft_nodes + new)
        first = min(self.length, item.length - 1) if item.end_key is not None else self.length
        self._trunk.extend(item.log[self.length : item.length])
        return Share(item, self.table, first, self._rows(item, found))

    def follow(self, log: Sequence[int], length: int, pool: KvPool) -> None:
        """Make the trunk the longest prefix of log[:length] that is held, draft tokens included."""
        held = self._common_prefix(log, length)
        self._log = log
        self.cut(held)
        source: list[int] = []
        base = held
        while self.length < length and (node := self._children.get(log[self.length])) is not None:
            self._trunk.append(log[self.length])
            source.append(node.slot)
            self._children = node.children
        if self.length < length:
            self._children = {}  # the log went another way: all dead
        target = list(range(base, self.length))
        if source:
            self._make_way(source, target)
        if source != target:
            pool.queue_move(
                self.table.to_global(np.array(source, dtype=np.int64)),
                self.table.to_global(np.array(target, dtype=np.int64)),
            )
        self.ready = self.length

    def cut(self, length: int) -> None:
        """Hold no more than the first `length` tokens of the trunk; drafts only if that is all of it."""
        if length < self.length:
            leave(self, length)
            del self._trunk[length:]
            self._children = {}
            self.ready = min(self.ready, length)

    def rest(self, pool: KvPool) -> None:
        """The session is over: only the trunk, on no more pages than it needs, may be of use to another."""
        self._children = {}
        self._log = ()
        pool.shrink(self.table, self.length)

    def extend(self, tokens: Sequence[int], pool: KvPool) -> None:
        """Hold these tokens behind the trunk, with keys and values that the caller puts there. Drafts are forgotten.

        Raises:
            PoolFullError: the pool is too full; nothing has been changed.
        """
        pool.grow(self.table, self.length + len(tokens))
        self._trunk.extend(tokens)
        self._children = {}
        self.ready = self.length

    def _make_way(self, source: list[int], target: list[int]) -> None:
        """Give draft tokens that lie where the trunk now is another slot; append their moves."""
        living = list(walk(self._children))
        used = {node.slot for node in living}
        free = iter(slot for slot in range(self.length, self.table.capacity) if slot not in used)
        for node in living:
            if node.slot < self.length:
                source.append(node.slot)
                node.slot = next(free)
                target.append(node.slot)

    def _common_prefix(self, log: Sequence[int], length: int) -> int:
        most = min(self.length, length)
        # The log is append-only, so what was compared once stays equal.
        return most if log is self._log else common_prefix(self._trunk, log, most)

    def _find(self, item: StepItem) -> list[tuple[CachedNode, bool]]:
        """For each of the item's nodes the cached one, or a new one outside the tree; and whether it is new."""
        # A node whose trunk is not held yet is new whatever the tree holds; the tree is empty then (`_follow`).
        found: list[tuple[CachedNode, bool]] = []
        fresh: dict[tuple[int, int], CachedNode] = {}
        root = CachedNode(-1, self._children)
        for node in item.nodes:
            parent = root if node.parent < 0 else found[node.parent][0]
            known = parent.children.get(node.token)
            if known is not None:
                found.append((known, False))
                continue
            found.append((fresh.setdefault((id(parent), node.token), CachedNode(-1)), True))
        return found

    def _keep_only(self, kept: set[int]) -> None:
        """Drop all draft tokens that are neither kept nor an ancestor of a kept one (an item names all ancestors)."""
        for children in [
            self._children,
            *(node.children for node in walk(self._children) if id(node) in kept),
        ]:
            for token in [token for token, node in children.items() if id(node) not in kept]:
                del children[token]

    def _rows(self, item: StepItem, found: list[tuple[CachedNode, bool]]) -> list[NodeRow]:
        used = {node.slot for node in walk(self._children)}
        free = iter(slot for slot in range(item.length, self.table.capacity) if slot not in used)
        rows: dict[int, NodeRow] = {}
        paths: list[tuple[int, ...]] = []
        for node, (cached, is_new) in zip(item.nodes, found, strict=True):
            above = () if node.parent < 0 else paths[node.parent]
            if cached.slot < 0:
                cached.slot = next(free)
                siblings = self._children if node.parent < 0 else found[node.parent][0].children
                siblings[node.token] = cached
            paths.append((*above, cached.slot))
            if is_new or node.wanted:
                row = rows.get(id(cached))
                if row is None:
                    row = NodeRow(node.token, item.length + len(above), paths[-1], [])
                    rows[id(cached)] = row
                if node.wanted:
                    row.keys.append(node.key)
        return list(rows.values())
