"""The KV cache of one verifier: a pool of pages, and per session a trunk and a tree of cached draft tokens.

Law 6: the KV is a cache of the log. A session's cache is asked to *follow* a log and to *place* an item's tokens; it
finds by itself what it already holds. Dropping any of it at any time costs time, never a fact.

Slots. A session numbers its tokens' places from 0: trunk token i lies in local slot i, draft tokens lie above the trunk
in any order. Attention does not care about the order, for keys carry their position; but a contiguous trunk can be
attended through a view. A page is a run of `PAGE_SLOTS` global slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from shared.errors import SlipstreamError, UserError
from shared.step import StepItem

Slots = npt.NDArray[np.int64]

PAGE_SLOTS = 64


class PoolFullError(SlipstreamError):
    """The pool has too few free pages; nothing has been changed."""


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one token's keys and values need, over all layers."""

    layers: int
    heads: int
    """Key/value heads."""
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        return self.layers * self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


@dataclass(slots=True)
class PageTable:
    """A session's pages, in the order of its local slots."""

    pages: list[int] = field(default_factory=list)
    contiguous: bool = True
    """Whether the pages follow each other in the pool, so that a view can be taken."""

    @property
    def capacity(self) -> int:
        """Local slots that the pages hold."""
        return len(self.pages) * PAGE_SLOTS

    @property
    def start(self) -> int:
        """Global slot of local slot 0; a contiguous table's slots all follow from it."""
        return self.pages[0] * PAGE_SLOTS if self.pages else 0

    def to_global(self, local: Slots) -> Slots:
        """Local slots to global ones, any shape."""
        if self.contiguous:
            return local + self.start
        return np.asarray(self.pages, dtype=np.int64)[local // PAGE_SLOTS] * PAGE_SLOTS + local % PAGE_SLOTS


class KvPool:
    """All sessions' keys and values, addressed by pages."""

    def __init__(self, shape: KvShape, *, limit_bytes: int, reserve_slots: int) -> None:
        """`reserve_slots`: what one session may grow to; new sessions are placed with that much room where there is.

        Raises:
            UserError: `limit_bytes` holds not even one page.
        """
        count = limit_bytes // (shape.token_bytes * PAGE_SLOTS)
        if count < 1:
            raise UserError(
                f"a KV cache of {limit_bytes} bytes holds no page of {PAGE_SLOTS} tokens: "
                f"give it at least {shape.token_bytes * PAGE_SLOTS} bytes"
            )
        self.shape = shape
        self._reserve_pages = -(-reserve_slots // PAGE_SLOTS)
        self._free = np.ones(count, dtype=np.bool_)
        self._pending: tuple[list[Slots], list[Slots]] = ([], [])
        slots = count * PAGE_SLOTS
        # Not zeroed: on a CPU the system gives memory to pages that are written, so a generous limit costs nothing.
        # Zeros would be needed if masked slots were read as 0 * NaN, so padded gathers point at slots in use instead.
        sizes = [(shape.layers, shape.heads, slots, dim) for dim in (shape.key_dim, shape.value_dim)]
        try:
            self.keys, self.values = (
                torch.empty(size, dtype=shape.dtype, device=shape.device) for size in sizes
            )
        except RuntimeError as error:  # torch has no error of its own for a host that is out of memory
            raise UserError(
                f"there is no memory for a KV cache of {limit_bytes >> 20} MB: give it less (--kv-cache-mb)"
            ) from error

    @property
    def pages(self) -> int:
        return len(self._free)

    @property
    def slots(self) -> int:
        """Tokens that the pool holds at most."""
        return len(self._free) * PAGE_SLOTS

    @property
    def free_pages(self) -> int:
        return int(np.count_nonzero(self._free))

    def grow(self, table: PageTable, slots: int) -> None:
        """Make `table` hold at least `slots` local slots, adjacent to what it has if possible.

        Raises:
            PoolFullError: too few free pages; the table is unchanged.
        """
        missing = -(-slots // PAGE_SLOTS) - len(table.pages)
        if missing <= 0:
            return
        if missing > self.free_pages:
            raise PoolFullError(f"{missing} pages wanted, {self.free_pages} free of {self.pages}")
        first = table.pages[-1] + 1 if table.pages else self._room_for_a_session(missing)
        pages = list(range(first, first + missing))
        if first + missing > self.pages or not self._free[first : first + missing].all():
            pages = [int(page) for page in np.flatnonzero(self._free)[:missing]]
        self._free[pages] = False
        table.pages += pages
        table.contiguous = table.pages == list(range(table.pages[0], table.pages[0] + len(table.pages)))

    def release(self, table: PageTable) -> None:
        """Take all of a table's pages back."""
        self.apply_moves()  # a queued move must not write into pages that are somebody else's by then
        self._free[table.pages] = True
        table.pages, table.contiguous = [], True

    def queue_move(self, source: Slots, target: Slots) -> None:
        """Copy K/V between global slots before the next forward. Moves of one session between two forwards form one
        permutation: all sources are read before any target is written.
        """
        self._pending[0].append(source)
        self._pending[1].append(target)

    def apply_moves(self) -> None:
        """Perform what `queue_move` has collected."""
        if not self._pending[0]:
            return
        ends = np.stack([np.concatenate(self._pending[0]), np.concatenate(self._pending[1])])
        self._pending = ([], [])
        source, target = torch.from_numpy(ends).to(self.shape.device)
        for store in (self.keys, self.values):
            store.index_copy_(2, target, store.index_select(2, source))

    def _room_for_a_session(self, pages: int) -> int:
        """First page of a place where a new session can grow: within the longest free run, as far behind the run's
        left neighbour as that one may grow itself, but no further than the middle.
        """
        edges = np.flatnonzero(np.diff(self._free, prepend=False, append=False))
        begins, ends = edges[::2], edges[1::2]
        longest = int(np.argmax(ends - begins))
        begin, length = int(begins[longest]), int(ends[longest] - begins[longest])
        gap = 0 if begin == 0 else min(self._reserve_pages, length // 2)
        return begin + max(0, min(gap, length - pages))


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

    __slots__ = ("_children", "_log", "_trunk", "table")

    def __init__(self) -> None:
        self.table = PageTable()
        self._log: Sequence[int] = ()
        self._trunk: list[int] = []
        self._children: dict[int, CachedNode] = {}

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
        self._follow(item.log, item.length, pool)
        found = self._find(item)
        new = len({id(node) for node, is_new in found if is_new})
        if self.table.capacity < item.length + self.draft_nodes + new:
            # Nodes that are merely not asked about may still be committed: they stay while that needs no page.
            self._keep_only({id(node) for node, _ in found})
        pool.grow(self.table, item.length + self.draft_nodes + new)
        first = min(self.length, item.length - 1) if item.end_key is not None else self.length
        self._trunk.extend(item.log[self.length : item.length])
        return Share(item, self.table, first, self._rows(item, found))

    def _follow(self, log: Sequence[int], length: int, pool: KvPool) -> None:
        """Make the trunk the longest prefix of log[:length] that is held, draft tokens included."""
        held = self._common_prefix(log, length)
        self._log = log
        if held < self.length:
            del self._trunk[held:]
            self._children = {}
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
        if log is self._log:  # append-only, so what was compared once stays equal
            return most
        for index, (ours, theirs) in enumerate(zip(self._trunk, log[:most], strict=False)):
            if ours != theirs:
                return index
        return most

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
