"""The pool of a seeded world: how many workers, what befalls them, and the policies that route work to them.

Drawn from streams of their own, so that everything else in a world is as it was before there were several workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from shared.policy.batching import Batching, Fifo, FlatBudget, LengthAware, MeasuredBudget
from shared.policy.hedging import HedgeAfter, Hedging, NoHedging
from shared.policy.routing import LeastWork, RandomRouting, RoundRobin, Routing, ShortestQueue
from shared.policy.transfer import MeasuredTransfers, NoTransfers, Transfers
from shared.pool import PoolPolicies, PoolScheduler, PrefillLimits, one_worker
from shared.sim.random import Keyed
from shared.sim.workers import FleetPlan, Misfortune, WorkerPlan

LONE_SHARE = 0.25
"""Worlds with one worker that nothing happens to."""
COUNTS = (1, 2, 2, 3, 3, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What a world's servers are made of."""

    make_budget: Callable[[], FlatBudget | MeasuredBudget]
    prefill: PrefillLimits
    lone_kv_tokens: int | None
    """What a worker without a fleet can hold."""
    fleet: FleetPlan | None
    """None: the pool that is made has its worker."""
    policies: PoolPolicies = field(default_factory=PoolPolicies)
    """Of a pool with a fleet."""

    @property
    def sp_degree(self) -> int:
        """Steps of a session that may be out at once."""
        return self.policies.sp_degree

    def make_pool(self) -> PoolScheduler:
        """The pool of one server, in one of its lives."""
        if self.fleet is None:
            return one_worker(self.make_budget(), self.prefill, self.lone_kv_tokens)
        return PoolScheduler(self.make_budget, self.prefill, self.policies)


def make_plan(seed: int, step_ms: float, nodes: int, share: int, chunk: int) -> PoolPlan:
    """The pool of a seed; duration and nodes of a step, nodes of one session in it, and tokens of a prompt's chunk are
    given.
    """
    random = Keyed(seed, "pool")
    budget = random.choice((FlatBudget, MeasuredBudget))
    kv_tokens = random.choice((None, None, 80, 250))
    make_budget, prefill = partial(budget, nodes, share), PrefillLimits(chunk, 2 * chunk)
    random = Keyed(seed, "fleet")
    if random.chance(LONE_SHARE):
        return PoolPlan(make_budget, prefill, kv_tokens, None)
    fleet = _fleet(random, step_ms, kv_tokens)
    return PoolPlan(make_budget, prefill, kv_tokens, fleet, _policies(Keyed(seed, "pool policies")))


def _fleet(random: Keyed, step_ms: float, kv_tokens: int | None) -> FleetPlan:
    deadline_ms = random.choice((60.0, 500.0, 3000.0))
    troubled = random.choice((0.0, 0.5, 0.9))
    late = random.choice((0.0, 0.4))
    # Most texts are written while edges still come, or within some dozens of steps after that.
    within_ms = random.choice((100.0, 500.0, 500.0 + 30 * step_ms))
    hiccup = random.choice((0.0, 0.0, 0.05, 0.3))
    return FleetPlan(
        tuple(
            WorkerPlan(
                join_ms=random.uniform(0, 1500) if random.chance(late) else 0.0,
                slowness=random.choice((1.0, 1.0, 1.0, 1.5, 4.0)),
                hiccup=hiccup,
                kv_tokens=kv_tokens,
                misfortune=random.choice(tuple(Misfortune)) if random.chance(troubled) else None,
                misfortune_ms=random.uniform(0, within_ms),
                freeze_ms=random.choice((0.2, 0.9, 2.0)) * deadline_ms,
                returns_ms=random.choice((None, 0.0, 100.0, 1000.0)),
            )
            for _ in range(random.choice(COUNTS))
        ),
        deadline_ms=deadline_ms,
        noticed_ms=random.choice(((0.0,), (0.0, 20.0, deadline_ms))),
        transfer_token_ms=random.choice((0.001, 0.1, 5.0)),
        transfer_failure=random.choice((0.0, 0.0, 0.3, 1.0)),
        poison_kills=random.chance(0.5),
    )


def _policies(random: Keyed) -> PoolPolicies:
    routings: tuple[Callable[[], Routing], ...] = (RandomRouting, RoundRobin, ShortestQueue, LeastWork)
    batchings: tuple[Batching, ...] = (Fifo(), LengthAware())
    hedgings: tuple[Hedging, ...] = (NoHedging(), HedgeAfter(2.0, 1.0), HedgeAfter())
    transfers: tuple[Callable[[], Transfers], ...] = (NoTransfers, MeasuredTransfers, _eager, _eager)
    return PoolPolicies(
        routing=random.choice(routings),
        batching=random.choice(batchings),
        hedging=random.choice(hedgings),
        transfers=random.choice(transfers),
        sp_degree=random.choice((1, 1, 2, 3, 4, 8)),
        helpers=random.choice((None, None, 0, 1, 3)),
        sessions_per_step=random.choice((None, None, 1, 2)),
        check_share=random.choice((0.0, 0.0, 0.2, 1.0)),
    )


def _eager() -> Transfers:
    """Moves whatever there is."""
    return MeasuredTransfers(least_tokens=1, fixed_us=0.0)
