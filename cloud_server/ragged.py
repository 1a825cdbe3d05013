"""From sessions' shares of a step to the tensors of one ragged forward.

Everything is laid out on the CPU, in numpy, once per forward; an accelerator gets all of it in one copy, makes the
masks of padded blocks itself, and no layer waits for the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cloud_server.attention import FOLD_ROWS, PaddedBlock, RaggedBatch, ViewBlock
from cloud_server.kv_cache import Share
from cloud_server.kv_pool import KvPool

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grouping:
    """When sessions are padded together. Costs are counted in row-slots, rows times slots attended."""

    overhead: int
    """What a block costs beside its row-slots. Also bounds what padding wastes: no more than this per session."""
    least: int
    """Fewer sessions are attended through views, one by one, if they can be."""
    most: int
    """A session with more slots is attended through a view if it can be: gathering them is a copy."""
    align: int
    """A padded block's slots are a multiple of this."""


ON_CPU: Final = Grouping(overhead=1 << 9, least=6, most=1 << 8, align=1)
ON_ACCELERATOR: Final = Grouping(overhead=1 << 13, least=2, most=1 << 62, align=16)
"""A launch costs more than a copy, and fused attention on CUDA copies a mask that is not aligned. Reasoned, not
measured: no accelerator was at hand."""


@dataclass(frozen=True, slots=True)
class WantedRow:
    """A row whose fact is wanted."""

    share: Share
    position: int
    """Index of the token that the fact names: one past the row's own."""
    keys: Sequence[int]


@dataclass(frozen=True, slots=True)
class Forward:
    """One ragged forward, ready for the model."""

    tokens: Tensor
    """[1, T]"""
    positions: Tensor
    """[1, T]"""
    logit_rows: Tensor
    """[R] rows whose logits are computed: those of `wanted`, in order; if none is, one row that nobody reads."""
    wanted: Sequence[WantedRow]
    batch: RaggedBatch


