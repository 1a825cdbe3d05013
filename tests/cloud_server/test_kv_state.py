"""A session's keys and values arrive at another worker as they left, or not at all."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cloud_server.kv_state import HEAD, VERSION, StateKind, pack_state, unpack_state
from cloud_server.model import load_model
from cloud_server.verifier import DRAFT_SLOTS
from cloud_server.worker import Movable, StateError
from tests.cloud_server.kv_books import check_books
from tests.cloud_server.tiny_target import (
    CONTEXT,
    Bench,
    Reference,
    chain,
    greatest_error,
    item,
    random_tokens,
    random_tree,
    save_tiny,
)

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def reference(folder) -> Reference:
    return Reference(folder)


@pytest.fixture
def make(folder) -> Callable[..., Bench]:
    def bench(dtype: str = "float32", **options: object) -> Bench:
        return Bench(load_model(folder, device="cpu", dtype=dtype), **options)

    return bench


def signed(data: bytes) -> bytes:
    """With its length and its checksum put right again."""
    body = bytearray(data[:-32])
    struct.pack_into("<Q", body, HEAD.size - 8, len(data))
    return bytes(body) + hashlib.sha256(body).digest()


def test_a_verifier_can_move_sessions(make):
    assert isinstance(make().verifier, Movable)


def test_a_session_goes_on_where_it_left(make, reference):
    here, there, rng = make(), make(), random.Random(1)
    log = random_tokens(rng, 100)
    here.do(item(log, random_tree(rng, 8), session=5))
    state = here.verifier.export_state(5)
    assert there.verifier.import_state(9, log, state) == 100
    items = [item([*log, 1], random_tree(rng, 6), session=9)]
    seen = there.do(*items)
    assert seen.outcome.items[0].computed <= 1 + 6
    assert greatest_error(seen, items, reference) < TOLERANCE
    assert there.verifier.export_state(9)[HEAD.size :] != state[HEAD.size :]
    assert here.verifier.export_state(5) == state, "whoever hands over loses nothing"
    for bench in (here, there):
        check_books(bench.verifier)


def test_keys_and_values_are_bit_for_bit_the_same(make):
    here, there, rng = make(), make(), random.Random(2)
    for session in range(3):  # so that pages are elsewhere in the two pools
        there.do(item(random_tokens(rng, 20), session=session))
    log = random_tokens(rng, 90)
    here.do(item(log, chain([1, 2]), session=5))
    state = here.verifier.export_state(5)
    there.verifier.import_state(5, log, state)
    assert there.verifier.export_state(5) == state


def test_a_scattered_session_is_exported_in_order(make, reference):
    here, there, rng = make(), make(), random.Random(3)
    log = random_tokens(rng, 150)
    here.do(item(log, session=1, length=60, end_key=None))
    (cache,) = here.verifier._caches
    blocker, pool = type(cache.table)(), here.verifier.pool
    pool.grow(blocker, 64)
    while blocker.start != cache.table.start + 64:
        pool.grow(blocker := type(cache.table)(), 64)
    here.do(item(log, session=1))
    assert not cache.table.contiguous
    there.verifier.import_state(1, log, here.verifier.export_state(1))
    items = [item([*log, 3], session=1)]
    seen = there.do(*items)
    assert seen.outcome.items[0].computed == 1
    assert greatest_error(seen, items, reference) < TOLERANCE


def test_bfloat16(make):
    here, there, log = make("bfloat16"), make("bfloat16"), random_tokens(random.Random(4), 70)
    fact = here.do(item([*log, 1], session=1)).outcome.items[0].facts
    assert there.verifier.import_state(1, [*log, 1], here.verifier.export_state(1)) == 71
    answer = there.do(item([*log, 1], session=1)).outcome.items[0]
    assert (answer.computed, answer.facts[0][1].token) == (1, fact[0][1].token)


@pytest.mark.parametrize("prefix_reuse", [True, False])
def test_only_what_the_log_has_in_common_is_used(make, reference, prefix_reuse):
    here, there, rng = make(), make(prefix_reuse=prefix_reuse), random.Random(5)
    log = random_tokens(rng, 100)
    here.do(item(log, session=1))
    state = here.verifier.export_state(1)
    other = [*log[:70], (log[70] + 1) % 61, *log[71:]]
    assert there.verifier.import_state(1, other, state) == 70
    assert there.verifier.import_state(2, log[:40], state) == 40
    assert there.verifier.import_state(3, [(log[0] + 1) % 61, *log[1:]], state) == 0
    items = [item(other, session=1), item(log[:40], chain([2, 3]), session=2)]
    seen = there.do(*items)
    assert [answer.computed for answer in seen.outcome.items] == [30, 3]
    assert greatest_error(seen, items, reference) < TOLERANCE
    assert there.verifier.kv_counters.sessions == 2
    check_books(there.verifier)


def test_what_is_held_already_stays(make, reference):
    here, there, rng = make(), make(), random.Random(6)
    log = random_tokens(rng, 100)
    here.do(item(log[:80], session=1))
    state = here.verifier.export_state(1)
    there.do(item(log, session=1))
    assert there.verifier.import_state(1, log, state) == 100
    there.do(item(log[:30], session=2))
    assert there.verifier.import_state(2, log, state) == 80
    items = [item([*log, 5], session=1), item(log, session=2)]
    assert greatest_error(there.do(*items), items, reference) < TOLERANCE


def test_an_imported_beginning_serves_others_too(make):
    here, there, log = make(), make(), random_tokens(random.Random(7), 100)
    here.do(item(log, session=1))
    there.verifier.import_state(1, log, here.verifier.export_state(1))
    assert there.do(item([*log, 4], session=2)).outcome.items[0].computed == 1


def test_nothing_held_is_nothing_to_export(make):
    bench = make()
    assert bench.verifier.export_state(1) is None
    bench.do(item([1, 2, 3], session=1))
    bench.do(released=[1])
    assert bench.verifier.export_state(1) is None


def test_a_full_worker_evicts_for_a_state_and_refuses_what_cannot_fit(make):
    here, rng = make(), random.Random(8)
    there = make(kv_limit_bytes=here.verifier.pool.shape.token_bytes * (DRAFT_SLOTS + CONTEXT))
    pages = there.verifier.pool.pages
    for session in range(pages):
        there.do(item(random_tokens(rng, 60), session=session))
    log = random_tokens(rng, 150)
    here.do(item(log, session=1))
    state = here.verifier.export_state(1)
    assert there.verifier.import_state(100, log, state) == 150
    assert there.verifier.evictions == 3
    check_books(there.verifier)
    there.verifier.close()
    there.verifier.pool._stamps[2:] = 2**63 - 1
    with pytest.raises(StateError, match="no room for a state of 150 tokens"):
        there.verifier.import_state(101, log, state)


# ---- damage ----


@pytest.fixture
def state(make) -> bytes:
    bench = make()
    bench.do(item([4, 5, 6, 7, 8], session=1))
    return bench.verifier.export_state(1)


def refused(make, state: bytes, match: str) -> None:
    bench = make()
    bench.do(item([4, 5, 9], session=1))
    with pytest.raises(StateError, match=match):
        bench.verifier.import_state(1, [4, 5, 6, 7, 8, 9], state)
    (cache,) = bench.verifier._caches
    assert list(cache.trunk) == [4, 5, 9], "nothing has changed"
    check_books(bench.verifier)


def test_every_truncation_is_refused(make, state):
    kind = make().verifier._kind
    for length in [*range(200), *range(200, len(state), 37)]:
        with pytest.raises(StateError):
            unpack_state(kind, state[:length])
    with pytest.raises(StateError, match="long and says that it is"):
        unpack_state(kind, state + b"\0")
    refused(make, state[: len(state) // 2], "bytes long and says that it is")


def test_every_flipped_bit_is_refused(make, state):
    kind = make().verifier._kind
    unpack_state(kind, state)
    for at in [*range(200), *range(200, len(state), 29), *range(len(state) - 33, len(state))]:
        damaged = bytearray(state)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(StateError):
            unpack_state(kind, bytes(damaged))
    damaged[-1000] ^= 1
    refused(make, bytes(damaged), "checksum")


def test_something_else_is_refused(make):
    refused(make, b"", "0 bytes that are no session's state")
    refused(make, b"x" * 1000, "no session's state")


def test_another_version_is_refused_and_named(make, state):
    body = bytearray(state)
    struct.pack_into("<I", body, 8, VERSION + 1)
    refused(make, signed(bytes(body)), f"format version {VERSION + 1}, this worker reads {VERSION}")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("model_fingerprint", "ab" * 32, "is of model abababababab, this worker's is"),
        ("dtype", "float16", r"'float16', 3, 2, 8, 8\), this worker's are \('float32', 3, 2, 8, 8"),
        ("layers", 6, "this worker's are"),
        ("heads", 1, "this worker's are"),
        ("key_dim", 4, "this worker's are"),
        ("value_dim", 4, "this worker's are"),
    ],
)
def test_another_model_dtype_or_shape_is_refused(make, state, field, value, match):
    kind: StateKind = make().verifier._kind
    other = replace(kind, **{field: value})
    found = unpack_state(kind, state)
    rows = other.layers * other.heads * other.item_bytes * len(found.tokens)
    keys, values = (
        torch.zeros(rows * size, dtype=torch.uint8).numpy() for size in (other.key_dim, other.value_dim)
    )
    refused(make, pack_state(other, replace(found, keys=keys, values=values)), match)


def test_a_state_that_contradicts_itself_is_refused_though_its_checksum_is_right(make, state):
    kind = make().verifier._kind
    counts = HEAD.size + 2 + len(kind.model_fingerprint) + 2 + len(kind.dtype) + 4 * 4
    for at, data in (
        (counts, b"\xff\xff\xff\xff"),
        (counts, bytes(4)),
        (HEAD.size, b"\xff\xff"),
        (HEAD.size + 2, b"\xff"),
    ):
        body = bytearray(state)
        body[at : at + len(data)] = data
        with pytest.raises(StateError, match="contradicts itself"):
            unpack_state(kind, signed(bytes(body)))
    with pytest.raises(StateError, match="contradicts itself"):
        unpack_state(kind, signed(state[: HEAD.size + 30] + bytes(32)))


def test_what_is_packed_must_be_of_its_kind(make, state):
    kind = make().verifier._kind
    found = unpack_state(kind, state)
    with pytest.raises(ValueError, match="5 tokens need"):
        pack_state(kind, replace(found, keys=found.keys[:-1]))
