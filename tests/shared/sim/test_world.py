"""The world itself: it must notice what it is there to notice."""

from __future__ import annotations

import pytest

from shared.link import LinkProfile
from shared.policy.batching import FlatBudget
from shared.policy.expansion import chain
from shared.policy.pacing import Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.window import FixedWindow
from shared.pool import one_worker
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import Done, EdgePolicies, Request
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter, SyntheticWorker
from shared.sim.predict import model_info
from shared.sim.setting import Faults, LawBroken
from shared.sim.world import Outage, World

PROFILE = Profile(step_ms=10.0)
PAIR = ProfiledPair(PROFILE)


def plan(**changes: object) -> EdgePlan:
    policies = EdgePolicies(FixedWindow(8), Streaming(), chain(), Reconnect(patience=5.0), 1 << 30)
    values = {"request": Request((1, 2, 3), 30, SamplingParams()), "policies": policies}
    return EdgePlan(**(values | {"drafter": SyntheticDrafter(PAIR)} | changes))


def world(*plans: EdgePlan, **more: object) -> World:
    return World(PAIR, model_info(PROFILE), lambda: one_worker(FlatBudget()), list(plans), **more)


def test_a_quiet_world_ends_with_the_targets_text():
    quiet = world(plan(), plan(start_ms=20.0))
    quiet.run()
    assert all(isinstance(edge.outcome, Done) for edge in quiet.edges)


def test_a_wrong_token_is_noticed(monkeypatch: pytest.MonkeyPatch):
    right, other = SyntheticWorker.step, SyntheticWorker(ProfiledPair(Profile(seed=1)))
    monkeypatch.setattr(
        SyntheticWorker, "step", lambda worker, step, duration_us: right(other, step, duration_us)
    )
    with pytest.raises(LawBroken, match="the target alone writes"):
        world(plan()).run()


def test_a_worker_that_never_answers_is_noticed():
    with pytest.raises(LawBroken, match="no end after"):
        world(plan(), faults=Faults(step_failure=1.0)).run(max_events=5000)


def test_a_server_that_never_comes_back_is_noticed():
    gone = world(plan(), outages=[Outage(50.0, 1e7)])
    with pytest.raises(LawBroken, match=r"UNAVAILABLE.*did not finish"):
        gone.run()


def test_a_server_that_comes_back_is_found_again_with_the_same_text():
    back = world(
        plan(up=LinkProfile(delay_ms=5), down=LinkProfile(delay_ms=5)), outages=[Outage(50.0, 300.0)]
    )
    back.run()
    assert back.edges[0].session.counts.reconnects > 0


def test_the_codec_changes_nothing():
    direct, coded = world(plan(), plan()), world(plan(), plan(), through_codec=True)
    direct.run()
    coded.run()
    assert direct.trace == coded.trace
