"""Small deployments for tests: a few users with fixed texts, flat steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.batching import FlatBudget
from shared.pool import PoolScheduler
from shared.profiled import Profile, ProfiledPair
from shared.session.front import CloudPolicies
from shared.sim.deployment import (
    Deployment,
    DeploymentPlan,
    DeploymentRecord,
    PoolPlan,
    Spread,
    UserPlan,
    Visit,
)
from shared.sim.predict import random_prompt
from shared.sim.workers import FleetPlan, WorkerPlan
from tests.shared.sim.progress import chain_arm, cloud_arm

PROFILE = Profile(acceptance=0.8, step_ms=10.0, draft_ms=2.0)
PAIR = ProfiledPair(PROFILE)
LINK = LinkProfile(delay_ms=10.0)


def visits(user: int, *waits: float, tokens: int = 30, prompt: int = 16) -> Callable[[], Iterator[Visit]]:
    """One visit after each of the waits."""
    return lambda: (
        Visit(wait, random_prompt(1000 * user + number, prompt, PROFILE.vocabulary_size), tokens)
        for number, wait in enumerate(waits)
    )


def user(number: int, *waits: float, tokens: int = 30, drafts: bool = True, **options: Any) -> UserPlan:
    """A user of group `edges` on a link of 20 ms there and back."""
    given: dict[str, Any] = {"group": "edges", "up": LINK, "down": LINK, **options}
    pair, policies = (PAIR, chain_arm) if drafts else (None, cloud_arm)
    return UserPlan(pair=pair, make_policies=policies, visits=visits(number, *waits, tokens=tokens), **given)


def pool(*workers: WorkerPlan, sessions: int = 64, fleet: FleetPlan | None = None) -> PoolPlan:
    """A server with flat steps; one worker if none is named."""
    return PoolPlan(
        fleet if fleet is not None else FleetPlan(workers or (WorkerPlan(),)),
        lambda: PoolScheduler(FlatBudget),
        CloudPolicies(),
        Limits(max_sessions=sessions),
    )


def plan(users: Sequence[UserPlan], *servers: PoolPlan, **options: Any) -> DeploymentPlan:
    """Ten seconds with every text checked, unless something else is asked for."""
    given: dict[str, Any] = {"duration_ms": 10_000.0, "check_share": 1.0, **options}
    return DeploymentPlan(given.pop("pair", PAIR), users, servers or (pool(),), **given)


def mean(spread: Spread | None) -> float:
    """Of something that was measured."""
    assert spread is not None
    return spread.mean


def run(users: Sequence[UserPlan], *servers: PoolPlan, **options: Any) -> DeploymentRecord:
    """See `plan`."""
    return Deployment(plan(users, *servers, **options)).run()