class ForwardBuilder:
    """Builds forwards over one pool for a model with `group` query heads per key/value head."""

    def __init__(self, pool: KvPool, *, group: int, context_length: int, portable: bool = False) -> None:
        """`portable`: arrange sessions as for an accelerator, whatever the device."""
        self._pool = pool
        self._group = group
        self._last_position = context_length - 1
        self._keys = pool.keys.unbind(0)
        self._values = pool.values.unbind(0)
        on_cpu = pool.shape.device.type == "cpu" and not portable
        self._grouping = ON_CPU if on_cpu else ON_ACCELERATOR

    def build(self, shares: Sequence[Share]) -> Forward:
        """Shares of different sessions, each with at least one row."""
        viewed, groups = arrange(shares, self._grouping)
        ordered = [*viewed, *(share for group in groups for share in group)]
        rows, wanted, logit_rows = self._rows(ordered)
        plans = [_Padding.of(group, self._grouping.align) for group in groups]
        arrays = [*rows, np.array(logit_rows, dtype=np.int64)]
        arrays += [array for plan in plans for array in plan.arrays]
        sent = _send(np.concatenate(arrays), self._pool.shape.device)
        tokens, positions, slots, kept, *indices = sent.split([len(array) for array in arrays])

        blocks: list[ViewBlock | PaddedBlock] = [self._view(share) for share in viewed]
        for index, plan in enumerate(plans):
            slots_of, pad, unpad, bounds, seen = indices[5 * index : 5 * index + 5]
            mask = self._padded_mask(plan, bounds, seen)
            blocks.append(PaddedBlock(len(unpad), plan.sessions, slots_of, pad, unpad, mask))
        batch = RaggedBatch(self._keys, self._values, slots, blocks)
        return Forward(tokens.unsqueeze(0), positions.unsqueeze(0), kept, wanted, batch)

    def _rows(self, shares: Sequence[Share]) -> tuple[tuple[Int64, Int64, Int64], list[WantedRow], list[int]]:
        """Tokens, positions and global slots [T] of all rows; and what is wanted at which row."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[WantedRow] = []
        at: list[int] = []
        for share in shares:
            item, first, length = share.item, share.first, share.item.length
            tokens += item.log[first:length]
            positions += range(first, length)
            if item.end_key is not None:
                at.append(len(tokens) - 1)
                wanted.append(WantedRow(share, length, (item.end_key,)))
            for node in share.nodes:
                tokens.append(node.token)
                positions.append(node.position)
                if node.keys:
                    at.append(len(tokens) - 1)
                    wanted.append(WantedRow(share, node.position + 1, node.keys))
            slots += _row_slots(share)
        # No log reaches past the context, so a fact there is never used; but a learned position table ends there.
        place = np.minimum(np.array(positions, dtype=np.int64), self._last_position)
        rows = np.array(tokens, dtype=np.int64), place, np.array(slots, dtype=np.int64)
        return rows, wanted, at or [0]

    def _view(self, share: Share) -> ViewBlock:
        seen = visibility(share)
        begin, end = share.table.start, share.table.start + seen.shape[1]
        return ViewBlock(
            share.rows,
            self._pool.keys[:, None, :, begin:end].unbind(0),
            self._pool.values[:, None, :, begin:end].unbind(0),
            None if seen.all() else self._mask(_send(~seen, self._pool.shape.device), share.rows),
        )

    def _mask(self, hidden: Tensor, rows: int) -> Tensor:
        """[rows, L] of what is hidden to [rows * G, L] of what is added to the scores; a long chunk is not folded."""
        shape = self._pool.shape
        mask = torch.zeros(hidden.shape, dtype=shape.dtype, device=shape.device)
        mask.masked_fill_(hidden, -torch.inf)
        return mask.repeat_interleave(self._group, dim=-2) if rows <= FOLD_ROWS else mask

    def _padded_mask(self, plan: _Padding, bounds: Tensor, seen: Tensor) -> Tensor:
        """[B, 1, t * G, L] of what is added to the scores."""
        shape, count = self._pool.shape, plan.sessions
        hidden = torch.arange(plan.width, device=shape.device) >= bounds.unsqueeze(1)
        hidden.view(-1).index_fill_(0, seen, 0)
        mask = torch.zeros(hidden.shape, dtype=shape.dtype, device=shape.device)
        mask.masked_fill_(hidden, -torch.inf)
        folded = mask.view(count, -1, 1, plan.width).expand(-1, -1, self._group, -1)
        return folded.reshape(count, 1, -1, plan.width)


def arrange(shares: Sequence[Share], grouping: Grouping) -> tuple[list[Share], list[list[Share]]]:
    """Which sessions are attended through a view, and which are padded together.

    Sessions of similar length go together: one joins a group if the padding costs less than a block of its own. A
    long chunk is padded with nobody, for all would become as long.
    """
    small = [share for share in shares if share.rows <= FOLD_ROWS and not _alone(share, grouping)]
    groups = [[share] for share in shares if share.rows > FOLD_ROWS or _alone(share, grouping)]
    groups += _by_length(small, grouping)
    viewed: list[Share] = []
    padded: list[list[Share]] = []
    for group in groups:
        scattered = [share for share in group if not share.table.contiguous]
        if len(group) >= grouping.least:
            padded.append(group)
            continue
        viewed += [share for share in group if share.table.contiguous]
        padded += [scattered] if scattered else []
    return viewed, padded


def _alone(share: Share, grouping: Grouping) -> bool:
    return share.table.contiguous and width_of(share) > grouping.most


def _by_length(shares: Sequence[Share], grouping: Grouping) -> Iterator[list[Share]]:
    """Groups of descending width, chosen greedily."""
    group: list[Share] = []
    widest = rows = 0
    for width, share in sorted(((width_of(share), share) for share in shares), key=lambda one: -one[0]):
        most = max(rows, share.rows)
        padding = widest * (most * (len(group) + 1) - rows * len(group))
        if group and padding > grouping.overhead + width * share.rows:
            yield group
            group = []
        if not group:
            widest, most = width, share.rows
        group.append(share)
        rows = most
    if group:
        yield group


def width_of(share: Share) -> int:
    """One more than the highest local slot that a session's rows see."""
    return max([share.item.length, *(1 + max(node.path) for node in share.nodes)])


