"""Beginnings are found as far as somebody holds them, and nothing stays behind of who is gone."""

from __future__ import annotations

import random

import pytest

from cloud_server import prefix_index
from cloud_server.prefix_index import BLOCK_TOKENS, PrefixIndex, common_prefix, leave


class Cache:
    """As much of a session's cache as the index looks at."""

    def __init__(self, tokens: list[int]) -> None:
        self.trunk = tokens
        self.blocks = []


def cached(index: PrefixIndex, tokens: list[int]) -> Cache:
    cache = Cache(tokens)
    index.enter(cache)
    return cache


def test_whole_blocks_are_found_and_the_youngest_holder_comes_first():
    index, stem = PrefixIndex(), list(range(2 * BLOCK_TOKENS))
    first = cached(index, [*stem, 7])
    second = cached(index, [*stem, 8])
    short = cached(index, stem[: BLOCK_TOKENS + 9])
    assert index.find([*stem, 1, 2, 3], 999, []) == ([second, first], 2 * BLOCK_TOKENS)
    assert index.find(stem, 2 * BLOCK_TOKENS - 1, []) == ([short, second, first], BLOCK_TOKENS)
    assert index.find([5, *stem], 999, []) == ([], 0)
    assert index.find(stem, 999, first.blocks) == ([], 0), "nothing beyond what it has itself"


def test_a_holder_that_grows_and_is_cut():
    index, tokens = PrefixIndex(), list(range(5 * BLOCK_TOKENS))
    cache = cached(index, tokens[: BLOCK_TOKENS - 1])
    assert index.empty
    cache.trunk = tokens
    index.enter(cache)
    assert len(cache.blocks) == 5
    leave(cache, 3 * BLOCK_TOKENS - 1)
    assert index.find(tokens, 999, []) == ([cache], 2 * BLOCK_TOKENS)
    leave(cache)
    assert index.empty


@pytest.mark.parametrize("seed", range(10))
def test_random_holders_against_brute_force(seed, monkeypatch):
    monkeypatch.setattr(prefix_index, "BLOCK_TOKENS", 4)
    rng, index, caches = random.Random(seed), PrefixIndex(), []
    for _ in range(200):
        chance = rng.random()
        if caches and chance < 0.25:
            leave(caches.pop(rng.randrange(len(caches))))
        elif caches and chance < 0.5:
            cache = rng.choice(caches)
            keep = rng.randrange(len(cache.trunk) + 1)
            leave(cache, keep)
            cache.trunk = [*cache.trunk[:keep], *rng.choices((0, 1), k=rng.randrange(12))]
            index.enter(cache)
        else:
            stem = rng.choice(caches).trunk if caches else []
            stem = stem[: rng.randrange(len(stem) + 1)]
            caches.append(cached(index, [*stem, *rng.choices((0, 1), k=rng.randrange(20))]))
        log = [*rng.choice([cache.trunk for cache in caches] or [[]]), 2]
        most = max((common_prefix(c.trunk, log, min(len(c.trunk), len(log))) // 4 for c in caches), default=0)
        holders, tokens = index.find(log, len(log), [])
        assert tokens == 4 * most
        assert all(cache.trunk[:tokens] == log[:tokens] for cache in holders)
        assert bool(holders) == (most > 0)
    for cache in caches:
        leave(cache)
    assert index.empty


def test_common_prefix_at_every_length():
    ours = list(range(150))
    for at in range(0, 150, 7):
        theirs = (*ours[:at], -1, *ours[at + 1 :])
        assert common_prefix(ours, theirs, 150) == at
        assert common_prefix(ours, theirs, at) == at
        assert common_prefix(ours, theirs, 150, begin=at // 2) == at
    assert common_prefix(ours, ours, 150) == 150
    assert common_prefix([], [], 0) == 0
