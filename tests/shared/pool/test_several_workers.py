"""PoolScheduler with several workers: homes, help, hedges, loss, drain, transfers, checks."""

from __future__ import annotations

import math

import pytest

from shared.policy.batching import LengthAware
from shared.policy.hedging import HedgeAfter
from shared.policy.routing import RoundRobin, ShortestQueue
from shared.policy.transfer import NoTransfers
from shared.pool import PoolPolicies, PrefillLimits
from shared.step import Fact
from tests.shared.pool.bench import MS, TEXT, Bench, drafts, outcome, session
from tests.shared.session.builders import draft, idle

SP = PoolPolicies(sp_degree=4, routing=ShortestQueue)
SPREAD = PoolPolicies(routing=ShortestQueue)


def asked(step):
    return {item.session: len(item.nodes) for item in step.items}


# ---- homes ----


def test_sessions_are_spread_and_each_worker_steps_for_its_own():
    bench = Bench(2, SPREAD)
    bench.join(*(session(key) for key in range(4)))
    steps = bench.begin(0)
    assert [(step.worker, sorted(asked(step))) for step in steps] == [(0, [0, 2]), (1, [1, 3])]
    assert len({step.number for step in steps}) == 2
    bench.end(1, 30 * MS)
    assert [step.worker for step in bench.begin(30 * MS)] == [1]  # worker 0 is not waited for


def test_without_a_worker_sessions_wait_and_the_first_that_joins_takes_them():
    bench = Bench(0)
    one = session(1)
    bench.join(one)
    assert (bench.begin(0), bench.pool.wake_at()) == ([], None)
    bench.pool.worker_joined(5)
    (step,) = bench.begin(0)
    assert step.worker == 5
    bench.end(5, 1)
    assert one.log.completion == [TEXT[0]]


def test_a_worker_that_joins_takes_sessions_from_the_crowded():
    bench = Bench(1, PoolPolicies(routing=ShortestQueue, transfers=NoTransfers))
    bench.join(*(session(key) for key in range(5)))
    bench.pool.worker_joined(1)
    homes = [bench.pool.home_of(key) for key in range(5)]
    assert sorted(homes) == [0, 0, 0, 1, 1]


def test_numbers_are_not_used_twice_and_an_unknown_worker_has_no_step():
    bench = Bench(1)
    with pytest.raises(ValueError, match="here already"):
        bench.pool.worker_joined(0)
    with pytest.raises(ValueError, match="no step is out on worker 7"):
        bench.pool.failed(7)


# ---- speculation parallelism ----


def test_drafts_that_arrive_while_a_step_is_out_go_to_another_worker_at_once():
    bench = Bench(4, SP)
    one = session(1)
    bench.join(one)
    (first,) = bench.begin(0)
    assert (first.worker, first.items[0].end_key) == (0, 0)
    drafts(one, 3)
    (second,) = bench.begin(5 * MS)
    assert second.worker != 0
    assert second.items[0].end_key is None  # it is in flight
    assert [node.wanted for node in second.items[0].nodes] == [True] * 3
    # The later step comes back first: nothing can be committed before the end's fact is there, and then all of it.
    assert bench.end(second.worker, 20 * MS) == []
    bench.end(0, 30 * MS)
    assert one.log.completion == list(TEXT[:4])


def test_ancestors_come_along_so_that_a_worker_that_lacks_them_can_compute_them():
    bench = Bench(4, SP)
    one = session(1)
    bench.join(one)
    bench.begin(0)
    drafts(one, 2)
    bench.begin(5 * MS)
    one.draft(draft(3, (TEXT[2],), offsets=(1,)), now=0)
    (third,) = bench.begin(20 * MS)
    assert [(node.token, node.wanted) for node in third.items[0].nodes] == [
        (TEXT[0], False),
        (TEXT[1], False),
        (TEXT[2], True),
    ]


