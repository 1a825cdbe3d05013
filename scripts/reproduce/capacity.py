"""SpecEdge's comparison (arXiv 2505.17052): what one verifier serves when its users' devices draft, at 14 ms RTT.

The baseline is speculation with the drafter on the verifier's own device, whose drafting for many sessions is counted
in two ways (`Batching`); where that is slower than not drafting, the baseline does not draft. Clients ask again as soon
as an answer has ended. The paper compares a server at 2.22 times the throughput with one whose users wait 11.24 % less
between tokens; more clients on one server is what both can be true of, so throughputs are compared at equal waiting.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_client.policies import policies_for
from scripts.bench_capacity.colocated import best_lookahead, budget, colocated, policies
from scripts.bench_capacity.setting import BATCHING, Arm, Setting
from scripts.bench_capacity.simulate import draft_of, lookahead_of
from scripts.bench_latency.arms import PLAIN
from shared.hardware import StepLoad
from shared.messages import Limits
from shared.policy.batching import MeasuredBudget
from shared.pool import PoolScheduler
from shared.session.front import CloudPolicies
from shared.sim.predict import default_reconnect
from shared.sim.predict_fleet import predict_fleet

RTT_MS: Final = 14.0
PAPER_THROUGHPUT: Final = 2.22
PAPER_COST_EFFICIENCY: Final = 1.91
PAPER_LATENCY: Final = -0.1124
TOKENS: Final = 64
"""Of one answer."""
LIMITS_MS: Final = (15.0, 20.0, 25.0, 30.0, 35.0)
"""For the mean time between tokens."""
GRANTED_MS: Final = Limits().max_patience_us / 1000


@dataclass(frozen=True, slots=True)
class Prices:
    """Per hour, in any currency.

    The defaults are in the paper's proportion: it puts a consumer's GPU at 1/14.43 of a data centre's.
    """

    verifier: float = 5.05
    """Of the accelerator that verifies, and drafts where both models are on it."""
    edge: float = 0.35
    """Of a device that drafts; 0: it is its user's own."""

    def per_million(self, tokens_per_s: float, edges: int) -> float:
        """Cost of a million tokens."""
        return (self.verifier + edges * self.edge) / (tokens_per_s * 3600.0) * 1e6


@dataclass(frozen=True, slots=True)
class CapacitySize:
    """How much is simulated."""

    clients: tuple[int, ...]
    drafts_ms: tuple[float, ...]
    answers: int
    """Of all clients together; each writes two at least."""


FULL: Final = CapacitySize((1, 2, 4, 8, 16, 24, 32, 48, 64), (3.0, 6.0, 12.0), 32)
QUICK: Final = CapacitySize((1, 4), (3.0,), 4)


@dataclass(frozen=True, slots=True)
class Task:
    """One way of serving so many clients."""

    arm: Arm
    clients: int
    draft_ms: float
    answers: int

    @property
    def setting(self) -> Setting:
        """See `Setting`."""
        return Setting(self.clients, RTT_MS, self.draft_ms, TOKENS, 1.0)


@dataclass(frozen=True, slots=True)
class Served:
    """What came of it."""

    arm: Arm
    clients: int
    draft_ms: float
    lookahead: int | None
    tokens_per_s: float
    itl_p95_ms: float
    ttft_p50_ms: float
    facts_per_token: float

    @property
    def itl_ms(self) -> float:
        """Mean time between tokens of one client, with what its next answer's first token waits."""
        return 1000.0 * self.clients / self.tokens_per_s


@dataclass(frozen=True, slots=True)
class Ratios:
    """Slipstream against co-located SI with the same number of clients."""

    draft_ms: float
    clients: int
    baseline: Arm
    throughput: float
    itl: float
    """Change of the mean time between tokens, -0.1 being a tenth less."""
    itl_p95: float
    cost_efficiency: float
    """Tokens per money, edges paid for."""
    cost_efficiency_own: float
    """The same, edges being their users' own."""
    most_for_edge: float
    """Price of an edge per hour up to which Slipstream's tokens are the cheaper ones."""


@dataclass(frozen=True, slots=True)
class Point:
    """As many clients as wait no longer than a limit on average between tokens."""

    clients: int
    tokens_per_s: float
    most: bool
    """As many as were simulated at most: there may be room for more."""


@dataclass(frozen=True, slots=True)
class Equal:
    """The most that one verifier delivers while no user waits longer between tokens than a limit."""

    draft_ms: float
    baseline: Arm
    limit_ms: float
    asked: float
    """Slipstream's users wait that share less at least: 0, or as much as the paper's."""
    other: Point | None
    """None: even one client waits longer."""
    mine: Point | None
    throughput: float | None
    """Slipstream's rate by the baseline's."""
    promised: float | None
    """How many times the clients arXiv 2606.25091 promises: 1 + lookahead * t_drafter / t_target, what the baseline's
    verifier spends on drafting."""
    cost_efficiency: float | None
    cost_efficiency_own: float | None


def tasks(size: CapacitySize) -> list[Task]:
    """The cloud alone has no drafter, so one of it is enough for all of them. The longest go first."""
    found = []
    for clients in sorted(size.clients, reverse=True):
        for draft_ms in size.drafts_ms:
            found += [
                Task(arm, clients, draft_ms, size.answers)
                for arm in (Arm.SLIPSTREAM, Arm.COLOCATED, Arm.COLOCATED_PAID)
            ]
        found.append(Task(Arm.CLOUD, clients, size.drafts_ms[0], size.answers))
    return found


