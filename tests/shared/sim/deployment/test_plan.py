"""Plans that make no sense are refused, by the name of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from shared.sim.deployment import DeploymentPlan, Visit
from shared.sim.world import Outage
from tests.shared.sim.deployment.small import PAIR, plan, pool, user


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"duration_ms": 0.0}, "duration_ms"),
        ({"duration_ms": float("inf")}, "duration_ms"),
        ({"warm_up_ms": 10_000.0}, "warm_up_ms"),
        ({"warm_up_ms": -1.0}, "warm_up_ms"),
        ({"check_share": 1.5}, "check_share"),
        ({"outages": (Outage(0.0, 1.0, server=1),)}, "server 1 of 1"),
    ],
)
def test_a_deployment_out_of_range(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        plan([user(0)], **given)


def test_a_deployment_without_a_server():
    with pytest.raises(ValueError, match="at least one"):
        DeploymentPlan(PAIR, (), (), 1000.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"start_ms": -1.0}, "start_ms"), ({"retries": -1}, "retries"), ({"retries": 256}, "0..255")],
)
def test_a_user_out_of_range(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        user(0, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [((-1.0, (1,), 1), "wait_ms"), ((0.0, (), 1), "prompt"), ((0.0, (1,), 0), "output_tokens")],
)
def test_a_visit_out_of_range(given: Any, said: str):
    with pytest.raises(ValueError, match=said):
        Visit(*given)


def test_pools_of_tests_hold_what_they_say():
    assert pool(sessions=3).limits.max_sessions == 3
