"""What a fleet asks for, and what it got: N edges with drafters of their own at M cloud targets, in a closed loop.

As in DSD (arXiv 2511.21669): every edge asks again as soon as its text has ended, so the load is the same for every
policy, and a policy that is faster serves more. Clients, prompts and texts are functions of the seed alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edge_client.policies import DraftOptions, policies_for
from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.reconnect import Reconnect
from shared.pool import PoolScheduler
from shared.profiled import Profile, ProfiledPair
from shared.session.edge import EdgePolicies
from shared.session.front import CloudPolicies
from shared.sim.deployment import Deployment, DeploymentPlan, DeploymentRecord, PoolPlan, UserPlan, Visit
from shared.sim.predict import random_prompt
from shared.sim.random import Keyed
from shared.sim.workers import FleetPlan, WorkerPlan

UNLIMITED: Final = 1 << 30
LIMITS: Final = Limits(max_live_nodes=4096, max_depth=4096, max_nodes_per_message=1024, max_sessions=4096)
START_WITHIN_MS: Final = 200.0


@dataclass(frozen=True, slots=True)
class Client:
    """One edge."""

    acceptance: float
    draft_ms: float
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks whom."""

    name: str
    clients: tuple[Client, ...]
    workers: int = 1
    step_ms: float = 40.0
    flat_nodes: int = 32
    """Tokens that a step of the target takes at no cost: a GPU reads its weights once."""
    node_ms: float = 0.4
    """What each further one adds."""
    prompt_tokens: tuple[int, int] = (32, 256)
    output_tokens: tuple[int, int] = (40, 120)
    seconds: float = 10.0
    """Simulated, the warm-up included."""
    warm_up_s: float = 2.0

    def profile(self, client: Client, seed: int) -> Profile:
        """The target with this client's drafter. The target's text depends on the seed alone."""
        return Profile(
            client.acceptance,
            self.step_ms,
            client.draft_ms,
            seed=seed,
            flat_nodes=self.flat_nodes,
            node_ms=self.node_ms,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fleet got, in the measured time."""

    tokens_per_s: float
    """Of all clients together."""
    latency_ms: float
    """Per token of a client, waiting for prompts included: the mean over clients, each counting the same."""
    facts_per_token: float
    utilisation: float
    """Share of the workers' time with a step out."""
    acceptance_rate: float


def make_edge(options: DraftOptions) -> Callable[[], EdgePolicies]:
    """Makes the policies of one generation, as the live edge chooses them."""
    return lambda: policies_for(options, options.shape_for(), Reconnect(), UNLIMITED)


def simulate(
    load: Load,
    options: DraftOptions,
    make_pool: Callable[[], PoolScheduler],
    *,
    seed: int = 0,
    make_policies: Callable[[], EdgePolicies] | None = None,
) -> Outcome:
    """Run a load. `make_policies` takes the place of what `options` say."""
    target = ProfiledPair(load.profile(load.clients[0], seed))
    fixed_ms, adaptive_ms = options.patience_for(LIMITS.max_patience_us / 1000)
    make = make_edge(options) if make_policies is None else make_policies
    users: list[UserPlan] = []
    for number, client in enumerate(load.clients):
        link = LinkProfile(delay_ms=client.rtt_ms / 2)
        users.append(
            UserPlan(
                group=str(number),
                pair=ProfiledPair(load.profile(client, seed)),
                make_policies=make,
                visits=_visits(load, number, seed),
                up=link,
                down=link,
                start_ms=Keyed(seed, "start", number).uniform(0.0, START_WITHIN_MS),
                patience_us=round(fixed_ms * 1000),
                adaptive_patience_us=round(adaptive_ms * 1000),
            )
        )
    fleet = FleetPlan((WorkerPlan(),) * load.workers)
    # Prompt lookup would be the cloud's own speculation: it is no part of what is compared.
    pool = PoolPlan(fleet, make_pool, CloudPolicies(prompt_lookup=False), LIMITS)
    plan = DeploymentPlan(
        target, users, (pool,), load.seconds * 1000, load.warm_up_s * 1000, seed, check_share=0.0
    )
    return outcome_of(Deployment(plan).run())


def outcome_of(record: DeploymentRecord) -> Outcome:
    """The figures that windows are compared by.

    Raises:
        ValueError: a client got no token in the measured time.
    """
    begin, measured_s = record.warm_up_ns, record.measured_ns / 1e9
    tokens: dict[int, int] = {}
    for one in record.generations:
        got = sum(size for at, size in zip(one.times, one.sizes, strict=True) if at >= begin)
        tokens[one.user] = tokens.get(one.user, 0) + got
    if not all(tokens.values()):
        raise ValueError("a client got no token in the measured time: simulate for longer")
    total, counts = sum(tokens.values()), [one.counts for one in record.generations]
    judged = sum(one.judged for one in counts)
    present = sum(worker.present_ns for worker in record.workers)
    return Outcome(
        tokens_per_s=total / measured_s,
        latency_ms=sum(1000.0 * measured_s / one for one in tokens.values()) / len(tokens),
        facts_per_token=sum(worker.facts for worker in record.workers) / total,
        utilisation=sum(worker.busy_ns for worker in record.workers) / present,
        acceptance_rate=sum(one.accepted for one in counts) / judged if judged else 0.0,
    )


def mixed(
    count: int, acceptances: Sequence[float], drafts_ms: Sequence[float], rtts_ms: Sequence[float]
) -> tuple[Client, ...]:
    """So many clients; every value as often as any other, and none tied to another."""
    combinations = itertools.cycle(itertools.product(rtts_ms, acceptances))
    return tuple(
        Client(acceptance, drafts_ms[index % len(drafts_ms)], rtt_ms)
        for index, (rtt_ms, acceptance) in zip(range(count), combinations, strict=False)
    )


def _visits(load: Load, number: int, seed: int) -> Callable[[], Iterator[Visit]]:
    def visits() -> Iterator[Visit]:
        for turn in itertools.count():
            random = Keyed(seed, "visit", number, turn)
            length, output = random.integer(*load.prompt_tokens), random.integer(*load.output_tokens)
            yield Visit(0.0, random_prompt(random.integer(0, 1 << 48), length, 32_000), output)

    return visits