def serve(task: Task) -> Served:
    """Simulate it."""
    setting = task.setting
    pair, lookahead, draft = setting.pair, lookahead_of(setting, task.arm), draft_of(task.arm)
    cloud = CloudPolicies() if task.arm is Arm.SLIPSTREAM else PLAIN
    make_budget = MeasuredBudget if lookahead is None else lambda: budget(lookahead)
    if lookahead is not None:
        cloud = policies(pair, lookahead)
        pair = colocated(pair, lookahead, BATCHING[task.arm])
    shape = draft.shape_for()
    adaptive_ms = 0.0 if shape is None else draft.patience_for(GRANTED_MS)[1]
    found = predict_fleet(
        pair,
        lambda: policies_for(draft, shape, default_reconnect(), pair.context_length),
        clients=task.clients,
        rtt_ms=RTT_MS,
        tokens=TOKENS,
        generations=max(2, task.answers // task.clients),
        adaptive_patience_us=round(adaptive_ms * 1000),
        cloud=cloud,
        pool=lambda: PoolScheduler(make_budget),
    )
    return Served(
        task.arm,
        task.clients,
        task.draft_ms,
        lookahead,
        found.tokens_per_s,
        found.itl_p95_ms,
        found.ttft_p50_ms,
        found.facts_per_token,
    )


def ratios(served: Sequence[Served], prices: Prices) -> list[Ratios]:
    """With equal clients."""
    found = []
    for mine in _of(served, Arm.SLIPSTREAM):
        for arm in BATCHING:
            (other,) = [one for one in baseline(served, arm, mine.draft_ms) if one.clients == mine.clients]
            throughput = mine.tokens_per_s / other.tokens_per_s
            found.append(
                Ratios(
                    mine.draft_ms,
                    mine.clients,
                    arm,
                    throughput,
                    mine.itl_ms / other.itl_ms - 1.0,
                    mine.itl_p95_ms / other.itl_p95_ms - 1.0,
                    _cheaper(prices, mine, other),
                    _cheaper(Prices(prices.verifier, 0.0), mine, other),
                    max(0.0, (throughput - 1.0) * prices.verifier / mine.clients),
                )
            )
    return found


def equals(served: Sequence[Served], prices: Prices) -> list[Equal]:
    """At equal waiting, and at the paper's 11.24 % less."""
    found = []
    drafts = sorted({one.draft_ms for one in served if one.arm is Arm.SLIPSTREAM})
    own = Prices(prices.verifier, 0.0)
    for draft_ms, arm, limit_ms in itertools.product(drafts, BATCHING, LIMITS_MS):
        other = within(baseline(served, arm, draft_ms), limit_ms)
        for asked in (0.0, -PAPER_LATENCY):
            mine = within(_of(served, Arm.SLIPSTREAM, draft_ms), limit_ms * (1.0 - asked))
            found.append(
                Equal(
                    draft_ms,
                    arm,
                    limit_ms,
                    asked,
                    other,
                    mine,
                    mine.tokens_per_s / other.tokens_per_s if mine and other else None,
                    None if other is None else _promised(arm, other.clients, draft_ms),
                    _cheaper(prices, mine, other) if mine and other else None,
                    _cheaper(own, mine, other) if mine and other else None,
                )
            )
    return found


def baseline(served: Sequence[Served], arm: Arm, draft_ms: float) -> list[Served]:
    """Co-located SI, and the cloud alone for as many clients as are served faster without drafting."""
    alone = {one.clients: one for one in _of(served, Arm.CLOUD)}
    return [
        max(one, alone[one.clients], key=lambda way: way.tokens_per_s) for one in _of(served, arm, draft_ms)
    ]


def within(served: Sequence[Served], limit_ms: float) -> Point | None:
    """Between two numbers of clients that were simulated, waiting is taken to grow along a straight line."""
    ordered = sorted(served, key=lambda one: one.clients)
    knots = [one.clients for one in ordered]
    most = None
    for clients in range(knots[0], knots[-1] + 1):
        itl_ms = float(np.interp(clients, knots, [one.itl_ms for one in ordered]))
        if itl_ms <= limit_ms:
            most = Point(clients, 1000.0 * clients / itl_ms, clients == knots[-1])
    return most


def _promised(arm: Arm, clients: int, draft_ms: float) -> float:
    pair = Setting(clients, RTT_MS, draft_ms, TOKENS, 1.0).pair
    lookahead = best_lookahead(pair, clients, BATCHING[arm])
    steps = colocated(pair, lookahead, BATCHING[arm])
    load = StepLoad(clients * (lookahead + 1), clients, 0.0)
    verifying_ms = pair.duration_ms(load)
    return steps.duration_ms(load) / verifying_ms


def _cheaper(prices: Prices, mine: Served | Point, other: Served | Point) -> float:
    """The baseline has no edges: its drafter is the verifier's device."""
    return prices.per_million(other.tokens_per_s, 0) / prices.per_million(mine.tokens_per_s, mine.clients)


def _of(served: Sequence[Served], arm: Arm, draft_ms: float | None = None) -> list[Served]:
    return [one for one in served if one.arm is arm and draft_ms in (None, one.draft_ms)]
