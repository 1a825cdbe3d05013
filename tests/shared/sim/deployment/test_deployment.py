"""Deployments: users come and go, texts are the target's own, and what is recorded is what happened."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest

from shared.link import LinkProfile
from shared.policy.batching import FlatBudget
from shared.policy.hedging import HedgeAfter
from shared.policy.servers import Balance
from shared.pool import PoolPolicies, PoolScheduler
from shared.pool.books import Place, WorkerBooks
from shared.pool.packing import Packing
from shared.profiled import Profile, ProfiledPair
from shared.sim.clock import MILLISECOND
from shared.sim.deployment import (
    AssistantPlan,
    Deployment,
    DeploymentRecord,
    Ending,
    GenerationRecord,
    Loop,
    PoolPlan,
    figures_of,
)
from shared.sim.deployment.generation import Generation
from shared.sim.models import SyntheticWorker
from shared.sim.predict import predict
from shared.sim.setting import Faults, LawBroken
from shared.sim.workers import FleetPlan, Misfortune, WorkerPlan
from shared.sim.world import Outage
from shared.step import Fact, ItemOutcome, Step, StepItem, StepOutcome
from tests.shared.sim.deployment.small import LINK, PAIR, PROFILE, mean, plan, pool, run, user
from tests.shared.sim.progress import chain_arm, cloud_arm


def of(record: DeploymentRecord, number: int) -> list[GenerationRecord]:
    """A user's generations, in their order."""
    return sorted((one for one in record.generations if one.user == number), key=lambda one: one.visit)


def endings(record: DeploymentRecord) -> set[Ending]:
    return {one.ending for one in record.generations}


# ---- what one generation is ----


def test_one_generation_is_what_is_predicted_of_one_session():
    """The same machines with another driver: equal to the nanosecond."""
    record = run([user(0, 0.0, tokens=200)], duration_ms=60_000.0)
    said, found = predict(PROFILE, chain_arm(), rtt_ms=20.0, tokens=200), figures_of(record)
    assert record.generations[0].ttft_ms == said.ttft_ms
    assert record.generations[0].tpot_ms == said.tpot_ms
    assert found.total.acceptance_rate == said.acceptance_rate
    assert found.facts_per_token == said.facts_per_token
    assert found.total.steps_per_token == said.steps_per_token
    # Sessions are named by longer numbers here.
    assert found.total.bytes_per_token_down == pytest.approx(said.bytes_per_token_down, rel=0.02)


def test_a_user_thinks_after_each_answer():
    record = run([user(0, 100.0, 300.0, 0.0)], duration_ms=10_000.0)
    first, second, third = of(record, 0)
    assert first.started == 100 * MILLISECOND
    assert second.started == first.ended + 300 * MILLISECOND
    assert third.started == second.ended
    assert endings(record) == {Ending.DONE}
    assert [one.tokens for one in (first, second, third)] == [30, 30, 30]


