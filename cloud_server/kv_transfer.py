"""From a session's cache to a state and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cloud_server.kv_cache import SessionCache
from cloud_server.kv_pool import KvPool, KvShape, PoolFullError
from cloud_server.kv_sessions import SessionCaches
from cloud_server.kv_state import Bytes, KvState, StateKind, pack_state, unpack_state
from cloud_server.prefix_index import common_prefix
from cloud_server.worker import StateError


def kind_of(model_fingerprint: str, shape: KvShape) -> StateKind:
    """What states of a model with such keys and values are."""
    dtype = str(shape.dtype).removeprefix("torch.")
    return StateKind(
        model_fingerprint,
        dtype,
        shape.dtype.itemsize,
        shape.layers,
        shape.heads,
        shape.key_dim,
        shape.value_dim,
    )


def export_kv(kind: StateKind, cache: SessionCache, pool: KvPool) -> bytes:
    """The state of a cache that holds at least one token. Draft tokens stay behind."""
    keys, values = pool.read(cache.table, cache.length)
    return pack_state(kind, KvState(cache.trunk, _bytes_of(keys), _bytes_of(values)))


def import_kv(kind: StateKind, caches: SessionCaches, session: int, log: Sequence[int], state: bytes) -> int:
    """Have a session hold what a state has of this log and its own cache has not; returns the tokens held then.

    Raises:
        StateError: the state cannot be used, or there is no room for it. The session holds what it held.
    """
    found = unpack_state(kind, state)
    length = common_prefix(found.tokens, log, min(len(found.tokens), len(log)))
    if not length:
        return 0
    cache, pool = caches.use(session), caches.pool
    cache.follow(log, len(log), pool)
    begin = cache.length
    if begin >= length:
        return begin
    while True:
        try:
            cache.extend(found.tokens[begin:length], pool)
            break
        except PoolFullError as full:
            if not caches.evict({session}):
                raise StateError(f"no room for a state of {length} tokens ({full})") from full
    keys, values = (
        _tensor_of(data, (kind.layers, kind.heads, len(found.tokens), size), pool.shape.dtype)
        for data, size in ((found.keys, kind.key_dim), (found.values, kind.value_dim))
    )
    pool.write(cache.table, begin, keys[:, :, begin:length], values[:, :, begin:length])
    caches.note(cache)
    return length


def _bytes_of(tensor: Tensor) -> Bytes:
    data: Bytes = tensor.view(-1).view(torch.uint8).numpy()
    return data


def _tensor_of(data: Bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    # torch has no tensors that cannot be written, and what was received cannot be: hence a copy.
    return torch.from_numpy(data.copy()).view(dtype).view(shape)