def visibility(share: Share) -> Bool:
    """[rows, L]: which local slots each of a session's rows sees; L is one more than the highest slot seen."""
    seen: Bool = np.arange(width_of(share)) < _bounds(share)[:, None]
    for row, node in enumerate(share.nodes, share.item.length - share.first):
        seen[row, list(node.path)] = True
    return seen


def _bounds(share: Share) -> Int64:
    """[rows]: each row sees this many local slots from 0 on, and a draft token its path besides."""
    trunk = np.arange(share.first + 1, share.item.length + 1, dtype=np.int64)
    return np.concatenate([trunk, np.full(len(share.nodes), share.item.length, dtype=np.int64)])


def _row_slots(share: Share) -> list[int]:
    """[rows] global slots of the rows' own keys and values."""
    local = [*range(share.first, share.item.length), *(node.path[-1] for node in share.nodes)]
    if share.table.contiguous:
        start = share.table.start
        return [start + slot for slot in local]
    slots: list[int] = share.table.to_global(np.array(local, dtype=np.int64)).tolist()
    return slots


def _send(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """To the device; an accelerator reads pinned memory while the host goes on."""
    host = torch.from_numpy(array)
    if device.type == "cuda":
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)


@dataclass(frozen=True, slots=True)
class _Padding:
    """How a group of B sessions is padded to t rows and L slots; see `PaddedBlock`."""

    sessions: int
    width: int
    slots: Int64
    pad: Int64
    unpad: Int64
    bounds: Int64
    """[B * t]: a padded row sees what its session's first row sees, so that none sees nothing."""
    seen: Int64
    """Places in [B, t, L] that are seen beyond the bounds; a padded slot is seen by none."""

    @classmethod
    def of(cls, shares: Sequence[Share], align: int) -> _Padding:
        counts = np.array([share.rows for share in shares], dtype=np.int64)
        widths = np.array([width_of(share) for share in shares], dtype=np.int64)
        rows, width = int(counts.max()), -(-int(widths.max()) // align) * align
        own = np.arange(rows) < counts[:, None]
        row = np.where(own, np.arange(rows), 0)
        begins = np.cumsum(counts) - counts
        bounds = np.concatenate([_bounds(share) for share in shares])[begins[:, None] + row]
        return cls(
            sessions=len(shares),
            width=width,
            slots=_padded_slots(shares, widths, width).ravel(),
            pad=(begins[:, None] + row).ravel(),
            unpad=np.flatnonzero(own),
            bounds=bounds.ravel(),
            seen=np.array(_seen(shares, rows, width), dtype=np.int64),
        )

    @property
    def arrays(self) -> tuple[Int64, ...]:
        return self.slots, self.pad, self.unpad, self.bounds, self.seen


def _padded_slots(shares: Sequence[Share], widths: Int64, width: int) -> Int64:
    """[B, L] global slots; where a session has none left it is its first one, which holds numbers."""
    local = np.arange(width, dtype=np.int64)
    local = np.where(local < widths[:, None], local, 0)
    for number, share in enumerate(shares):
        local[number] = share.table.to_global(local[number])
    return local


def _seen(shares: Sequence[Share], rows: int, width: int) -> list[int]:
    """Places in [B, rows, width] at which draft tokens see their paths."""
    places: list[int] = []
    for number, share in enumerate(shares):
        trunk = share.item.length - share.first
        paths = [node.path for node in share.nodes]
        for row in range(rows):
            # A padded row is a copy of the first, which is a draft token's if no trunk token is forwarded.
            own = row if row < share.rows else 0
            if own >= trunk:
                begin = (number * rows + row) * width
                places += [begin + slot for slot in paths[own - trunk]]
    return places
