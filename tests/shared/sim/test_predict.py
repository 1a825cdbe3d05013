"""Progress: what losslessness tests cannot see. Virtual time is exact, so most of these are equalities."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest

from shared.messages import Limits
from shared.policy.batching import FlatBudget
from shared.pool import one_worker
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import Request
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter
from shared.sim.predict import model_info, predict, random_prompt
from shared.sim.world import World
from tests.shared.sim.progress import CHECKS, chain_arm, cloud_arm, sync, tree_arm


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_progress(check: Callable[[], None]):
    check()


@pytest.mark.parametrize(("acceptance", "block"), [(0.5, 1), (0.5, 4), (0.8, 2), (0.8, 8)])
def test_synchronous_speculation_matches_the_closed_form(acceptance: float, block: int):
    """Tokens a round: (1 - a^(k+1)) / (1 - a) (Leviathan et al. 2023, arXiv 2211.17192, equation 1)."""
    profile, rtt_ms = Profile(acceptance=acceptance, iid=True), 20.0
    per_round = (1 - acceptance ** (block + 1)) / (1 - acceptance)
    expected = (rtt_ms + block * profile.draft_ms + profile.step_ms) / per_round
    assert sync(profile, block, rtt_ms, 3000).tpot_ms == pytest.approx(expected, rel=0.03)


def test_stop_and_wait_waits_and_drafting_in_flight_does_not():
    profile = Profile()
    waits = [sync(profile, 5, rtt_ms, 200).tpot_ms for rtt_ms in (0.0, 100.0, 200.0)]
    assert waits[2] - waits[1] == pytest.approx(waits[1] - waits[0])
    assert waits[2] > profile.step_ms  # over a long link classic speculation loses to no speculation at all
    assert predict(profile, chain_arm(), rtt_ms=200.0).tpot_ms < profile.step_ms


@pytest.mark.parametrize("arm", [chain_arm, tree_arm])
def test_a_longer_link_is_never_faster(arm):
    times = [
        predict(Profile(), arm(), rtt_ms=rtt_ms, tokens=300).tpot_ms for rtt_ms in (0.0, 50.0, 150.0, 400.0)
    ]
    assert times == sorted(times)


def test_a_tree_beats_a_chain():
    for rtt_ms in (0.0, 50.0):
        tree, one = (predict(Profile(), arm, rtt_ms=rtt_ms).tpot_ms for arm in (tree_arm(), chain_arm()))
        assert tree < 0.9 * one


def test_a_plain_client_sends_next_to_nothing():
    got = predict(Profile(), cloud_arm(), rtt_ms=50.0, tokens=400)
    assert got.bytes_per_token_up < 2.0


def test_a_prediction_is_the_same_every_time():
    assert predict(Profile(), tree_arm(), rtt_ms=50.0) == predict(Profile(), tree_arm(), rtt_ms=50.0)


def test_another_seed_is_another_text_of_the_same_pair():
    one, two = (predict(Profile(), chain_arm(), rtt_ms=50.0, seed=seed) for seed in (0, 1))
    assert one != two
    assert one.tpot_ms == pytest.approx(two.tpot_ms, rel=0.15)


@pytest.mark.parametrize("nodes", [4, 8, 128])
def test_speculation_costs_no_other_user_a_token(nodes: int):
    """Eight sessions on one worker, six of them drafting all they can: each gets a token a step or better."""
    profile = Profile(step_ms=30.0)
    pair = ProfiledPair(profile)
    arms = [chain_arm, tree_arm, cloud_arm, chain_arm, tree_arm, cloud_arm, tree_arm, tree_arm]
    plans = []
    for index, arm in enumerate(arms):
        policies = arm()
        drafter = SyntheticDrafter(pair) if policies.expansion is not None else None
        request = Request(random_prompt(index, 8, 32_000), 60, SamplingParams())
        plans.append(EdgePlan(request, policies, drafter))
    limits = Limits(max_live_nodes=4096, max_depth=4096)
    world = World(pair, model_info(profile, limits), lambda: one_worker(FlatBudget(nodes, 8)), plans)
    world.run()
    for edge in world.edges:
        times = [at for at, count in edge.emitted for _ in range(count)]
        assert (times[-1] - times[0]) / (len(times) - 1) <= profile.step_ms * 1e6


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step_ms", [5.0, 30.0, 100.0])
def test_speculation_never_costs_time_anywhere(step_ms: float):
    grid = itertools.product(
        (0.0, 0.2, 0.5, 0.8, 0.95, 1.0),
        (0.0, 5.0, 20.0, 60.0, 200.0, 600.0),
        (0.1, 1.0, 3.0, 40.0),
        (1, 8, 64),
    )
    for acceptance, rtt_ms, draft_ms, window in grid:
        profile = dataclasses.replace(Profile(), acceptance=acceptance, step_ms=step_ms, draft_ms=draft_ms)
        for arm in (chain_arm(window), tree_arm(window), tree_arm(window, 8)):
            got = predict(profile, arm, rtt_ms=rtt_ms, tokens=100)
            assert got.tpot_ms <= step_ms, (acceptance, rtt_ms, draft_ms, window, arm)
            assert got.ttft_ms == rtt_ms + step_ms


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("draft_ms", [0.3, 2.5, 10.0, 40.0])
def test_an_adaptive_patience_never_costs_time_anywhere(draft_ms: float):
    grid = itertools.product(
        ((0.0, False), (0.3, True), (0.6, False), (0.8, False), (0.8, True), (0.95, False)),
        (0.0, 5.0, 12.0, 25.0, 60.0, 150.0, 300.0),
    )
    for (acceptance, iid), rtt_ms in grid:
        profile = Profile(acceptance=acceptance, draft_ms=draft_ms, iid=iid)
        for arm in (chain_arm(64), tree_arm(64, 8)):
            off = predict(profile, arm, rtt_ms=rtt_ms, tokens=100).tpot_ms
            on = predict(profile, arm, rtt_ms=rtt_ms, tokens=100, adaptive_patience_us=1_000_000).tpot_ms
            assert on <= profile.step_ms, (acceptance, iid, rtt_ms, arm)
            # With drafts that are nearly always right the whole text is a dozen steps: half of one decides nothing.
            assert on <= 1.03 * off + profile.step_ms / 200, (acceptance, iid, rtt_ms, arm)
