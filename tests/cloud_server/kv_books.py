"""What must be true of a verifier's KV memory between any two steps."""

from __future__ import annotations

from cloud_server.kv_pool import EMPTY, IN_USE, PAGE_SLOTS
from cloud_server.prefix_index import BLOCK_TOKENS
from cloud_server.verifier import Verifier


def check_books(verifier: Verifier, limit_bytes: int | None = None) -> None:
    """Pages in use are those of the sessions' caches, kept ones those of kept caches, and no page is of two; nobody is
    known to hold what he does not hold."""
    pool, caches, counters = verifier.pool, verifier._caches, verifier.kv_counters
    used = [page for cache in caches for page in cache.table.pages]
    kept = [page for table in pool._kept for page in table.pages]
    assert len(set(used + kept)) == len(used) + len(kept), "a page has two owners"
    assert sorted(used) == [page for page in range(pool.pages) if pool._stamps[page] == IN_USE]
    assert sorted(kept) == [page for page in range(pool.pages) if EMPTY < pool._stamps[page] < IN_USE]
    assert sorted(kept) == sorted(pool._owners)
    assert (len(used), len(kept)) == (pool.pages - pool.free_pages, pool.kept_pages)
    assert all(pool._owners[page] is table for table in pool._kept for page in table.pages)

    tables = {cache.table: cache for cache in caches}
    known = holders(verifier)
    for cache in known:
        assert cache.table in tables or pool.keeps(cache.table), "somebody is known who is gone"
    tables |= {cache.table: cache for cache in known}
    for cache in tables.values():
        assert cache.ready == cache.length
        assert cache.table.capacity >= cache.length + cache.draft_nodes
        if pool.keeps(cache.table):
            assert len(cache.table.pages) == -(-cache.length // PAGE_SLOTS)
        tokens = [
            int.from_bytes(b.key[i : i + 4], "little") for b in cache.blocks for i in range(0, len(b.key), 4)
        ]
        assert tokens == list(cache.trunk[: len(tokens)])
        if verifier._caches._sharing:
            assert cache.length - len(tokens) < BLOCK_TOKENS

    assert counters.used_bytes == len(used) * pool.page_bytes
    assert counters.kept_bytes == len(kept) * pool.page_bytes
    assert counters.limit_bytes == pool.pages * pool.page_bytes == pool.keys.nbytes + pool.values.nbytes
    assert counters.sessions == len(list(caches))
    assert counters.kept == len(pool._kept)
    assert counters.used_bytes + counters.kept_bytes <= counters.limit_bytes
    if limit_bytes is not None:
        assert counters.limit_bytes <= limit_bytes


def holders(verifier: Verifier) -> list:
    """Everybody whom the index knows, each checked to be on the way to where he is."""
    found, stack = {}, [verifier._caches._index._root]
    while stack:
        block = stack.pop()
        for child in block.children.values():
            assert child.holders, "a beginning that nobody holds is still known"
            assert all(child in holder.blocks for holder in child.holders)
            found.update(child.holders)
            stack.append(child)
    return list(found)
