"""What a server would do for many users at once: closed-loop clients under the virtual clock, as figures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.batching import MeasuredBudget
from shared.pool import PoolPolicies, PoolScheduler
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import EdgePolicies, Request
from shared.session.front import CloudPolicies
from shared.sim.clock import MILLISECOND, SECOND
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter
from shared.sim.predict import model_info, random_prompt
from shared.sim.workers import FleetPlan, WorkerPlan
from shared.sim.world import World


@dataclass(frozen=True, slots=True)
class FleetPrediction:
    """Figures of the time in which every client was being served."""

    clients: int
    tokens_per_s: float
    """Of all clients together."""
    itl_p50_ms: float
    itl_p95_ms: float
    """Between tokens of one client, at the edge; tokens that come together are 0 apart."""
    ttft_p50_ms: float
    ttft_p95_ms: float
    acceptance_rate: float
    facts_per_token: float
    """Over the whole run, as the next."""
    tokens_per_step: float


def predict_fleet(
    profile: Profile,
    make_policies: Callable[[], EdgePolicies],
    *,
    clients: int,
    rtt_ms: float,
    tokens: int = 100,
    generations: int = 3,
    prompt_tokens: int = 16,
    patience_us: int = 0,
    adaptive_patience_us: int = 0,
    cloud: CloudPolicies | None = None,
    workers: int = 1,
    sp_degree: int = 1,
    pool: Callable[[], PoolScheduler] | None = None,
    seed: int = 0,
) -> FleetPrediction:
    """Simulate `clients` users of one server, each of which asks again as soon as its text has ended.

    `make_policies` makes the policies of one generation, since they remember. `generations` of `tokens` tokens each are
    what one client asks for; clients begin spread over the time of one step. `pool`, `workers`, `sp_degree`: see
    `predict`; a pool that is not given measures what its steps cost, as the product's does.

    Raises:
        ValueError: there was no time in which all clients were being served.
    """
    pair, own = ProfiledPair(profile), PoolPolicies(sp_degree=sp_degree)
    make_pool = pool if pool is not None else lambda: PoolScheduler(MeasuredBudget, policies=own)
    limits = Limits(max_live_nodes=4096, max_depth=4096, max_nodes_per_message=1024, max_sessions=clients)
    link = LinkProfile(delay_ms=rtt_ms / 2)
    plans: list[EdgePlan] = []
    for index in range(clients * generations):
        edge = make_policies()
        prompt = random_prompt(seed + index, prompt_tokens, profile.vocabulary_size)
        request = Request(
            prompt,
            tokens,
            SamplingParams(),
            patience_us=patience_us,
            adaptive_patience_us=adaptive_patience_us,
        )
        plans.append(
            EdgePlan(
                request,
                edge,
                SyntheticDrafter(pair) if edge.expansion is not None else None,
                up=link,
                down=link,
                start_ms=profile.step_ms * index / clients if index < clients else 0.0,
                after=index - clients if index >= clients else None,
            )
        )
    world = World(
        pair,
        replace(model_info(profile, limits), sp_degree=make_pool().sp_degree),
        make_pool,
        plans,
        seed=seed,
        policies=cloud,
        fleet=FleetPlan((WorkerPlan(),) * workers),
    )
    world.run(max_events=1 << 60)
    return _figures(world, clients, tokens * len(plans))


def _figures(world: World, clients: int, written: int) -> FleetPrediction:
    edges = world.edges
    times = [[at for at, count in edge.emitted for _ in range(count)] for edge in edges]
    begin = max(one[0] for one in times[:clients])
    end = min(one[-1] for one in times[-clients:])
    if end <= begin:
        raise ValueError(f"{clients} clients were never all served at once: ask for more tokens")
    within = sum(begin < at <= end for one in times for at in one)
    gaps = [
        (after - before) / MILLISECOND
        for one in times
        for before, after in itertools.pairwise(one)
        if begin < after <= end
    ]
    waits = [(one[0] - edge.started) / MILLISECOND for edge, one in zip(edges, times, strict=True)]
    counts = [edge.session.counts for edge in edges]
    judged = sum(one.judged for one in counts)
    return FleetPrediction(
        clients=clients,
        tokens_per_s=within / ((end - begin) / SECOND),
        itl_p50_ms=_quantile(gaps, 0.5),
        itl_p95_ms=_quantile(gaps, 0.95),
        ttft_p50_ms=_quantile(waits, 0.5),
        ttft_p95_ms=_quantile(waits, 0.95),
        acceptance_rate=sum(one.accepted for one in counts) / judged if judged else 0.0,
        facts_per_token=world.server.facts / written,
        tokens_per_step=written / world.server.steps,
    )


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
