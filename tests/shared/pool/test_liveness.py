"""What keeps a pool going when things go wrong at once, and what a pool must not do for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.messages import Limits
from shared.policy.batching import FlatBudget
from shared.policy.hedging import HedgeAfter
from shared.policy.routing import ShortestQueue
from shared.policy.transfer import NoTransfers
from shared.pool import PoolPolicies, PrefillLimits
from shared.pool.prefixes import BLOCK, PrefixDirectory
from shared.session.cloud import CloudSession
from shared.sim.random import Keyed
from tests.shared.pool.bench import MS, TEXT, Bench, drafts, session
from tests.shared.session.builders import draft, model_info, opening

SPREAD = PoolPolicies(routing=ShortestQueue, transfers=NoTransfers)
SP = replace(SPREAD, sp_degree=4)
RUN_AHEAD = 8


def test_a_late_worker_whose_step_fails_takes_those_who_have_no_other():
    bench = Bench(2, replace(SPREAD, hedging=HedgeAfter()))
    ones = [session(key) for key in (1, 2)]
    bench.join(*ones)
    now = 0
    for _ in range(8):  # until it is known what a step takes
        bench.begin(now)
        now += 30 * MS
        for worker in sorted(bench.out):
            bench.end(worker, now)
    bench.begin(now)
    bench.end(1, now + 30 * MS)
    now += 1000 * MS
    bench.begin(now)
    assert bench.pool.counts.hedged == 1
    bench.lose(1)
    assert [bench.pool.home_of(key) for key in (1, 2)] == [None, None]
    bench.out.pop(0)
    bench.pool.failed(0)
    assert [bench.pool.home_of(key) for key in (1, 2)] == [0, 0]
    bench.settle(now)
    assert all(one.log.completion == list(TEXT[:70]) for one in ones)


def test_suspects_are_tried_by_a_worker_that_drains_where_there_is_no_other():
    bench = Bench(1)
    ones = [session(key) for key in (1, 2, 3)]
    bench.join(*ones)
    bench.begin(0)
    bench.pool.worker_draining(0)
    bench.out.clear()
    assert bench.pool.broken(0) is None
    bench.settle(1)
    assert all(one.log.completion == list(TEXT[:70]) for one in ones)
    assert not bench.pool.worker_idle(0) or bench.pool.sessions == 0


def test_who_kills_workers_in_ever_new_company_is_found():
    bench = Bench(1, SPREAD)
    bench.join(session(1))
    for number in range(6):
        bench.join(session(100 + number))
        bench.begin(0)
        culprit = bench.lose(number)
        bench.pool.leave(100 + number)
        bench.pool.worker_joined(number + 1)
        if culprit is not None:
            break
    assert culprit == 1


@pytest.mark.parametrize("policies", [SPREAD, SP])
def test_drafts_of_others_do_not_keep_a_session_going_past_its_owner_on_any_worker(policies):
    bench = Bench(3, policies)
    info = model_info(limits=Limits(run_ahead=RUN_AHEAD), context=1 << 20)
    one = CloudSession(1, 1, opening((1, 2, 3), room=70), info, now=0)
    one.attach(99, now=0)
    bench.join(one)
    now, first = 0, 1
    for _ in range(60):
        done = len(one.log.completion)
        guesses = TEXT[done : done + 2]
        one.draft(draft(first, guesses, root=len(one.log)), now=now, stream=99)
        first += len(guesses)
        bench.begin(now)
        now += 30 * MS
        for worker in sorted(bench.out):
            bench.end(worker, now)
    assert RUN_AHEAD <= len(one.log.completion) <= RUN_AHEAD + 2


def test_a_check_of_a_long_log_makes_nobody_wait():
    bench = Bench(2, replace(SPREAD, check_share=1.0), prefill=PrefillLimits(64, 64))
    bench.join(session(1, prompt=(1,) * 1500), session(2))
    now, short, long = 0, 0, 0
    for _ in range(200):
        for step in bench.begin(now):
            lengths = [item.length for item in step.items if item.session < 0]
            if len(lengths) < len(step.items):
                short, long = short + len(lengths), max([long, *lengths])
        now += 30 * MS
        for worker in sorted(bench.out):
            bench.end(worker, now)
    assert short > 10
    assert long <= 64


def test_what_a_failed_step_was_to_check_is_released():
    bench = Bench(2, replace(SPREAD, check_share=1.0))
    bench.join(session(1), session(2))
    now = 0
    while not any(item.session < 0 for step in bench.out.values() for item in step.items):
        for worker in sorted(bench.out):
            bench.end(worker, now)
        bench.begin(now)
        now += 30 * MS
    worker, step = next(
        (worker, step) for worker, step in bench.out.items() if any(item.session < 0 for item in step.items)
    )
    bench.out.pop(worker)
    bench.pool.failed(worker)
    (again,) = bench.begin(now)
    assert {item.session for item in step.items if item.session < 0} <= set(again.released)


@pytest.mark.parametrize(("sessions", "degree"), [(1, 4), (3, 2), (4, 1), (8, 1)])
def test_nodes_are_advised_for_as_many_steps_as_there_are_workers_to_spare(sessions, degree):
    bench = Bench(4, SP)
    ones = [session(key) for key in range(sessions)]
    bench.join(*ones)
    bench.begin(0)
    effects = bench.end(0, 30 * MS)
    own = max(1, sessions // 4)
    assert {effect.message.advised_window for effect in effects} == {FlatBudget().advice(own) * degree}


@pytest.mark.parametrize("arrives", [True, False])
def test_kv_that_arrives_after_its_session_has_ended_is_released(arrives):
    bench = Bench(2, PoolPolicies(routing=ShortestQueue))
    bench.join(session(1, prompt=(1,) * 500))
    now = 0
    while not bench.begin(now)[0].items[0].end_key:
        now += 30 * MS
        bench.end(0, now)
    bench.pool.worker_draining(0)
    move = bench.pool.next_transfer(now)
    assert (move.source, move.target) == (0, 1)
    bench.pool.leave(1)
    bench.end(0, now + MS)
    bench.begin(now + MS)
    bench.pool.transferred(1, 1, move.length if arrives else None, now + 2 * MS)
    assert {step.worker: step.released for step in bench.begin(now + 2 * MS)} == {1: (1,)}


class CountedLog(list[int]):
    """Counts how often it is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_who_has_seen_how_much_of_a_log_is_found_by_reading_it_once():
    directory = PrefixDirectory()
    log = CountedLog(range(100 * BLOCK))
    for worker, blocks in enumerate((3, 5, 0)):
        directory.note(worker, tuple(log), blocks * BLOCK)
    directory.note(3, (7,) * 10 * BLOCK, 10 * BLOCK)
    assert directory.known(log) == {0: 3 * BLOCK, 1: 5 * BLOCK}
    assert log.reads <= 6