def test_steps_of_one_session_begin_spread_over_the_duration_of_one():
    bench = Bench(4, SP)
    one = session(1)
    bench.join(one)
    now = 0
    for _ in range(6):  # the duration of a step is measured
        bench.begin(now)
        now += 30 * MS
        for worker in list(bench.out):
            bench.end(worker, now)
    (first,) = bench.begin(now)
    drafts(one, 1)
    assert bench.begin(now + MS) == []
    assert bench.pool.wake_at() == now + 30 * MS // 4
    (second,) = bench.begin(now + 30 * MS // 4)
    assert {first.worker, second.worker} == {0, 1}


def test_no_more_steps_of_a_session_than_its_degree():
    bench = Bench(8, PoolPolicies(sp_degree=2, routing=ShortestQueue))
    one = session(1)
    bench.join(one)
    bench.begin(0)
    for turn in range(5):
        one.draft(draft(turn + 1, (TEXT[turn],), offsets=(1 if turn else 0,)), now=0)
        bench.begin((turn + 1) * 20 * MS)
    assert len(bench.out) == 2


def test_a_worker_with_sessions_of_its_own_helps_nobody():
    """No user's speculation costs another a token: it would be busy when its own session's end is due."""
    bench = Bench(2, SP)
    one, two = session(1), session(2)
    bench.join(one, two)
    bench.begin(0)
    bench.end(1, 30 * MS)
    two.draft(idle(len(two.log)), now=0)
    drafts(one, 3)
    (step,) = bench.begin(31 * MS)
    assert asked(step) == {2: 0}


def test_an_end_whose_home_is_busy_is_asked_of_a_free_worker():
    bench = Bench(3, SP)
    one = session(1)
    bench.join(one)
    bench.begin(0)
    drafts(one, 2)
    (helping,) = bench.begin(20 * MS)
    bench.end(0, 30 * MS)  # the end is the first draft now, and its fact is in flight
    one.draft(draft(3, (98,), offsets=(1,)), now=0)
    (home,) = bench.begin(50 * MS)
    assert (home.worker, home.items[0].end_key) == (0, None)
    bench.end(helping.worker, 51 * MS)  # what the home looks at is dead: the new end is bare
    (step,) = bench.begin(51 * MS)
    assert step.worker != 0
    assert step.items[0].end_key is not None
    bench.end(step.worker, 81 * MS)
    bench.end(0, 82 * MS)
    assert one.log.completion == list(TEXT[:4])


def test_what_helpers_hold_of_a_session_that_ended_is_released_everywhere():
    bench = Bench(4, SP)
    one = session(1)
    bench.join(one)
    bench.begin(0)
    drafts(one, 3)
    bench.begin(10 * MS)
    workers = set(bench.out)
    assert len(workers) == 2
    bench.pool.leave(1)
    for worker in workers:
        bench.end(worker, 30 * MS)
    released = {step.worker: step.released for step in bench.begin(31 * MS)}
    assert released == dict.fromkeys(workers, (1,))


# ---- loss, hedges ----


def test_the_facts_of_a_worker_that_left_are_asked_of_another():
    bench = Bench(2, SPREAD)
    one = session(1)
    bench.join(one)
    drafts(one, 3)
    (step,) = bench.begin(0)
    assert bench.lose(step.worker) is None
    (again,) = bench.begin(1)
    assert again.worker != step.worker
    assert asked(again) == asked(step)
    bench.end(again.worker, 2)
    assert one.log.completion == list(TEXT[:4])


def test_a_session_that_kills_every_worker_alone_is_found_and_the_others_go_on():
    bench = Bench(0, SPREAD)
    poison, *others = [session(key) for key in range(5)]
    bench.join(poison, *others)
    number, blamed = 0, None
    for _ in range(60):
        bench.pool.worker_joined(number)
        while blamed is None and (step := bench.pool.next_step(0)) is not None:
            if any(item.session == 0 for item in step.items):
                blamed = bench.pool.worker_left(step.worker)
                number += 1
                break
            bench.pool.complete(outcome(step, 10), 0, step.worker)
        if blamed is not None:
            break
    assert blamed == 0
    bench.pool.leave(0)
    bench.pool.worker_joined(number)
    bench.settle(0)
    assert all(len(one.log.completion) == 70 for one in others)


def test_a_session_is_not_blamed_for_workers_that_were_killed_beside_it():
    bench = Bench(0, SPREAD)
    one, two = session(1), session(2)
    bench.join(one, two)
    for number in range(8):
        bench.pool.worker_joined(number)
        for _ in range(1 + number % 3):
            (step,) = bench.begin(0)
            bench.end(step.worker, 0)
        bench.begin(0)
        assert bench.lose(number) is None


HEDGED = PoolPolicies(
    hedging=HedgeAfter(factor=3.0, least_ms=10.0), routing=ShortestQueue, transfers=NoTransfers
)


def measured(bench, now=0):
    for _ in range(6):
        for step in bench.begin(now):
            now += 30 * MS
            bench.end(step.worker, now)
    return now


def test_an_overdue_step_is_asked_of_another_worker_and_its_late_answer_is_compared():
    bench = Bench(2, HEDGED)
    one = session(1)
    bench.join(one)
    now = measured(bench)
    (slow,) = bench.begin(now)
    assert bench.pool.wake_at() == now + 90 * MS
    assert bench.begin(now + 89 * MS) == []
    (again,) = bench.begin(now + 90 * MS)
    assert again.worker != slow.worker
    assert bench.pool.counts.hedged == 1
    length = len(one.log)
    bench.end(again.worker, now + 120 * MS)
    assert len(one.log) == length + 1
    # The next end is asked of the same worker: the other one has not come back.
    (third,) = bench.begin(now + 120 * MS)
    assert third.worker == again.worker
    assert bench.end(slow.worker, now + 130 * MS) == []
    assert len(one.log) == length + 1


def test_a_late_answer_that_comes_first_counts():
    bench = Bench(2, HEDGED)
    one = session(1)
    bench.join(one)
    now = measured(bench)
    (slow,) = bench.begin(now)
    (again,) = bench.begin(now + 90 * MS)
    length = len(one.log)
    bench.end(slow.worker, now + 91 * MS)
    assert len(one.log) == length + 1
    assert bench.end(again.worker, now + 120 * MS) == []
    bench.settle(now + 120 * MS)
    assert one.log.completion == [*TEXT[:70]]


def test_a_step_is_waited_for_where_there_is_nobody_else():
    bench = Bench(1, HEDGED)
    bench.join(session(1))
    now = measured(bench)
    bench.begin(now)
    assert bench.pool.wake_at() is None
    assert bench.begin(now + 1000 * MS) == []


def test_a_hedged_step_that_is_lost_gives_nothing_back_twice():
    bench = Bench(2, HEDGED)
    one = session(1)
    bench.join(one)
    now = measured(bench)
    (slow,) = bench.begin(now)
    bench.begin(now + 90 * MS)
    bench.lose(slow.worker)
    assert one.end_due_at() is None  # still in flight, on the other
    assert bench.begin(now + 91 * MS) == []


# ---- drain and transfers ----


def long_session(bench, key=1, length=600):
    one = session(key, prompt=(1,) * length)
    bench.join(one)
    now = 0
    for _ in range(6):
        for step in bench.begin(now):
            now += 30 * MS
            bench.end(step.worker, now)
    return one, now


def test_a_draining_worker_goes_on_until_its_sessions_kv_has_been_moved():
    bench = Bench(2, SPREAD)
    _, now = long_session(bench)
    home = bench.pool.home_of(1)
    bench.pool.worker_draining(home)
    move = bench.pool.next_transfer(now)
    assert (move.session, move.source, move.target) == (1, home, 1 - home)
    assert move.length >= 600
    assert bench.pool.next_transfer(now) is None
    (step,) = bench.begin(now)
    assert step.worker == home
    assert not bench.pool.worker_idle(home)
    bench.pool.transferred(1, move.target, move.length, now + 5 * MS)
    bench.end(home, now + 30 * MS)
    assert bench.pool.worker_idle(home)
    (step,) = bench.begin(now + 31 * MS)
    assert step.worker == move.target
    assert not step.items[0].prefill_only


def test_what_does_not_arrive_is_prefilled_again():
    bench = Bench(2, SPREAD, prefill=PrefillLimits(chunk=256, per_step=256))
    one, now = long_session(bench)
    home = bench.pool.home_of(1)
    bench.pool.worker_draining(home)
    move = bench.pool.next_transfer(now)
    bench.pool.transferred(1, move.target, None, now)
    (step,) = bench.begin(now)
    assert (step.worker, step.items[0].prefill_only, step.items[0].length) == (move.target, True, 256)
    bench.end(step.worker, now)
    bench.settle(now)
    assert one.log.completion == list(TEXT[:70])


@pytest.mark.parametrize("victim", ["source", "target"])
def test_a_worker_that_is_lost_amid_a_transfer_costs_time_only(victim):
    bench = Bench(3, SPREAD)
    one, now = long_session(bench)
    home = bench.pool.home_of(1)
    bench.pool.worker_draining(home)
    move = bench.pool.next_transfer(now)
    bench.lose(getattr(move, victim))
    bench.pool.transferred(1, move.target, None, now)
    assert bench.pool.home_of(1) in bench.pool.workers
    bench.settle(now)
    assert one.log.completion == list(TEXT[:70])


def test_a_transfer_for_a_session_that_ended_is_released_where_it_arrived():
    bench = Bench(2, SPREAD)
    _, now = long_session(bench)
    home = bench.pool.home_of(1)
    bench.pool.worker_draining(home)
    move = bench.pool.next_transfer(now)
    bench.pool.leave(1)
    bench.pool.transferred(1, move.target, move.length, now)
    assert {step.worker: step.released for step in bench.begin(now)} == {home: (1,), move.target: (1,)}


def test_the_last_worker_drains_by_serving_its_sessions_to_their_end():
    bench = Bench(1)
    one = session(1)
    bench.join(one)
    bench.pool.worker_draining(0)
    bench.settle(0)
    assert one.log.completion == list(TEXT[:70])
    assert bench.pool.worker_idle(0)


# ---- batching, checks ----


def test_length_aware_batching_takes_the_oldest_and_its_likes():
    bench = Bench(1, PoolPolicies(batching=LengthAware(), sessions_per_step=2))
    short, long, shorter = (
        session(1, prompt=(1,) * 10),
        session(2, prompt=(1,) * 200),
        session(3, prompt=(1,) * 9),
    )
    bench.join(short, long, shorter)
    (step,) = bench.begin(0)
    assert sorted(asked(step)) == [1, 3]
    bench.end(0, 1)
    (step,) = bench.begin(1)
    assert 2 in asked(step)  # it has waited longest


def test_a_share_of_the_facts_is_established_twice_on_different_workers():
    bench = Bench(2, PoolPolicies(check_share=1.0, routing=RoundRobin))
    ones = [session(key) for key in range(2)]
    bench.join(*ones)
    bench.settle(0)
    assert bench.pool.checked > 50
    assert bench.pool.disagreements == ()
    assert all(one.log.completion == list(TEXT[:70]) for one in ones)


def test_a_check_that_finds_another_token_is_reported_with_its_margin_and_changes_nothing():
    bench = Bench(2, PoolPolicies(check_share=1.0, routing=RoundRobin))
    ones = [session(key) for key in range(2)]
    bench.join(*ones)
    now = 0
    for _ in range(40):
        bench.begin(now)
        now += 30 * MS
        for worker in sorted(bench.out):
            step = bench.out.pop(worker)
            right = outcome(step, 30_000)
            items = tuple(
                item
                if item.session >= 0
                else type(item)(item.session, ((0, Fact(99, margin=0.5)),), item.cached_length, item.computed)
                for item in right.items
            )
            bench.pool.complete(type(right)(items, right.duration_us), now, worker)
    found = bench.pool.disagreements
    assert found
    assert all((one.second.token, one.margin, one.near_tie) == (99, 0.5, False) for one in found)
    assert all(one.first_worker != one.second_worker for one in found)
    assert all(one.log.completion == list(TEXT[: len(one.log.completion)]) for one in ones)


def test_no_checks_with_one_worker_or_a_share_of_nothing():
    for workers, share in ((1, 1.0), (2, 0.0)):
        bench = Bench(workers, PoolPolicies(check_share=share))
        bench.join(session(1))
        bench.settle(0)
        assert bench.pool.checked == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"sp_degree": 0},
        {"helpers": -1},
        {"sessions_per_step": 0},
        {"check_share": 1.5},
        {"check_share": math.nan},
    ],
)
def test_policies_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PoolPolicies(**wrong)


