"""What a profiled pair would do over a link: one session under the virtual clock, as figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from shared.link import LinkProfile
from shared.messages import Limits, ModelInfo
from shared.policy.batching import FlatBudget
from shared.policy.reconnect import Reconnect
from shared.pool import PoolPolicies, PoolScheduler
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import EdgePolicies, Request
from shared.session.front import CloudPolicies
from shared.sim.clock import MILLISECOND
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter
from shared.sim.random import Keyed
from shared.sim.repeating import RepeatingPair
from shared.sim.workers import FleetPlan, WorkerPlan
from shared.sim.world import World


@dataclass(frozen=True, slots=True)
class Prediction:
    """Figures of one simulated generation."""

    ttft_ms: float
    tpot_ms: float
    """(last - first token) / (N - 1), at the edge."""
    acceptance_rate: float
    facts_per_token: float
    steps_per_token: float
    bytes_per_token_up: float
    bytes_per_token_down: float


def model_info(profile: Profile, limits: Limits | None = None) -> ModelInfo:
    """How a profiled target introduces itself."""
    return ModelInfo(
        name="profiled",
        model_fingerprint=f"profiled-{profile.seed}-{profile.vocabulary_size}",
        tokenizer_fingerprint="",
        vocabulary_size=profile.vocabulary_size,
        context_length=profile.context_length,
        stop_tokens=(),
        limits=limits if limits is not None else Limits(),
        takes_attached=True,
    )


def random_prompt(seed: int, length: int, vocabulary_size: int) -> tuple[int, ...]:
    """Token ids out of the air, the same for the same seed."""
    random = Keyed(seed, "prompt")
    return tuple(random.integer(0, vocabulary_size - 1) for _ in range(length))


def predict(
    profile: Profile,
    policies: EdgePolicies,
    *,
    rtt_ms: float,
    tokens: int = 400,
    patience_us: int = 0,
    adaptive_patience_us: int = 0,
    cloud: CloudPolicies | None = None,
    repeating: float = 0.0,
    budget: FlatBudget | None = None,
    seed: int = 0,
    up: LinkProfile | None = None,
    down: LinkProfile | None = None,
    workers: int = 1,
    sp_degree: int = 1,
    pool: Callable[[], PoolScheduler] | None = None,
) -> Prediction:
    """Simulate one session; the virtual clock makes it exact and free of noise.

    `repeating` is the share of contexts in which the target's next token depends on the last one alone: a text that
    repeats itself. `up` and `down` replace the ideal link of `rtt_ms`, each for its direction.
    `sp_degree` steps of the session may be out at once, on as many of the `workers`. `pool` makes the pool in place of
    `budget` and `sp_degree`, before any worker has joined it.
    """
    pair = RepeatingPair(profile, repeating) if repeating else ProfiledPair(profile)
    limits = Limits(max_live_nodes=4096, max_depth=4096, max_nodes_per_message=1024)
    make_pool = pool if pool is not None else pool_of(sp_degree, budget)
    info = replace(model_info(profile, limits), sp_degree=make_pool().sp_degree)
    prompt = random_prompt(seed, 16, profile.vocabulary_size)
    link = LinkProfile(delay_ms=rtt_ms / 2)
    plan = EdgePlan(
        Request(
            prompt,
            tokens,
            SamplingParams(),
            patience_us=patience_us,
            adaptive_patience_us=adaptive_patience_us,
        ),
        policies,
        SyntheticDrafter(pair) if policies.expansion is not None else None,
        up=up if up is not None else link,
        down=down if down is not None else link,
    )
    world = World(
        pair,
        info,
        make_pool,
        [plan],
        seed=seed,
        policies=cloud,
        fleet=FleetPlan((WorkerPlan(),) * workers),
    )
    world.run()
    edge = world.edges[0]
    times = [at for at, count in edge.emitted for _ in range(count)]
    counts = edge.session.counts
    return Prediction(
        ttft_ms=(times[0] - 0) / MILLISECOND,
        tpot_ms=(times[-1] - times[0]) / (len(times) - 1) / MILLISECOND,
        acceptance_rate=counts.accepted / counts.judged if counts.judged else 0.0,
        facts_per_token=world.server.facts / tokens,
        steps_per_token=world.server.steps / tokens,
        bytes_per_token_up=edge.bytes_up / tokens,
        bytes_per_token_down=edge.bytes_down / tokens,
    )


def pool_of(sp_degree: int = 1, budget: FlatBudget | None = None) -> Callable[[], PoolScheduler]:
    """Makes pools that nobody has joined: flat steps, and whatever else is the product's own."""
    flat = budget if budget is not None else FlatBudget()
    return lambda: PoolScheduler(lambda: flat, policies=PoolPolicies(sp_degree=sp_degree))


def default_reconnect() -> Reconnect:
    """The reconnect policy of the live edge."""
    return Reconnect()
