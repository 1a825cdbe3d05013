"""Predictions of several workers and several clients, held to what follows from the profile."""

from __future__ import annotations

import pytest

from shared.policy.batching import FlatBudget
from shared.pool import PoolPolicies, PoolScheduler
from shared.profiled import Profile
from shared.sim.predict import predict
from shared.sim.predict_fleet import predict_fleet
from tests.shared.sim.progress import chain_arm, cloud_arm

PROFILE = Profile(acceptance=0.8, step_ms=30.0, draft_ms=3.0, iid=True)


def test_more_workers_are_never_slower_and_soon_as_fast_as_it_gets():
    """One worker is waited for on average half a step; many are not. A wrong draft costs a step whoever finds it."""
    times = [
        predict(PROFILE, chain_arm(512), rtt_ms=0.0, workers=degree, sp_degree=degree).tpot_ms
        for degree in (1, 2, 4, 8)
    ]
    assert times == sorted(times, reverse=True)
    assert times[-1] < 0.85 * times[0]
    # DSI's bound, with a step for each wrong draft and a drafter's forward for each right one.
    assert times[-1] >= 0.8 * PROFILE.draft_ms + 0.2 * PROFILE.step_ms - 0.5


@pytest.mark.parametrize(("workers", "degree"), [(1, 8), (8, 1)])
def test_one_worker_or_one_step_at_a_time_is_no_parallelism(workers: int, degree: int):
    plain = predict(PROFILE, chain_arm(), rtt_ms=20.0, tokens=100)
    other = predict(PROFILE, chain_arm(), rtt_ms=20.0, tokens=100, workers=workers, sp_degree=degree)
    assert other.tpot_ms == plain.tpot_ms


def test_a_pool_may_be_given():
    policies = PoolPolicies(sp_degree=4)
    given = predict(
        PROFILE,
        chain_arm(),
        rtt_ms=0.0,
        tokens=100,
        workers=4,
        pool=lambda: PoolScheduler(FlatBudget, policies=policies),
    )
    assert given == predict(PROFILE, chain_arm(), rtt_ms=0.0, tokens=100, workers=4, sp_degree=4)


@pytest.mark.parametrize("clients", [1, 4, 16])
def test_plain_clients_share_every_step(clients: int):
    """A step that is flat gives each of them a token."""
    got = predict_fleet(PROFILE, cloud_arm, clients=clients, rtt_ms=14.0, tokens=40, generations=2)
    assert got.itl_p50_ms == got.itl_p95_ms == PROFILE.step_ms
    # Between two generations a client waits for a round trip and for the step after it.
    steps_per_round = 40 + 14.0 / PROFILE.step_ms + 1
    assert 40 / steps_per_round <= got.tokens_per_s * PROFILE.step_ms / 1000 / clients <= 1.0


def test_one_client_is_what_predict_says():
    one = predict(PROFILE, chain_arm(), rtt_ms=50.0, tokens=200)
    got = predict_fleet(PROFILE, chain_arm, clients=1, rtt_ms=50.0, tokens=200, generations=1)
    assert got.ttft_p50_ms == one.ttft_ms
    assert 1000 / got.tokens_per_s == pytest.approx(one.tpot_ms, rel=0.01)


def test_workers_divide_the_clients():
    """A step that is not flat is shorter for who shares it with fewer."""
    steep = Profile(step_ms=10.0, flat_nodes=1, node_ms=5.0)
    one, four = (
        predict_fleet(steep, cloud_arm, clients=8, rtt_ms=10.0, tokens=40, generations=2, workers=workers)
        for workers in (1, 4)
    )
    assert one.itl_p50_ms == 45.0
    assert four.itl_p50_ms == 15.0
    assert four.tokens_per_s > 2.5 * one.tokens_per_s


def test_drafting_serves_more_clients_than_the_cloud_alone():
    flat = Profile(step_ms=30.0, flat_nodes=64, node_ms=0.5)
    alone, drafting = (
        predict_fleet(flat, arm, clients=8, rtt_ms=14.0, tokens=40, generations=2).tokens_per_s
        for arm in (cloud_arm, chain_arm)
    )
    assert drafting > 1.5 * alone
