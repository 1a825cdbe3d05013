"""From sessions' shares of a step to the tensors of one ragged forward.

Everything is laid out on the CPU, in numpy, once per forward; a GPU gets it in one copy of indices and one of masks
per block, and no layer waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cloud_server.attention import FOLD_ROWS, PaddedBlock, RaggedBatch, ViewBlock
from cloud_server.kv_cache import KvPool, Share

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


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

    def __init__(self, pool: KvPool, *, group: int, context_length: int) -> None:
        self._pool = pool
        self._group = group
        self._last_position = context_length - 1
        self._keys = pool.keys.unbind(0)
        self._values = pool.values.unbind(0)
        self._views_are_cheap = pool.shape.device.type == "cpu"

    def build(self, shares: Sequence[Share]) -> Forward:
        """Shares of different sessions, each with at least one row."""
        viewed, groups = self._arranged(shares)
        ordered = [*viewed, *(share for group in groups for share in group)]
        rows, wanted, logit_rows = self._rows(ordered)
        plans = [_Padding.of(group) for group in groups]
        arrays = [*rows, np.array(logit_rows, dtype=np.int64)]
        arrays += [array for plan in plans for array in (plan.slots, plan.pad, plan.unpad)]
        sent = torch.from_numpy(np.concatenate(arrays)).to(self._pool.shape.device)
        tokens, positions, slots, kept, *indices = sent.split([len(array) for array in arrays])

        blocks: list[ViewBlock | PaddedBlock] = [self._view(share) for share in viewed]
        for index, plan in enumerate(plans):
            slots_of, pad, unpad = indices[3 * index : 3 * index + 3]
            mask = self._mask(plan.seen, fold=True).unsqueeze(1)
            blocks.append(PaddedBlock(len(unpad), len(plan.seen), slots_of, pad, unpad, mask))
        batch = RaggedBatch(self._keys, self._values, slots, blocks)
        return Forward(tokens.unsqueeze(0), positions.unsqueeze(0), kept, wanted, batch)

    def _arranged(self, shares: Sequence[Share]) -> tuple[list[Share], list[list[Share]]]:
        """Which sessions are attended through a view, and which are padded together. A long chunk is padded with
        nobody, for all would become as long.
        """
        short = [share for share in shares if share.rows <= FOLD_ROWS]
        alone = [share for share in shares if share.rows > FOLD_ROWS or len(short) == 1]
        by_view = [share for share in (shares if self._views_are_cheap else alone) if share.table.contiguous]
        rest = [share for share in shares if not any(share is viewed for viewed in by_view)]
        together = [share for share in rest if share.rows <= FOLD_ROWS]
        groups = [[share] for share in rest if share.rows > FOLD_ROWS]
        return by_view, [*groups, together] if together else groups

    def _rows(self, shares: Sequence[Share]) -> tuple[tuple[Int64, Int64, Int64], list[WantedRow], list[int]]:
        """Tokens, positions and global slots [T] of all rows; and what is wanted at which row."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[Int64] = []
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
            local = [*range(first, length), *(node.path[-1] for node in share.nodes)]
            slots.append(share.table.to_global(np.array(local, dtype=np.int64)))
        # No log reaches past the context, so a fact there is never used; but a learned position table ends there.
        place = np.minimum(np.array(positions, dtype=np.int64), self._last_position)
        return (np.array(tokens, dtype=np.int64), place, np.concatenate(slots)), wanted, at or [0]

    def _view(self, share: Share) -> ViewBlock:
        seen = visibility(share)
        begin, end = share.table.start, share.table.start + seen.shape[1]
        return ViewBlock(
            share.rows,
            self._pool.keys[:, None, :, begin:end].unbind(0),
            self._pool.values[:, None, :, begin:end].unbind(0),
            None if seen.all() else self._mask(seen, fold=share.rows <= FOLD_ROWS),
        )

    def _mask(self, seen: Bool, *, fold: bool) -> Tensor:
        """[..., rows, L] of what is seen to [..., rows * G (if folded), L] of what is added to the scores."""
        shape = self._pool.shape
        hidden = torch.from_numpy(~seen).to(shape.device)
        mask = torch.zeros(seen.shape, dtype=shape.dtype, device=shape.device).masked_fill_(
            hidden, -torch.inf
        )
        return mask.repeat_interleave(self._group, dim=-2) if fold else mask


def visibility(share: Share) -> Bool:
    """[rows, L]: which local slots each of a session's rows sees; L is one more than the highest slot seen."""
    length, trunk_rows = share.item.length, share.item.length - share.first
    width = max([length, *(slot + 1 for node in share.nodes for slot in node.path)])
    bound = np.full(share.rows, length)
    bound[:trunk_rows] = np.arange(share.first + 1, length + 1)
    seen: Bool = np.arange(width) < bound[:, None]
    for row, node in enumerate(share.nodes, trunk_rows):
        seen[row, list(node.path)] = True
    return seen


@dataclass(frozen=True, slots=True)
class _Padding:
    """How a group of B sessions is padded to t rows and L slots; see `PaddedBlock`."""

    slots: Int64
    pad: Int64
    unpad: Int64
    seen: Bool
    """[B, t, L]; a padded row sees what its session's first row sees, a padded slot is seen by none."""

    @classmethod
    def of(cls, shares: Sequence[Share]) -> _Padding:
        visible = [visibility(share) for share in shares]
        rows = max(seen.shape[0] for seen in visible)
        width = max(seen.shape[1] for seen in visible)
        everything = np.zeros((len(shares), rows, width), dtype=np.bool_)
        slots = np.zeros((len(shares), width), dtype=np.int64)
        pad = np.zeros((len(shares), rows), dtype=np.int64)
        unpad = []
        begin = 0
        for number, (share, seen) in enumerate(zip(shares, visible, strict=True)):
            count, wide = seen.shape
            slots[number, :wide] = np.arange(wide)
            slots[number] = share.table.to_global(slots[number])
            pad[number] = begin
            pad[number, :count] += np.arange(count)
            everything[number, :, :wide] = seen[0]
            everything[number, :count, :wide] = seen
            unpad.append(number * rows + np.arange(count))
            begin += count
        return cls(slots.ravel(), pad.ravel(), np.concatenate(unpad), everything)
