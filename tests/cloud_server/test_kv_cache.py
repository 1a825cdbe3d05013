"""Pages, placement, and where each token's keys and values end up."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cloud_server.kv_cache import PAGE_SLOTS, KvPool, KvShape, PageTable, PoolFullError, SessionCache
from shared.errors import UserError
from shared.step import StepNode
from tests.cloud_server.tiny_target import chain, item

SHAPE = KvShape(layers=2, heads=3, key_dim=4, value_dim=5, dtype=torch.float32, device=torch.device("cpu"))
PAGE_BYTES = SHAPE.token_bytes * PAGE_SLOTS


def pool_of(pages: int, *, reserve: int = 4 * PAGE_SLOTS) -> KvPool:
    return KvPool(SHAPE, limit_bytes=pages * PAGE_BYTES, reserve_slots=reserve)


def test_bytes_of_a_token_count_keys_and_values_of_all_layers():
    assert SHAPE.token_bytes == 2 * 3 * (4 + 5) * 4


def test_the_limit_is_kept_and_one_page_is_the_least():
    pool = pool_of(7)
    assert pool.pages == pool.free_pages == 7
    assert pool.keys.nbytes + pool.values.nbytes <= 7 * PAGE_BYTES
    with pytest.raises(UserError, match=f"at least {PAGE_BYTES} bytes"):
        KvPool(SHAPE, limit_bytes=PAGE_BYTES - 1, reserve_slots=1)


def test_a_table_grows_in_place_and_its_slots_count_on():
    pool, table = pool_of(8), PageTable()
    for slots in (1, PAGE_SLOTS, PAGE_SLOTS + 1, 3 * PAGE_SLOTS):
        pool.grow(table, slots)
        assert table.contiguous
        assert table.capacity == -(-slots // PAGE_SLOTS) * PAGE_SLOTS
    local = np.arange(table.capacity)
    np.testing.assert_array_equal(table.to_global(local), local + table.start)


def test_sessions_are_placed_apart_so_that_each_can_grow_in_place():
    pool, tables = pool_of(40), [PageTable() for _ in range(8)]
    for table in tables:
        pool.grow(table, 1)
    for table in tables:
        pool.grow(table, 4 * PAGE_SLOTS)
    assert all(table.contiguous for table in tables)


def test_a_full_pool_refuses_and_changes_nothing():
    pool, first, second = pool_of(3), PageTable(), PageTable()
    pool.grow(first, 2 * PAGE_SLOTS)
    with pytest.raises(PoolFullError):
        pool.grow(second, 2 * PAGE_SLOTS)
    assert (pool.free_pages, second.pages) == (1, [])
    pool.grow(second, 1)
    pool.release(first)
    assert (pool.free_pages, first.pages) == (2, [])


def test_no_page_has_two_owners_however_tables_come_and_go():
    rng, pool = random.Random(0), pool_of(20)
    tables = [PageTable() for _ in range(6)]
    scattered = 0
    for _ in range(500):
        table = rng.choice(tables)
        if rng.random() < 0.3:
            pool.release(table)
        else:
            try:
                pool.grow(table, rng.randrange(8 * PAGE_SLOTS))
            except PoolFullError:
                pool.release(rng.choice(tables))
        owned = [page for other in tables for page in other.pages]
        assert len(set(owned)) == len(owned) == pool.pages - pool.free_pages
        slots = table.to_global(np.arange(table.capacity)).tolist()
        assert slots == [page * PAGE_SLOTS + i for page in table.pages for i in range(PAGE_SLOTS)]
        scattered += not table.contiguous
    assert scattered > 0  # else this never saw `to_global` look pages up


def test_queued_moves_are_one_permutation():
    pool = pool_of(1)
    pool.keys.copy_(torch.arange(PAGE_SLOTS).view(1, 1, -1, 1).expand_as(pool.keys))
    pool.values.copy_(torch.arange(PAGE_SLOTS).view(1, 1, -1, 1).expand_as(pool.values))
    pool.queue_move(np.array([5, 2]), np.array([2, 5]))
    pool.queue_move(np.array([9]), np.array([7]))
    pool.apply_moves()
    pool.apply_moves()
    for store in (pool.keys, pool.values):
        assert store[1, 2, [2, 5, 7, 9], 0].tolist() == [5, 2, 9, 9]


class Stage:
    """A session cache whose keys are the paths that the tokens stand for, written as a forward would."""

    def __init__(self, pages: int = 8) -> None:
        self.pool, self.cache = pool_of(pages), SessionCache()
        self._names: dict[tuple[int, ...], int] = {}

    def name(self, path: tuple[int, ...]) -> int:
        return self._names.setdefault(path, len(self._names) + 1)

    def place(self, asked):
        share = self.cache.place(asked, self.pool)
        self.pool.apply_moves()
        log = tuple(asked.log[: asked.length])
        for position in range(share.first, asked.length):
            self._write(position, log[: position + 1])
        for row in share.nodes:
            # All ancestors' keys must be there already, and be theirs.
            above = [self.read(slot) for slot in row.path[:-1]]
            drafts = [path for name in above for path, known in self._names.items() if known == name]
            own = (*(drafts[-1] if drafts else log), row.token)
            assert above == [self.name(own[: asked.length + 1 + i]) for i in range(len(above))]
            assert row.position == len(own) - 1
            self._write(row.path[-1], own)
        assert [self.read(i) for i in range(asked.length)] == [
            self.name(log[: i + 1]) for i in range(asked.length)
        ]
        return share

    def read(self, local: int) -> int:
        return int(self.pool.keys[0, 0, self._slot(local), 0])

    def _write(self, local: int, path: tuple[int, ...]) -> None:
        self.pool.keys[:, :, self._slot(local)] = self.name(path)

    def _slot(self, local: int) -> int:
        return int(self.cache.table.to_global(np.array([local]))[0])


def test_a_committed_chain_needs_no_move():
    stage = Stage()
    stage.place(item([1, 2, 3], chain([4, 5, 6])))
    stage.cache.place(item([1, 2, 3, 4, 5], chain([6])), stage.pool)
    assert stage.pool._pending == ([], [])


def test_a_younger_draft_in_a_lower_slot_makes_way_for_its_own_parent():
    stage = Stage()
    stage.place(
        item([1, 2, 3], (StepNode(1, 7, -1, True), StepNode(2, 8, -1, True), StepNode(3, 9, 1, True)))
    )
    # 8 is committed, 9 stays in the slot behind it, and two children of 9 come: the first in the slot that 8 left.
    stage.place(
        item([1, 2, 3, 8], (StepNode(1, 9, -1, False), StepNode(2, 5, 0, True), StepNode(3, 6, 0, True)))
    )
    share = stage.place(
        item([1, 2, 3, 8, 9], (StepNode(2, 5, -1, False), StepNode(3, 6, -1, False)), end_key=None)
    )
    assert (share.rows, stage.cache.draft_nodes) == (0, 2)
    assert stage.place(item([1, 2, 3, 8, 9, 5], end_key=None)).rows == 0


def test_a_released_page_is_not_written_by_a_move_that_was_queued_before():
    pool, table = pool_of(2), PageTable()
    pool.grow(table, 1)
    pool.queue_move(np.array([1]), np.array([0]))
    pool.release(table)
    assert pool._pending == ([], [])


def test_a_committed_branch_moves_into_the_trunk_and_a_living_draft_makes_way():
    stage = Stage()
    tree = (
        StepNode(1, 7, -1, True),
        StepNode(2, 8, -1, True),
        StepNode(3, 9, 1, True),
        StepNode(4, 9, 2, True),
    )
    stage.place(item([1, 2, 3], tree))
    # 8 lay behind 7; its children 9 and 9, 9 lie behind both.
    share = stage.place(
        item([1, 2, 3, 8], (StepNode(3, 9, -1, False), StepNode(4, 9, 0, False)), end_key=None)
    )
    assert (share.rows, stage.cache.length, stage.cache.draft_nodes) == (0, 4, 2)
    share = stage.place(item([1, 2, 3, 8, 9, 9], end_key=None))
    assert (share.rows, stage.cache.length, stage.cache.draft_nodes) == (0, 6, 0)


@pytest.mark.parametrize("seed", range(20))
def test_random_growth_keeps_every_key_at_its_place(seed):
    rng, stage = random.Random(seed), Stage()
    log = [rng.randrange(3) for _ in range(rng.randrange(1, 10))]
    for _ in range(40):
        size = rng.randrange(10)
        nodes = tuple(
            StepNode(i, rng.randrange(3), rng.randrange(-1, i), rng.random() < 0.7) for i in range(size)
        )
        stage.place(item(log, nodes, end_key=rng.choice((0, None))))
        log += [rng.randrange(3) for _ in range(rng.randrange(4))]
        if rng.random() < 0.1:
            log = [*log[: rng.randrange(1, len(log) + 1)]]
        if rng.random() < 0.1:
            stage.pool.release(stage.cache.table)
            stage.cache = SessionCache()


def test_a_wanted_fact_whose_keys_are_held_is_one_row_again():
    stage = Stage()
    asked = item([1, 2, 3], chain([4, 5]))
    assert stage.place(asked).rows == 5
    again = stage.place(asked)
    assert (again.first, again.rows) == (2, 3)
    unwanted = item([1, 2, 3], (StepNode(1, 4, -1, False), StepNode(2, 5, 0, True)), end_key=None)
    assert [row.token for row in stage.place(unwanted).nodes] == [5]


def test_a_refused_placement_can_be_tried_again():
    stage, other = Stage(pages=2), PageTable()
    stage.place(item([1, 2], chain([3, 4])))
    stage.pool.grow(other, 1)
    longer = item([1, 2, 3, *range(80)], chain([7]))
    for _ in range(2):
        with pytest.raises(PoolFullError):
            stage.cache.place(longer, stage.pool)
    stage.pool.release(other)
    assert stage.place(longer).rows == 81
