"""Attention for a ragged row of many sessions' tokens, as a transformers attention function.

A step is one row [1, T]. Each layer writes the new keys and values into the pool, then every session's tokens attend
to that session's slots: through a view where its pages are contiguous, else (and on CUDA, where a launch costs more
than a copy) gathered with padding. The query heads of a group are folded into rows, so that keys are never repeated.
A draft token sees the trunk, its own ancestors and itself: tree attention (Miao et al. 2023, arXiv 2305.09781).

Shapes: T rows, H query heads, N key/value heads, G = H / N, D key size, E value size, L slots attended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FOLD_ROWS = 64
"""Up to so many rows of a session the heads of a group share one product; a longer chunk takes them in turn, so that
its mask is not repeated G times."""


@dataclass(frozen=True, slots=True)
class ViewBlock:
    """One session with contiguous slots."""

    rows: int
    keys: Sequence[Tensor]
    """Per layer [1, N, L, D], a view of the pool."""
    values: Sequence[Tensor]
    """Per layer [1, N, L, E]."""
    mask: Tensor | None
    """[rows * G, L] added to the scores ([rows, L] for a long chunk); None: every row sees all L."""


@dataclass(frozen=True, slots=True)
class PaddedBlock:
    """B sessions, padded to t rows and L slots."""

    rows: int
    """Without padding."""
    sessions: int
    slots: Tensor
    """[B * L] global slots; padding repeats a slot in use."""
    pad: Tensor
    """[B * t] row of the block that stands at each padded place; padding repeats a session's first."""
    unpad: Tensor
    """[rows] padded place of each row."""
    mask: Tensor
    """[B, 1, t * G, L] added to the scores."""


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """All that attention needs to know about a forward; made once, used by every layer."""

    pool_keys: Sequence[Tensor]
    """Per layer [N, slots, D]."""
    pool_values: Sequence[Tensor]
    slots: Tensor
    """[T] global slot of each row's own key and value."""
    blocks: Sequence[ViewBlock | PaddedBlock]
    """In the order of their rows."""


def ragged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  transformers builds none for a function it does not know
    *,
    ragged: RaggedBatch,
    scaling: float | None = None,
    **ignored: object,  # noqa: ARG001
) -> tuple[Tensor, None]:
    """Query [1, H, T, D], key [1, N, T, D] and value [1, N, T, E] to [1, T, H, E].

    Arguments that would change the result (soft caps, sinks, windows) are refused when the model is loaded.
    """
    layer = cast("int", module.layer_idx)
    _, heads, total, size = query.shape
    kv_heads = key.shape[1]
    by_row = query.view(kv_heads, heads // kv_heads, total, size).transpose(1, 2)
    out = attend(by_row.reshape(1, kv_heads, -1, size), key[0], value[0], layer, scaling, ragged)
    return out.view(1, kv_heads, total, heads // kv_heads, -1).transpose(1, 2).flatten(2, 3), None


def attend(
    query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float | None, ragged: RaggedBatch
) -> Tensor:
    """Query [1, N, T * G, D], the G heads of a row next to each other; key [N, T, D] and value [N, T, E], which go into
    the pool; to [1, N, T * G, E].
    """
    ragged.pool_keys[layer].index_copy_(1, ragged.slots, key)
    ragged.pool_values[layer].index_copy_(1, ragged.slots, value)
    group = query.shape[2] // key.shape[1]
    if len(ragged.blocks) == 1:
        return _attend_block(ragged.blocks[0], layer, query, group, scale, ragged)
    parts = query.split([block.rows * group for block in ragged.blocks], dim=2)
    outs = [
        _attend_block(block, layer, part, group, scale, ragged)
        for block, part in zip(ragged.blocks, parts, strict=True)
    ]
    return torch.cat(outs, dim=2)


def _attend_block(
    block: ViewBlock | PaddedBlock,
    layer: int,
    query: Tensor,
    group: int,
    scale: float | None,
    ragged: RaggedBatch,
) -> Tensor:
    """Query [1, N, rows * G, D], the G heads of a row next to each other, to [1, N, rows * G, E]."""
    if isinstance(block, PaddedBlock):
        return _attend_padded(block, query, ragged.pool_keys[layer], ragged.pool_values[layer], group, scale)
    keys, values, mask = block.keys[layer], block.values[layer], block.mask
    if mask is None or block.rows <= FOLD_ROWS:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    by_head = query.view(1, query.shape[1], block.rows, group, -1).unbind(3)
    outs = [scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale) for q in by_head]
    return torch.stack(outs, dim=3).flatten(2, 3)


def _attend_padded(
    block: PaddedBlock, query: Tensor, keys: Tensor, values: Tensor, group: int, scale: float | None
) -> Tensor:
    kv_heads, sessions = keys.shape[0], block.sessions
    rows = query.view(kv_heads, block.rows, -1).index_select(1, block.pad)
    out = scaled_dot_product_attention(
        rows.view(kv_heads, sessions, -1, query.shape[-1]).transpose(0, 1),
        keys.index_select(1, block.slots).view(kv_heads, sessions, -1, keys.shape[-1]).transpose(0, 1),
        values.index_select(1, block.slots).view(kv_heads, sessions, -1, values.shape[-1]).transpose(0, 1),
        attn_mask=block.mask,
        scale=scale,
    )
    flat = out.transpose(0, 1).reshape(kv_heads, len(block.pad), -1)
    return flat.index_select(1, block.unpad).view(1, kv_heads, block.rows * group, -1)