class Storm:
    """For a while workers hang, fail, die, drain and join; the sessions get drafts now and then."""

    def __init__(self, seed: int) -> None:
        self.random = random = Keyed(seed, "pool")
        policies = PoolPolicies(
            routing=ShortestQueue,
            sp_degree=random.choice((1, 2, 4)),
            hedging=HedgeAfter(3.0, 40.0),
            sessions_per_step=random.choice((None, 2)),
            check_share=random.choice((0.0, 0.3)),
            helpers=random.choice((None, 1)),
        )
        self.kv_tokens = random.choice((None, 900))
        self.bench = Bench(
            random.integer(1, 4), policies, prefill=PrefillLimits(64, 96), kv_tokens=self.kv_tokens
        )
        self.sessions = [
            session(key, prompt=(1, 2) * random.integer(1, 150), patience_us=random.choice((0, 20_000)))
            for key in range(random.integer(1, 7))
        ]
        self.bench.join(*self.sessions)
        self.raging = True
        self.now = 0
        self.ends: dict[int, int] = {}
        """When each step comes back."""
        self._newest = len(self.bench.pool.workers)
        self._ids = [1] * len(self.sessions)

    def turn(self) -> None:
        for step in self.bench.begin(self.now):
            slow = 30 if self.strikes(0.05) else 1
            self.ends[step.worker] = self.now + slow * self.random.integer(5, 30) * MS
        wake = self.bench.pool.wake_at()
        assert wake is None or wake > self.now, "a driver would spin"
        assert self.ends or wake is not None, "nobody works, and nothing is waited for"
        self.now = min([*self.ends.values(), *([] if wake is None else [wake])])
        while (move := self.bench.pool.next_transfer(self.now)) is not None:
            held = self.random.choice((None, move.length))
            self.bench.pool.transferred(move.session, move.target, held, self.now)
        for worker in sorted(worker for worker, at in self.ends.items() if at <= self.now):
            del self.ends[worker]
            self.come_back(worker)
        if self.strikes(0.02):
            self.bench.pool.worker_draining(self.random.choice(self.bench.pool.workers))
            self.replace()
        self.draft()

    def come_back(self, worker: int) -> None:
        if self.strikes(0.03):
            self.bench.lose(worker)
            self.replace()
        elif self.strikes(0.03):
            self.bench.out.pop(worker)
            self.bench.pool.failed(worker)
        else:
            self.bench.end(worker, self.now)

    def draft(self) -> None:
        for one in self.sessions:
            if not one.over and self.random.chance(0.3) and len(one.log.completion) < 60:
                drafts(one, 3, first=self._ids[one.key], now=self.now)
                self._ids[one.key] += 3

    def replace(self) -> None:
        self._newest += 1
        self.bench.pool.worker_joined(self._newest, self.kv_tokens)

    def strikes(self, probability: float) -> bool:
        return self.raging and self.random.chance(probability)


@pytest.mark.parametrize("seed", range(24))
def test_what_is_waited_for_lies_ahead_and_everybody_comes_to_an_end(seed):
    storm = Storm(seed)
    for turn in range(6000):
        storm.raging = turn < 400
        if all(one.over for one in storm.sessions):
            break
        storm.turn()
    assert all(one.log.completion == list(TEXT[:70]) for one in storm.sessions)