def test_a_source_of_arrivals_does_not_wait_for_answers():
    record = run([user(0, 50.0, 50.0, 50.0, loop=Loop.OPEN)])
    assert [one.started // MILLISECOND for one in of(record, 0)] == [50, 100, 150]
    assert of(record, 0)[0].ended > of(record, 0)[2].started


def test_what_still_runs_when_the_time_is_over_is_cut():
    record = run([user(0, 0.0, tokens=10_000), user(1, 0.0)], duration_ms=1_000.0)
    cut, whole = of(record, 0)[0], of(record, 1)[0]
    assert (cut.ending, whole.ending) == (Ending.CUT, Ending.DONE)
    assert cut.ended == 1000 * MILLISECOND
    assert 30 < cut.tokens < 10_000
    assert max(cut.times) < 1000 * MILLISECOND
    figures = figures_of(record).total
    assert figures.tokens == cut.tokens + 30
    assert (figures.generations, figures.unfinished) == (1, 1)


def test_an_edge_that_never_drafts_sends_none():
    record = run([user(0, 0.0, drafts=False)])
    counts = of(record, 0)[0].counts
    assert (counts.drafted, counts.sent, counts.drafting_ns, counts.judged) == (0, 0, 0, 0)
    assert counts.steps == counts.self_decoded == 30


def test_a_drafter_of_the_users_own_decides_how_much_is_accepted():
    weak = ProfiledPair(Profile(acceptance=0.2, step_ms=10.0, draft_ms=2.0))
    users = [user(0, 0.0, tokens=300), user(1, 0.0, tokens=300, group="weak")]
    users[1] = type(users[1])("weak", weak, chain_arm, users[1].visits, LINK, LINK)
    figures = figures_of(run(users, duration_ms=60_000.0))
    assert figures.groups["edges"].acceptance_rate > 0.7
    assert figures.groups["weak"].acceptance_rate < 0.35
    assert figures.groups["edges"].accepted_per_step > 2 * figures.groups["weak"].accepted_per_step


# ---- the laws ----


ROUGH = LinkProfile(delay_ms=20.0, jitter_ms=10.0, kbit_per_s=2_000, loss=0.01)


def rough_fleet() -> FleetPlan:
    """Workers that come late, drain, crash, hang and come back, and can hold little."""
    return FleetPlan(
        (
            WorkerPlan(misfortune=Misfortune.CRASH, misfortune_ms=900.0, returns_ms=300.0, kv_tokens=200),
            WorkerPlan(misfortune=Misfortune.DRAIN, misfortune_ms=1500.0, returns_ms=500.0),
            WorkerPlan(join_ms=400.0, misfortune=Misfortune.FREEZE, misfortune_ms=500.0, freeze_ms=300.0),
            WorkerPlan(slowness=2.0, hiccup=0.05),
        ),
        noticed_ms=(0.0, 50.0),
    )


def rough_pool() -> PoolScheduler:
    return PoolScheduler(FlatBudget, policies=PoolPolicies(hedging=HedgeAfter(2.0, 1.0)))


def test_whatever_happens_texts_are_the_targets_own():
    users = [
        user(number, 20.0 * number, 100.0, 50.0, 0.0, tokens=40, up=ROUGH, down=ROUGH, balance=Balance.LOAD)
        for number in range(12)
    ]
    servers = [PoolPlan(rough_fleet(), rough_pool) for _ in range(2)]
    record = run(
        users,
        *servers,
        duration_ms=60_000.0,
        faults=Faults(stream_loss=0.005, step_failure=0.01, eviction=0.02),
        outages=(Outage(800.0, 700.0), Outage(2500.0, 500.0, server=1, notice_ms=300.0)),
    )
    assert endings(record) == {Ending.DONE}
    assert record.checked == len(record.generations) == 48
    counts = [one.counts for one in record.generations]
    assert sum(one.reconnects for one in counts) > 0
    assert sum(one.moves for one in counts) > 0


def wrong_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its twentieth step on a worker states one wrong fact in each."""
    right = SyntheticWorker.step

    def step(self: SyntheticWorker, step: Step, duration_us: int) -> StepOutcome:
        outcome = right(self, step, duration_us)
        if step.number < 20 or not outcome.items or not outcome.items[0].facts:
            return outcome
        (key, fact), *rest = outcome.items[0].facts
        wrong = ((key, Fact(fact.token ^ 1)), *rest)
        first = ItemOutcome(
            outcome.items[0].session, wrong, outcome.items[0].cached_length, outcome.items[0].computed
        )
        return StepOutcome((first, *outcome.items[1:]), duration_us)

    monkeypatch.setattr(SyntheticWorker, "step", step)


def test_a_wrong_text_is_found(monkeypatch: pytest.MonkeyPatch):
    wrong_once(monkeypatch)
    with pytest.raises(LawBroken, match="the target alone writes"):
        run([user(0, 0.0, tokens=100)])


def test_a_wrong_text_that_is_cut_is_found(monkeypatch: pytest.MonkeyPatch):
    wrong_once(monkeypatch)
    with pytest.raises(LawBroken, match="the target alone writes"):
        run([user(0, 0.0, tokens=10_000)], duration_ms=1000.0)


def test_only_a_share_of_the_texts_is_checked():
    users = [user(number, *[0.0] * 10, tokens=4) for number in range(20)]
    record = run(users, check_share=0.2)
    assert 20 <= record.checked <= 60
    assert record == run(users, check_share=0.2)


def test_a_fact_that_nobody_asks_for_is_found(monkeypatch: pytest.MonkeyPatch):
    """Law 4, by sampling: a pool that forgets one session for good."""
    pack = Packing.pack

    def forgetful(self: Packing, books: WorkerBooks, own: Sequence[Place], *others: Any) -> list[StepItem]:
        return pack(self, books, [place for place in own if place.joined != 2], *others)

    monkeypatch.setattr(Packing, "pack", forgetful)
    with pytest.raises(LawBroken, match=r"asked|is due"):
        run([user(number, 0.0, tokens=400) for number in range(4)], duration_ms=20_000.0)


def test_a_session_that_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PoolScheduler, "leave", lambda self, key: None)
    with pytest.raises(LawBroken, match="left in a server"):
        run([user(0, 0.0)], duration_ms=60_000.0)


# ---- full servers ----


def test_who_is_refused_comes_again_when_told_to():
    record = run([user(number, 0.0) for number in range(3)], pool(sessions=1), duration_ms=60_000.0)
    assert endings(record) == {Ending.DONE}
    refused = [one for one in record.generations if one.refusals]
    assert len(refused) == 2
    # The wait is part of what the user felt; the hint is at least 200 ms.
    assert all(one.started == 0 and one.ttft_ms is not None and one.ttft_ms > 200 for one in refused)
    figures = figures_of(record).total
    assert (figures.generations, figures.refused) == (3, 0)
    assert figures.refusals == sum(one.refusals for one in record.generations) >= 2


def test_who_does_not_come_again_is_refused():
    users = [user(number, 0.0, 500.0, retries=0) for number in range(3)]
    record = run(users, pool(sessions=1), duration_ms=60_000.0)
    figures = figures_of(record).total
    assert figures.generations + figures.refused == 6
    assert figures.refused == figures.refusals >= 2
    assert all(one.tokens == 0 for one in record.generations if one.ending is Ending.REFUSED)


def test_where_one_server_is_full_another_takes_the_session():
    users = [user(number, 0.0) for number in range(2)]
    record = run(users, pool(sessions=1), pool(sessions=1), duration_ms=60_000.0)
    assert endings(record) == {Ending.DONE}
    assert figures_of(record).total.refusals == 1
    assert max(one.ttft_ms or 0 for one in record.generations) < 200


def test_by_load_servers_share_the_sessions():
    """Each says how many it has, and the next goes where there is most room."""
    users = [user(number, 100.0 * number, tokens=3000, balance=Balance.LOAD) for number in range(4)]
    workers = figures_of(run(users, pool(), pool(), duration_ms=2_000.0)).workers
    assert min(worker.steps for worker in workers) > 100
    users = [user(number, 100.0 * number, tokens=3000) for number in range(4)]
    first, second = figures_of(run(users, pool(), pool(), duration_ms=2_000.0)).workers
    assert first.steps > 100
    assert second.steps == 0


def test_a_server_that_is_gone_for_long_fails_its_sessions_and_users_go_on():
    record = run([user(0, 0.0, 1000.0, tokens=500)], duration_ms=60_000.0, outages=(Outage(500.0, 40_000.0),))
    assert [one.ending for one in of(record, 0)] == [Ending.FAILED, Ending.DONE]
    assert figures_of(record).total.failed == 1


# ---- workers and helpers ----


def test_each_worker_steps_at_the_cost_of_its_own_hardware():
    slow, fast = (Profile(step_ms=cost) for cost in (40.0, 10.0))
    workers = (WorkerPlan(profile=slow, kind="old"), WorkerPlan(profile=fast, kind="new"))
    figures = figures_of(
        run([user(n, 0.0, tokens=4000) for n in range(4)], pool(*workers), duration_ms=3_000.0)
    )
    old, new = figures.workers
    assert (old.kind, new.kind) == ("old", "new")
    assert min(old.busy_share, new.busy_share) > 0.9
    assert old.present_ms * old.busy_share / old.steps == pytest.approx(40.0, rel=0.02)
    assert new.present_ms * new.busy_share / new.steps == pytest.approx(10.0, rel=0.02)


def test_a_worker_is_counted_while_it_is_there():
    workers = (
        WorkerPlan(misfortune=Misfortune.CRASH, misfortune_ms=1000.0, returns_ms=500.0),
        WorkerPlan(join_ms=3000.0),
    )
    found = run([user(0, 0.0, tokens=3000)], pool(*workers), duration_ms=4_000.0).workers
    assert [worker.present_ns // MILLISECOND for worker in found] == [1000, 2500, 1000]
    assert all(worker.busy_ns <= worker.present_ns for worker in found)


def test_a_device_near_the_cloud_helps_who_cannot_draft():
    near = AssistantPlan(PAIR, chain_arm, LinkProfile(delay_ms=0.5), LinkProfile(delay_ms=0.5))
    users = [user(number, 0.0, tokens=200, drafts=False) for number in range(3)]
    alone, helped = (figures_of(run(users, near=one, duration_ms=30_000.0)).total for one in (None, near))
    assert mean(alone.tpot_ms) == pytest.approx(10.0, rel=0.01)
    assert mean(helped.tpot_ms) < 0.7 * mean(alone.tpot_ms)


def test_a_user_brings_a_device_that_helps():
    assistant = AssistantPlan(PAIR, chain_arm, LINK, LINK, life_ms=100.0)
    helped = run([user(0, 0.0, tokens=200, drafts=False, assistants=(assistant,))], duration_ms=30_000.0)
    alone = run([user(0, 0.0, tokens=200, drafts=False)], duration_ms=30_000.0)
    assert helped.generations[0].ended < alone.generations[0].ended


# ---- what it leaves behind ----


def test_edges_live_only_while_they_generate():
    users = [user(number, *[5.0] * 20, tokens=4) for number in range(10)]
    deployment = Deployment(plan(users, duration_ms=30_000.0))
    record = deployment.run()
    assert len(record.generations) == 200
    gc.collect()
    left = [
        one for one in gc.get_objects() if type(one) is Generation and one._setting is deployment._setting
    ]
    assert not left


def test_time_is_told_as_it_passes():
    shares: list[float] = []
    Deployment(plan([user(n, 0.0, tokens=1000) for n in range(4)], duration_ms=8_000.0)).run(shares.append)
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_user_that_drafts_without_a_pair_does_not():
    one = user(0, 0.0, drafts=False)
    record = run([type(one)(one.group, None, chain_arm, one.visits, LINK, LINK)])
    assert record.generations[0].counts.forwards == 0
    other = run([type(one)(one.group, PAIR, cloud_arm, one.visits, LINK, LINK)])
    assert other.generations[0].times == record.generations[0].times