def test_a_worker_that_hangs_amid_a_transfer_is_not_waited_for():
    bench = Bench(3, PoolPolicies(hedging=HedgeAfter(3.0, 10.0), routing=ShortestQueue))
    one, now = long_session(bench)
    home = bench.pool.home_of(1)
    (step,) = bench.begin(now)
    assert step.worker == home
    bench.pool.worker_draining(home)
    move = bench.pool.next_transfer(now)
    assert move.source == home
    (again,) = bench.begin(now + 1000 * MS)  # its step is overdue, and nothing was heard of the transfer
    assert again.worker != home
    assert bench.pool.home_of(1) == again.worker
    bench.pool.transferred(1, move.target, None, now + 2000 * MS)
    bench.end(home, now + 2001 * MS)
    bench.settle(now + 2001 * MS)
    assert one.log.completion == list(TEXT[:70])


def test_a_target_that_drains_before_the_cache_arrives_is_not_gone_to():
    bench = Bench(3, SPREAD)
    one, now = long_session(bench)
    home = bench.pool.home_of(1)
    bench.pool.worker_draining(home)
    move = bench.pool.next_transfer(now)
    bench.pool.worker_draining(move.target)
    other = bench.pool.next_transfer(now)
    assert (other.source, other.target) == (home, 3 - home - move.target)
    bench.pool.transferred(1, move.target, move.length, now)  # it arrives all the same
    assert bench.pool.home_of(1) == home
    bench.pool.transferred(1, other.target, other.length, now)
    assert bench.pool.home_of(1) == other.target
    bench.settle(now)
    assert one.log.completion == list(TEXT[:70])


def test_newcomers_take_from_the_crowd_while_others_are_still_on_their_way():
    bench = Bench(1, SPREAD)
    for key in range(1, 5):
        long_session(bench, key)
    for worker in (1, 2, 3):
        bench.pool.worker_joined(worker)
    moves = []
    while (move := bench.pool.next_transfer(0)) is not None:
        moves.append(move)
        bench.pool.transferred(move.session, move.target, move.length, 0)
    homes = [bench.pool.home_of(key) for key in range(1, 5)]
    assert max(homes.count(home) for home in homes) <= 2
    assert len(set(homes)) >= 3
    bench.settle(0)
