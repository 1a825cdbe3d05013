"""Where each token's keys and values end up."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cloud_server.kv_cache import SessionCache
from cloud_server.kv_pool import PAGE_SLOTS, KvPool, KvShape, PageTable, PoolFullError
from shared.step import StepNode
from tests.cloud_server.tiny_target import chain, item

SHAPE = KvShape(layers=2, heads=3, key_dim=4, value_dim=5, dtype=torch.float32, device=torch.device("cpu"))


def pool_of(pages: int, *, reserve: int = 4 * PAGE_SLOTS) -> KvPool:
    return KvPool(SHAPE, limit_bytes=pages * SHAPE.token_bytes * PAGE_SLOTS, reserve_slots=reserve)


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
