"""Pages: whose they are, where a table grows, what is given up for it, and that nothing is lost on the way."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cloud_server.kv_pool import PAGE_SLOTS, KvPool, KvShape, PageTable, PoolFullError
from shared.errors import UserError

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


def test_a_released_page_is_not_written_by_a_move_that_was_queued_before():
    pool, table = pool_of(2), PageTable()
    pool.grow(table, 1)
    pool.queue_move(np.array([1]), np.array([0]))
    pool.release(table)
    assert pool._pending == ([], [])


# ---- what is kept ----


class Keeper:
    """Tables by name, those that were lost while they were kept, and in every slot the name of who wrote it."""

    def __init__(self, pages: int, *, reserve: int = 0) -> None:
        self.pool = pool_of(pages, reserve=reserve)
        self.tables: dict[str, PageTable] = {}
        self.lost: list[str] = []

    def grow(self, name: str, pages: int) -> PageTable:
        table = self.tables.setdefault(name, PageTable())
        self.pool.grow(table, pages * PAGE_SLOTS)
        self.pool.keys[:, :, self._slots(table)] = float(ord(name))
        return table

    def keep(self, *names: str) -> None:
        for name in names:
            self.pool.keep(self.tables[name], lambda name=name: self.lost.append(name))

    def holds(self, name: str) -> bool:
        table = self.tables[name]
        return bool(table.pages) and bool((self.pool.keys[:, :, self._slots(table)] == ord(name)).all())

    @staticmethod
    def _slots(table: PageTable) -> np.ndarray:
        return table.to_global(np.arange(table.capacity))


def test_kept_pages_are_free_and_keep_what_they_hold():
    keeper = Keeper(6)
    keeper.grow("a", 2)
    keeper.keep("a")
    assert (keeper.pool.free_pages, keeper.pool.kept_pages, keeper.pool.kept_tables) == (6, 2, 1)
    keeper.grow("b", 4)
    assert keeper.holds("a")
    keeper.pool.revive(keeper.tables["a"])
    assert (keeper.pool.free_pages, keeper.pool.kept_pages, keeper.pool.kept_tables) == (0, 0, 0)
    assert keeper.lost == []


def test_the_table_that_was_kept_first_goes_first_and_whole():
    keeper = Keeper(6)
    for name in "abc":
        keeper.grow(name, 2)
    keeper.keep("b", "c", "a")
    keeper.grow("d", 1)
    assert keeper.lost == ["b"]
    assert keeper.tables["b"].pages == []
    assert (keeper.pool.free_pages, keeper.pool.kept_pages) == (5, 4)
    keeper.grow("e", 3)
    assert keeper.lost == ["b", "c"]
    assert keeper.holds("a")


def test_a_table_that_is_kept_again_is_the_youngest():
    keeper = Keeper(4)
    for name in "ab":
        keeper.grow(name, 2)
    keeper.keep("a", "b")
    keeper.pool.revive(keeper.tables["a"])
    keeper.keep("a")
    keeper.grow("c", 1)
    assert keeper.lost == ["b"]


def test_what_is_in_use_is_never_given_up():
    keeper = Keeper(4)
    keeper.grow("a", 2)
    keeper.grow("b", 1)
    keeper.keep("b")
    with pytest.raises(PoolFullError):
        keeper.grow("c", 3)
    assert keeper.lost == []
    keeper.grow("c", 2)
    assert keeper.lost == ["b"]
    assert keeper.holds("a")


def test_a_table_grows_in_place_over_what_is_kept_beside_it():
    """Scattered pages cost time at every step, a kept cache only if somebody comes back for it."""
    keeper = Keeper(6)
    keeper.grow("a", 2)
    keeper.grow("b", 2)
    keeper.keep("b")
    assert keeper.tables["b"].start == keeper.tables["a"].capacity
    assert keeper.grow("a", 3).contiguous
    assert keeper.lost == ["b"]


def test_a_newcomer_finds_room_to_grow_in_a_pool_full_of_kept_tables():
    """One after the other leaves its pages; each newcomer still gets them in a row, and the oldest go."""
    keeper = Keeper(64, reserve=4 * PAGE_SLOTS)
    for number in range(60):
        name = chr(65 + number)
        for pages in (1, 2, 4):
            assert keeper.grow(name, pages).contiguous
        keeper.keep(name)
    assert keeper.pool.kept_pages > 64 - 4
    assert keeper.lost == sorted(keeper.lost)  # as old as can be: they were kept in this order
    assert all(keeper.holds(chr(65 + number)) for number in range(50, 60))


def test_shrinking_gives_the_last_pages_back():
    keeper = Keeper(6)
    table = keeper.grow("a", 4)
    keeper.pool.shrink(table, PAGE_SLOTS + 1)
    assert (len(table.pages), keeper.pool.free_pages, table.contiguous) == (2, 4, True)
    keeper.pool.shrink(table, 3 * PAGE_SLOTS)
    assert (len(table.pages), keeper.holds("a")) == (2, True)
    keeper.pool.shrink(table, 0)
    assert (table.pages, keeper.pool.free_pages) == ([], 6)


def test_what_is_kept_can_be_dropped_without_a_word():
    keeper = Keeper(3)
    keeper.grow("a", 2)
    keeper.keep("a")
    keeper.pool.drop_kept()
    assert (keeper.lost, keeper.pool.kept_pages, keeper.pool.free_pages) == ([], 0, 3)


@pytest.mark.parametrize("kinds", ["rows", "rows and holes", "holes and rows", "holes"])
def test_copies_reads_and_writes_find_every_slot(kinds):
    pool = pool_of(40, reserve=1)
    tables = []
    for kind in (kinds.split(" and ") * 2)[:2]:
        table = PageTable()
        if kind == "rows":
            pool.grow(table, 3 * PAGE_SLOTS)
        else:
            table.set_pages(scattered_in(pool, 3))
        tables.append(table)
    source, target = tables
    generator = torch.Generator().manual_seed(1)
    count = 3 * PAGE_SLOTS - 5
    keys, values = (
        torch.randn((2, 3, count, size), generator=generator) for size in (SHAPE.key_dim, SHAPE.value_dim)
    )
    pool.write(source, 0, keys, values)
    pool.write(target, 0, -keys, -values)
    pool.copy(source, target, 7, count - 3)
    for table, sign in ((source, lambda at: 1), (target, lambda at: 1 if 7 <= at < count - 3 else -1)):
        found = pool.read(table, count)
        for stored, right in zip(found, (keys, values), strict=True):
            signs = torch.tensor([sign(at) for at in range(count)]).view(1, 1, -1, 1)
            assert torch.equal(stored, right * signs)


def scattered_in(pool: KvPool, pages: int) -> list[int]:
    """Every second free page, taken."""
    first = int(np.flatnonzero(pool._stamps == 0)[0])
    chosen = [first + 2 * i for i in range(pages)][::-1]
    pool._stamps[chosen] = np.iinfo(np.int64).max
    return chosen
