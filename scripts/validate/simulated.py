"""The simulated side: the product's machines in a deployment under the virtual clock, asked for the same texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edge_client.policies import policies_for
from scripts.bench_latency.prompts import PROMPT_TOKENS
from scripts.validate.configuration import Configuration
from scripts.validate.figures import Generation
from scripts.validate.overheads import Overheads
from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.batching import MeasuredBudget
from shared.policy.hedging import HedgeAfter
from shared.pool import PoolPolicies, PoolScheduler
from shared.profiled import ProfiledPair
from shared.sim.deployment import Deployment, DeploymentPlan, GenerationRecord, PoolPlan, UserPlan, Visit
from shared.sim.predict import default_reconnect, random_prompt
from shared.sim.workers import FleetPlan, WorkerPlan


def simulate(configuration: Configuration, overheads: Overheads) -> list[Generation]:
    """All generations of all clients."""
    profile = replace(
        configuration.pair,
        step_ms=configuration.pair.step_ms + overheads.step_ms,
        draft_ms=configuration.pair.draft_ms + overheads.forward_ms,
    )
    pool = PoolPolicies(hedging=HedgeAfter(), sp_degree=configuration.sp_degree)
    plan = DeploymentPlan(
        pair=ProfiledPair(profile),
        users=[
            _user(configuration, overheads, index, ProfiledPair(profile))
            for index in range(configuration.clients)
        ],
        servers=(
            PoolPlan(
                FleetPlan((WorkerPlan(),) * configuration.workers),
                lambda: PoolScheduler(MeasuredBudget, policies=pool),
                configuration.cloud,
                Limits(max_sessions=4 * configuration.clients),
            ),
        ),
        duration_ms=longest_ms(configuration),
        check_share=1.0,
    )
    record = Deployment(plan).run()
    return [_generation(one) for one in record.generations]


def longest_ms(configuration: Configuration) -> float:
    """Far more than any policy needs, as it is run: some steps and round trips for each token."""
    each = configuration.pair.step_ms + configuration.stretched_rtt_ms
    return 10.0 * configuration.generations * configuration.tokens * each


def _user(configuration: Configuration, overheads: Overheads, index: int, pair: ProfiledPair) -> UserPlan:
    draft = configuration.draft
    shape = draft.shape_for()
    patience_ms, adaptive_ms = (
        (0.0, 0.0) if shape is None else draft.patience_for(Limits().max_patience_us / 1000)
    )
    link = LinkProfile(delay_ms=configuration.stretched_rtt_ms / 2 + overheads.message_ms)

    def visits() -> Iterator[Visit]:
        for number in range(configuration.generations):
            prompt = index + number * configuration.clients
            yield Visit(
                0.0, random_prompt(prompt, PROMPT_TOKENS, pair.profile.vocabulary_size), configuration.tokens
            )

    return UserPlan(
        group="",
        pair=pair if configuration.drafts else None,
        make_policies=lambda: policies_for(draft, shape, default_reconnect(), pair.profile.context_length),
        visits=visits,
        up=link,
        down=link,
        start_ms=configuration.pair.step_ms * index / configuration.clients,
        patience_us=round(patience_ms * 1000),
        adaptive_patience_us=round(adaptive_ms * 1000),
    )


def _generation(record: GenerationRecord) -> Generation:
    return Generation(
        client=record.user,
        asked_ms=record.started / 1e6,
        times_ms=tuple(at / 1e6 for at in record.times),
        sizes=tuple(record.sizes),
        facts=record.counts.facts,
        accepted=record.counts.accepted,
        judged=record.counts.judged,
    )
