"""Routing, hedging, admission and transfer policies."""

from __future__ import annotations

from collections import Counter

import pytest

from shared.policy.admission import (
    LEAST_RETRY_MS,
    MOST_RETRY_MS,
    UNKNOWN_RETRY_MS,
    PoolLoad,
    TokenPace,
    retry_ms,
)
from shared.policy.hedging import HedgeAfter, NoHedging
from shared.policy.routing import LeastWork, RandomRouting, RoundRobin, ShortestQueue, WorkerLoad
from shared.policy.transfer import MeasuredTransfers, NoTransfers


def load(
    worker: int, sessions: int = 0, *, step_us: float = 30_000, token_us: float = 300, cached: int = 0
) -> WorkerLoad:
    return WorkerLoad(worker, sessions, sessions * 100, step_us, token_us, cached)


def test_random_routing_depends_on_the_key_alone_and_spreads():
    loads = [load(worker) for worker in range(4)]
    chosen = [RandomRouting().choose(key, 10, loads) for key in range(4000)]
    assert chosen == [RandomRouting().choose(key, 99, loads) for key in range(4000)]
    counts = Counter(chosen)
    assert min(counts.values()) > 900
    assert len({tuple(chosen[i : i + 4]) for i in range(0, 400, 4)}) > 50  # no pattern


def test_round_robin_goes_on_though_workers_come_and_go():
    routing = RoundRobin()
    assert [routing.choose(0, 1, [load(1), load(4), load(7)]) for _ in range(4)] == [1, 4, 7, 1]
    assert routing.choose(0, 1, [load(7), load(9)]) == 7
    assert routing.choose(0, 1, [load(1), load(9)]) == 9


def test_the_shortest_queue():
    assert ShortestQueue().choose(0, 1, [load(1, 3), load(2, 1), load(3, 1)]) == 2


def test_least_work_prefers_the_cached_prefix_the_fast_and_the_empty():
    routing = LeastWork()
    assert routing.choose(0, 2000, [load(1), load(2, 1, cached=1984)]) == 2
    assert routing.choose(0, 20, [load(1, 1), load(2)]) == 2
    assert routing.choose(0, 20, [load(1, 0, step_us=90_000), load(2, 5)]) == 2
    assert (
        routing.choose(0, 20, [load(1, 4), load(2, 9, cached=16)]) == 1
    )  # a few tokens do not make up for a crowd


def test_least_work_takes_an_unmeasured_worker_for_an_average_one():
    assert LeastWork().choose(0, 20, [load(1, 2), load(2, 0, step_us=0.0, token_us=0.0)]) == 2
    assert LeastWork().choose(0, 20, [load(1, 0), load(2, 2, step_us=0.0, token_us=0.0)]) == 1


def test_hedging():
    assert NoHedging().overdue_after(1000.0) is None
    assert HedgeAfter(3.0, 10.0).overdue_after(30_000.0) == 90_000_000
    assert HedgeAfter(3.0, 100.0).overdue_after(30.0) == 100_000_000
    assert HedgeAfter().overdue_after(0.0) is None  # nothing is known of how long it should take


def pool(
    sessions: int, *, step_us: float = 30_000, node_us: float = 0.0, life_ms: float = 0.0, workers: int = 1
) -> PoolLoad:
    return PoolLoad(sessions, workers, step_us, node_us, life_ms)


def test_a_hint_is_when_one_of_the_sessions_will_have_ended():
    assert retry_ms(pool(10)) == UNKNOWN_RETRY_MS
    assert retry_ms(pool(10, life_ms=20_000)) == 2000
    assert retry_ms(pool(1000, life_ms=20_000)) == LEAST_RETRY_MS
    assert retry_ms(pool(1, life_ms=1e9)) == MOST_RETRY_MS


def test_admission_by_pace():
    policy = TokenPace(40.0)
    assert policy.refused(pool(10)) is None
    assert policy.refused(pool(10, step_us=39_000, node_us=2000)) is not None
    assert policy.refused(pool(0, step_us=50_000)) is None  # an empty pool takes whoever comes
    assert policy.refused(pool(3, step_us=50_000, workers=4)) is None


def test_transfers_by_what_is_faster():
    policy = MeasuredTransfers()
    assert not policy.worthwhile(10, 300.0)
    assert policy.worthwhile(2000, 300.0)
    assert not policy.worthwhile(2000, 10.0)
    policy.moved(1000, 5000 + 1000 * 500)
    assert not policy.worthwhile(2000, 300.0)
    for _ in range(20):
        policy.moved(1000, 5000 + 1000 * 5)
    assert policy.worthwhile(2000, 300.0)
    assert not NoTransfers().worthwhile(1 << 20, 1e9)


@pytest.mark.parametrize("times", [1, 3, 6])
def test_transfers_that_fail_are_tried_less(times):
    policy = MeasuredTransfers()
    for _ in range(times):
        policy.failed()
    assert policy.worthwhile(2000, 300.0) == (times < 4)
