"""Worlds made on purpose: one thing happens to the workers, and what follows is known."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from shared.policy.batching import FlatBudget
from shared.policy.expansion import chain
from shared.policy.hedging import HedgeAfter
from shared.policy.pacing import Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.transfer import MeasuredTransfers
from shared.policy.window import FixedWindow
from shared.pool import PoolPolicies, PoolScheduler
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import Done, EdgePolicies, Failed, Request
from shared.session.front import CloudPolicies
from shared.sim.assistant import AssistPlan
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter, SyntheticWorker, Temper
from shared.sim.predict import model_info, random_prompt
from shared.sim.setting import LawBroken
from shared.sim.workers import FleetPlan, Misfortune, WorkerPlan
from shared.sim.world import Outage, World
from shared.step import Step, StepOutcome

PROFILE = Profile(step_ms=10.0)
PAIR = ProfiledPair(PROFILE)
HEALTHY = WorkerPlan()
PLAIN = CloudPolicies(prompt_lookup=False)


def policies(*, drafts: bool) -> EdgePolicies:
    expansion = chain() if drafts else None
    return EdgePolicies(FixedWindow(8), Streaming(), expansion, Reconnect(patience=5.0), 1 << 30)


def plan(index: int = 0, *, drafts: bool = False, **changes: object) -> EdgePlan:
    values = {
        "request": Request(random_prompt(index, 8, 1000), 30, SamplingParams()),
        "policies": policies(drafts=drafts),
        "drafter": SyntheticDrafter(PAIR) if drafts else None,
    }
    return EdgePlan(**(values | changes))


def world(
    *plans: EdgePlan, workers: tuple[WorkerPlan, ...], pool: PoolPolicies | None = None, **more: object
) -> World:
    fleet = FleetPlan(
        workers, **{name: more.pop(name) for name in ("deadline_ms", "poison_kills") if name in more}
    )
    info = dataclasses.replace(model_info(PROFILE), takes_attached=True)
    return World(
        PAIR,
        info,
        lambda: PoolScheduler(FlatBudget, policies=pool),
        list(plans),
        fleet=fleet,
        policies=PLAIN,
        **more,
    )


def run(one: World) -> World:
    one.run(max_events=20_000)
    return one


def longest_pause_ms(one: World, edge: int = 0) -> float:
    times = [at for at, _ in one.edges[edge].emitted]
    return max(after - before for before, after in itertools.pairwise(times)) / 1e6


def test_a_worker_that_dies_costs_its_step_and_nothing_else():
    dying = WorkerPlan(misfortune=Misfortune.CRASH, misfortune_ms=105.0)
    gone = run(world(plan(), workers=(dying, HEALTHY)))
    assert "worker 0 left" in [what for _, what in gone.trace]
    assert longest_pause_ms(gone) == 15.0  # half a step was done when it died


def test_a_frozen_worker_is_replaced_after_the_deadline():
    frozen = WorkerPlan(misfortune=Misfortune.FREEZE, misfortune_ms=105.0, freeze_ms=1e6)
    one = run(world(plan(), workers=(frozen, HEALTHY), deadline_ms=200.0))
    assert longest_pause_ms(one) == 215.0


def test_hedging_does_not_wait_for_the_deadline():
    frozen = WorkerPlan(misfortune=Misfortune.FREEZE, misfortune_ms=105.0, freeze_ms=150.0)
    one = run(
        world(
            plan(),
            workers=(frozen, HEALTHY),
            pool=PoolPolicies(hedging=HedgeAfter(3.0, 1.0)),
            deadline_ms=1e4,
        )
    )
    assert one.server.front.pool.counts.hedged == 1
    assert longest_pause_ms(one) == 40.0  # three steps until it is overdue, and one on the other worker


def test_the_last_worker_is_waited_for():
    dying = WorkerPlan(misfortune=Misfortune.CRASH, misfortune_ms=105.0, returns_ms=300.0)
    one = run(world(plan(), workers=(dying,)))
    assert longest_pause_ms(one) == 315.0
    assert "worker 1 joined" in [what for _, what in one.trace]


def test_a_drained_worker_is_left_without_a_pause():
    draining = WorkerPlan(misfortune=Misfortune.DRAIN, misfortune_ms=105.0)
    one = run(world(plan(), workers=(draining, HEALTHY)))
    assert "worker 0 left" in [what for _, what in one.trace]
    assert longest_pause_ms(one) == 10.0


def test_kv_moves_from_a_draining_worker():
    draining = WorkerPlan(misfortune=Misfortune.DRAIN, misfortune_ms=105.0)
    eager = PoolPolicies(transfers=lambda: MeasuredTransfers(least_tokens=1, fixed_us=0.0))
    one = run(world(plan(), workers=(draining, HEALTHY), pool=eager))
    assert sum("Transfer" in what for _, what in one.trace) == 2  # begun and ended
    assert longest_pause_ms(one) == 10.0


def test_a_session_that_kills_workers_is_ended_and_the_others_finish():
    plans = [plan(index, poisonous=index == 1, start_ms=5.0 * index) for index in range(4)]
    ruin = WorkerPlan(returns_ms=50.0)
    one = run(world(*plans, workers=(ruin, ruin, ruin), poison_kills=True))
    assert [type(edge.outcome) for edge in one.edges] == [Done, Failed, Done, Done]


def test_speculation_parallelism_uses_the_workers():
    def seconds(workers: int) -> float:
        fleet = (HEALTHY,) * workers
        one = run(world(plan(drafts=True), workers=fleet, pool=PoolPolicies(sp_degree=workers)))
        return one.edges[0].emitted[-1][0] / 1e9

    assert seconds(4) < 0.9 * seconds(1)


def test_a_worker_that_is_wrong_is_found_by_checks(monkeypatch: pytest.MonkeyPatch):
    """Facts that are established twice disagree, and the world says so."""
    right, other = SyntheticWorker.step, SyntheticWorker(ProfiledPair(Profile(seed=1)))

    def step(worker: SyntheticWorker, asked: Step, duration_us: int) -> StepOutcome:
        return right(other if asked.worker else worker, asked, duration_us)

    monkeypatch.setattr(SyntheticWorker, "step", step)
    with pytest.raises(LawBroken, match="facts disagree"):
        run(world(plan(), workers=(HEALTHY, HEALTHY), pool=PoolPolicies(check_share=1.0)))


def test_an_assistant_drafts_for_who_cannot():
    helper = AssistPlan(lambda: policies(drafts=True), SyntheticDrafter(PAIR, Temper.PERFECT))
    alone, helped = (
        run(world(plan(), workers=(HEALTHY,))),
        run(world(plan(assistants=(helper,)), workers=(HEALTHY,))),
    )
    assert helped.edges[0].emitted[-1][0] < 0.5 * alone.edges[0].emitted[-1][0]
    assert helped.edges[0].assistants[0].copy.counts.accepted > 10


def test_an_assistant_that_dies_changes_nothing_but_speed():
    helper = AssistPlan(lambda: policies(drafts=True), SyntheticDrafter(PAIR), life_ms=50.0)
    one = run(world(plan(assistants=(helper,)), workers=(HEALTHY,)))
    assert one.edges[0].assistants[0].vanished


def test_an_edge_leaves_a_server_that_drains_without_a_pause():
    moving = dataclasses.replace(policies(drafts=False), moves=True)
    one = run(
        world(plan(policies=moving), workers=(HEALTHY,), servers=2, outages=[Outage(400.0, 1e3, 0, 300.0)])
    )
    assert one.edges[0].session.counts.moves == 1
    assert one.edges[0].session.counts.reconnects == 0
    assert longest_pause_ms(one) <= 20.0


def test_an_edge_goes_to_another_server_when_its_own_crashes():
    one = run(world(plan(), workers=(HEALTHY,), servers=3, outages=[Outage(100.0, 1e3, 0)]))
    assert one.edges[0].session.counts.reconnects >= 1
    assert longest_pause_ms(one) < 200.0
