"""One simulated trial: some clients, some workers, and something that goes wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from edge_client.policies import DraftOptions, Shape, policies_for
from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.batching import MeasuredBudget
from shared.policy.reconnect import Reconnect
from shared.pool import PoolPolicies, PoolScheduler
from shared.profiled import Profile, ProfiledPair
from shared.session.front import CloudPolicies
from shared.sim.deployment import Deployment, DeploymentPlan, DeploymentRecord, PoolPlan, UserPlan, Visit
from shared.sim.predict import random_prompt
from shared.sim.setting import Faults
from shared.sim.workers import FleetPlan, WorkerPlan

UNLIMITED: Final = 1 << 30
PROFILE: Final = Profile(acceptance=0.8, step_ms=30.0, draft_ms=3.0, flat_nodes=64, node_ms=0.1)
"""A prompt of 1,000 tokens is computed in about 0.1 s beside what else is in the steps."""
CHAIN: Final = DraftOptions(shape=Shape.CHAIN)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is simulated. Everything else is the same in all of them."""

    fleet: FleetPlan
    policies: PoolPolicies = field(default_factory=PoolPolicies)
    clients: int = 8
    prompt_tokens: int = 64
    options: DraftOptions = CHAIN
    patience_us: int | None = None
    """None: what the options ask for."""
    adaptive_us: int | None = None
    """As above."""
    link: LinkProfile = LinkProfile(delay_ms=20.0)  # noqa: RUF009 - a frozen value
    """Of each direction."""
    up: LinkProfile | None = None
    """None: as `link`."""
    faults: Faults = field(default_factory=Faults)
    seconds: float = 12.0
    warm_up_s: float = 1.0
    event_ms: float | None = None
    """When something befalls the first worker; None: nothing does."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it, in the measured time and over all seeds. Pauses are times between two commits of a client."""

    pause_p50_ms: float
    pause_p95_ms: float
    pause_p99_ms: float
    pause_longest_ms: float
    """Of all clients and seeds."""
    worst_p50_ms: float
    """The longest pause of a client: the median over clients."""
    tpot_ms: float
    """Measured time by tokens, mean over clients."""
    facts_per_token: float
    """That workers stated, wanted or not."""
    steps_per_token: float
    """Verify steps that sessions took part in."""
    computed_per_token: float
    """Tokens that steps forwarded, prompts that were computed again among them."""
    given_up: int
    """Steps that were given up on and asked of another worker."""
    gone_after_ms: float | None
    """From the event until the first worker had left; None: it stayed, or there was no event. Mean over the seeds."""


def simulate(trial: Trial, seeds: int) -> Result:
    """Run a trial with each seed."""
    records: list[DeploymentRecord] = []
    given_up = 0
    for seed in range(seeds):
        pools: list[PoolScheduler] = []
        records.append(Deployment(_plan(trial, seed, pools)).run())
        given_up += sum(pool.counts.hedged for pool in pools)
    return _result(trial, records, given_up)


def workers(count: int, **first: object) -> tuple[WorkerPlan, ...]:
    """So many; `first` befalls the first of them."""
    plain = (WorkerPlan(),) * (count - 1)
    return (WorkerPlan(**first), *plain)  # type: ignore[arg-type]


def _plan(trial: Trial, seed: int, pools: list[PoolScheduler]) -> DeploymentPlan:
    def make_pool() -> PoolScheduler:
        pools.append(PoolScheduler(MeasuredBudget, policies=trial.policies))
        return pools[-1]

    limits = Limits(max_live_nodes=4096, max_depth=4096, max_nodes_per_message=1024, max_sessions=4096)
    fixed_ms, adaptive_ms = trial.options.patience_for(limits.max_patience_us / 1000)
    fixed_us = round(fixed_ms * 1000) if trial.patience_us is None else trial.patience_us
    adaptive_us = round(adaptive_ms * 1000) if trial.adaptive_us is None else trial.adaptive_us
    pair = ProfiledPair(PROFILE)
    users = [
        UserPlan(
            group="clients",
            pair=pair,
            make_policies=lambda: policies_for(
                trial.options, trial.options.shape_for(), Reconnect(), UNLIMITED
            ),
            visits=_visits(trial, number, seed),
            up=trial.link if trial.up is None else trial.up,
            down=trial.link,
            start_ms=PROFILE.step_ms * number / trial.clients,
            patience_us=fixed_us,
            adaptive_patience_us=adaptive_us,
        )
        for number in range(trial.clients)
    ]
    pool = PoolPlan(trial.fleet, make_pool, CloudPolicies(prompt_lookup=False), limits)
    return DeploymentPlan(
        pair,
        users,
        (pool,),
        trial.seconds * 1000,
        trial.warm_up_s * 1000,
        seed,
        faults=trial.faults,
        check_share=0.0,
    )


def _visits(trial: Trial, number: int, seed: int) -> Callable[[], Iterator[Visit]]:
    """One text that outlasts the trial: between texts there are pauses that are nobody's failure."""
    prompt = random_prompt((seed << 16) + number, trial.prompt_tokens, PROFILE.vocabulary_size)
    return lambda: iter((Visit(0.0, prompt, 1 << 18),))


def _result(trial: Trial, records: list[DeploymentRecord], given_up: int) -> Result:
    pauses: list[float] = []
    worst: list[float] = []
    tokens, times_ms = 0, []
    for record in records:
        begin = record.warm_up_ns
        for one in record.generations:
            # What still lasts when the time is over is a pause as well.
            times = [at for at in one.times if at >= begin] + [record.duration_ns]
            own = [(after - before) / 1e6 for before, after in itertools.pairwise(times)]
            pauses += own
            worst.append(max(own, default=record.measured_ns / 1e6))
            got = sum(size for at, size in zip(one.times, one.sizes, strict=True) if at >= begin)
            tokens += got
            times_ms.append(record.measured_ns / 1e6 / max(1, got))
    every = [worker for record in records for worker in record.workers]
    counts = [one.counts for record in records for one in record.generations]
    p50, p95, p99 = (float(np.quantile(pauses, share, method="higher")) for share in (0.5, 0.95, 0.99))
    return Result(
        pause_p50_ms=p50,
        pause_p95_ms=p95,
        pause_p99_ms=p99,
        pause_longest_ms=max(pauses),
        worst_p50_ms=float(np.median(worst)),
        tpot_ms=float(np.mean(times_ms)),
        facts_per_token=sum(worker.facts for worker in every) / tokens,
        steps_per_token=sum(one.steps for one in counts) / tokens,
        computed_per_token=sum(worker.nodes for worker in every) / tokens,
        given_up=given_up,
        gone_after_ms=_gone_after(trial.event_ms, records),
    )


def _gone_after(event_ms: float | None, records: list[DeploymentRecord]) -> float | None:
    firsts = [(record, record.workers[0]) for record in records]
    if event_ms is None or any(worker.present_ns >= record.measured_ns for record, worker in firsts):
        return None
    left = [(record.warm_up_ns + worker.present_ns) / 1e6 for record, worker in firsts]
    return sum(left) / len(left) - event_ms
