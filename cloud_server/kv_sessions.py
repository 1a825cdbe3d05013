"""All caches of one verifier: those of its sessions, and those that outlived theirs.

A session whose log begins like one that is known starts from that: keys and values depend on the tokens before them
and on nothing else (law 3). They are copied, so that every session's pages are its own: a copy is hundreds of times
cheaper than computing, tables stay contiguous, and whose page is whose needs no counting of references. Where the log
goes on exactly where a kept cache ends, that one is taken over as it is.

When memory runs short, what is kept goes first, then the session that was least recently asked about.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace

from cloud_server.kv_cache import SessionCache
from cloud_server.kv_counters import KvCounters
from cloud_server.kv_pool import KvPool, PoolFullError
from cloud_server.prefix_index import BLOCK_TOKENS, PrefixIndex, common_prefix, leave
from shared.step import StepItem


class SessionCaches:
    """The caches by session, and who can use whose. Not thread-safe, but `counters` may be read from anywhere."""

    def __init__(self, pool: KvPool, *, sharing: bool = True) -> None:
        """`sharing`: whether a session may start from what another one computed."""
        self.pool = pool
        self._sharing = sharing
        self._caches: dict[int, SessionCache] = {}
        """In order of use, the least recent first."""
        self._index = PrefixIndex()
        self._hits = self._reused = self._evictions = self._given_up = 0

    def __iter__(self) -> Iterator[SessionCache]:
        return iter(self._caches.values())

    @property
    def counters(self) -> KvCounters:
        """How things stand."""
        pool = self.pool
        used = pool.pages - pool.free_pages
        return KvCounters(
            sessions=len(self._caches),
            kept=pool.kept_tables,
            used_bytes=used * pool.page_bytes,
            kept_bytes=pool.kept_pages * pool.page_bytes,
            limit_bytes=pool.pages * pool.page_bytes,
            hits=self._hits,
            reused_tokens=self._reused,
            evictions=self._evictions,
            given_up=self._given_up,
        )

    def get(self, session: int) -> SessionCache | None:
        """The session's cache, if it has one."""
        return self._caches.get(session)

    def use(self, session: int) -> SessionCache:
        """The session's cache, a new one if it has none; the last to be evicted from now on."""
        cache = self._caches.pop(session, None) or SessionCache()
        self._caches[session] = cache
        return cache

    def note(self, cache: SessionCache) -> None:
        """The cache may have grown: others may start from it, as soon as it is ready."""
        if self._sharing and cache.length - len(cache.blocks) * BLOCK_TOKENS >= BLOCK_TOKENS:
            self._index.enter(cache)

    def reuse(self, item: StepItem, busy: AbstractSet[int]) -> StepItem | None:
        """Before an item is placed: give its session what others hold of its log, if that is more than it has.

        A prefill comes back asking for everything that is held by then, which may be more than its chunk. None: another
        session of the forward in the making, whose sessions are `busy`, is about to compute what this one could use, or
        is in the way: perform that forward and ask again.
        """
        cache = self._caches.get(item.session)
        if not self._sharing or not (
            item.prefill_only or cache is None or item.length - cache.length >= BLOCK_TOKENS
        ):
            return item
        cache = self.use(item.session)
        length = len(item.log) if item.prefill_only else item.length
        cache.follow(item.log, length, self.pool)
        self.note(cache)
        source, shared, blocks = self._find(item, length, cache)
        if busy and shared < blocks and blocks - cache.length >= BLOCK_TOKENS:
            return None
        if source is not None and shared > cache.length:
            gained = shared - cache.length
            if not self._continue(item.session, source, shared, busy):
                return None
            self._hits += 1
            self._reused += gained
        held = self._caches[item.session].length
        return replace(item, length=held) if item.prefill_only and held > item.length else item

    def end(self, session: int) -> None:
        """The session is over. Its cache is kept for others, unless these have all of it already."""
        cache = self._caches.pop(session, None)
        if cache is None:
            return
        cache.rest(self.pool)
        self.note(cache)
        if not cache.blocks or self._is_held_elsewhere(cache):
            self._drop(cache)
        else:
            self._keep(cache)

    def evict(self, spared: AbstractSet[int]) -> bool:
        """Drop the cache of the session that was least recently used, some spared. False: there is none."""
        victim = next((session for session in self._caches if session not in spared), None)
        if victim is None:
            return False
        self._drop(self._caches.pop(victim))
        self._evictions += 1
        return True

    def forget_all(self) -> None:
        """Hold nothing: neither of sessions nor for others."""
        for cache in self._caches.values():
            self.pool.release(cache.table)
        self._caches.clear()
        self.pool.drop_kept()
        self._index = PrefixIndex()

    # ---- what others hold ----

    def _find(self, item: StepItem, length: int, own: SessionCache) -> tuple[SessionCache | None, int, int]:
        """Who else holds most of log[:length], how many tokens of that are ready, and how many will be at least."""
        holders, blocks = self._index.find(item.log, length, own.blocks)
        best, most = None, 0
        for holder in holders:
            held = common_prefix(holder.trunk, item.log, min(length, holder.length), blocks)
            if min(held, holder.ready) > most:
                best, most = holder, min(held, holder.ready)
        return best, most, blocks

    def _continue(self, session: int, source: SessionCache, length: int, busy: AbstractSet[int]) -> bool:
        """Have the session hold `length` tokens of `source`. False: there is no room until the forward in the making is
        performed.
        """
        own, kept = self._caches[session], self.pool.keeps(source.table)
        owner = None if kept else next(key for key, cache in self._caches.items() if cache is source)
        if kept:
            self.pool.revive(source.table)  # or it might be given up for its own copy
            if length < source.length and self._copy(source, own, length):
                self._keep(source)
                return True
        while owner is not None and not self._copy(source, own, length):
            if not self.evict({session, owner} | busy):
                if busy:
                    return False
                del self._caches[owner]  # there is no room for both
                self._evictions += 1
                owner = None
        if owner is None:
            source.cut(length)
            source.rest(self.pool)
            self._drop(own)
            self._caches[session] = source
        return True

    def _copy(self, source: SessionCache, own: SessionCache, length: int) -> bool:
        begin = own.length
        try:
            own.extend(source.trunk[begin:length], self.pool)
        except PoolFullError:
            return False
        self.pool.copy(source.table, own.table, begin, length)
        self.note(own)
        return True

    def _is_held_elsewhere(self, cache: SessionCache) -> bool:
        """Whether another cache begins with the whole of this one; a kept one counts as used just now."""
        blocks = len(cache.blocks) * BLOCK_TOKENS
        for other in cache.blocks[-1].holders:
            most = min(cache.length, other.length)
            if other is not cache and common_prefix(other.trunk, cache.trunk, most, blocks) == cache.length:
                if self.pool.keeps(other.table):
                    self.pool.revive(other.table)
                    self._keep(other)
                return True
        return False

    def _keep(self, cache: SessionCache) -> None:
        self.pool.keep(cache.table, lambda: self._lost(cache))

    def _lost(self, cache: SessionCache) -> None:
        leave(cache)
        self._given_up += 1

    def _drop(self, cache: SessionCache) -> None:
        leave(cache)
        self.pool.release(cache.table)
