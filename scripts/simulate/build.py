"""From a scenario to the deployment that the simulator runs: the one place where its words become policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from edge_client.policies import DraftOptions, Mode, policies_for
from scripts.simulate.schema import Scenario, Target
from scripts.simulate.schema_fleets import (
    Assistant,
    Drafter,
    Drafting,
    Fleet,
    IidAcceptance,
    MarkovAcceptance,
    Network,
    ProfiledAcceptance,
    RecordedAcceptance,
)
from scripts.simulate.schema_servers import (
    BatchingName,
    Befalls,
    Hardware,
    Memory,
    PoolOptions,
    RoutingName,
    Server,
    TransfersName,
    Workers,
)
from scripts.simulate.users import MS_PER_S, asking_of, lengths_of, visits_of
from scripts.wan.profiles import PROFILES, Handover, WanProfile
from shared.acceptance import Iid, Markov, Process, Profiled, Recorded, make_pair
from shared.drafter_trace import read_trace
from shared.hardware import HardwareProfile, read_hardware
from shared.link import Schedule
from shared.messages import Limits
from shared.policy.admission import TokenPace
from shared.policy.batching import Fifo, FlatBudget, LengthAware, MeasuredBudget, NodeBudget
from shared.policy.hedging import HedgeAfter, NoHedging
from shared.policy.reconnect import Reconnect
from shared.policy.routing import LeastWork, RandomRouting, RoundRobin, Routing, ShortestQueue
from shared.policy.transfer import MeasuredTransfers, NoTransfers, Transfers
from shared.pool import PoolPolicies, PoolScheduler, PrefillLimits
from shared.profiled import Profile, ProfiledPair
from shared.session.edge import EdgePolicies
from shared.session.front import CloudPolicies
from shared.sim.deployment import AssistantPlan, DeploymentPlan, PoolPlan, UserPlan
from shared.sim.workers import FleetPlan, Misfortune, WorkerPlan
from shared.sim.world import Outage

UNLIMITED: Final = 1 << 30
"""Tokens that a synthetic drafter can look back on."""


def build(scenario: Scenario, seed: int | None = None) -> DeploymentPlan:
    """The deployment of a scenario.

    Args:
        scenario: what `load` has found right.
        seed: in place of the scenario's own.

    Raises:
        UserError: a file that the scenario names has changed since it was loaded.
    """
    seed = scenario.seed if seed is None else seed
    return DeploymentPlan(
        pair=ProfiledPair(_profile(scenario.target)),
        users=tuple(user for fleet in scenario.fleets for user in _users(scenario, fleet, seed)),
        servers=tuple(_server(scenario.target, server) for server in scenario.servers),
        duration_ms=scenario.duration_s * MS_PER_S,
        warm_up_ms=scenario.warm_up_s * MS_PER_S,
        seed=seed,
        outages=tuple(
            Outage(
                one.at_s * MS_PER_S,
                one.lasts_s * MS_PER_S,
                number,
                None if one.drains_s is None else one.drains_s * MS_PER_S,
            )
            for number, server in enumerate(scenario.servers)
            for one in server.outages
        ),
        near=None if scenario.near is None else _assistant(scenario.target, scenario.near),
    )


# ---- edges ----


def _users(scenario: Scenario, fleet: Fleet, seed: int) -> Iterator[UserPlan]:
    asking, lengths = asking_of(fleet, seed), lengths_of(scenario.workloads[fleet.workload])
    drafting = fleet.drafting if fleet.drafter is not None else fleet.drafting.model_copy(update=_NEVER)
    granted_ms = min(server.policies.patience_ms for server in scenario.servers)
    make_policies, patience_us, adaptive_us = _drafting(drafting, granted_ms)
    network = wan_profile(fleet.network)
    up, down = network.up, network.down
    pair = None if fleet.drafter is None else _pair(scenario.target, fleet.drafter)
    assistants = tuple(_assistant(scenario.target, one) for one in fleet.assistants)
    for edge in range(fleet.count):
        yield UserPlan(
            group=fleet.name,
            pair=pair,
            make_policies=make_policies,
            visits=partial(visits_of, scenario, fleet, edge, asking.waits, lengths, seed),
            up=up,
            down=down,
            start_ms=asking.start_ms(edge),
            loop=asking.loop,
            patience_us=patience_us,
            adaptive_patience_us=adaptive_us,
            balance=fleet.balance,
            retries=fleet.retries,
            assistants=assistants,
        )


def _drafting(drafting: Drafting, granted_ms: float) -> tuple[Callable[[], EdgePolicies], int, int]:
    """What makes an edge's policies, and the patience that it asks for: fixed and adaptive (us)."""
    options = DraftOptions(**dict(drafting))
    shape = options.shape_for()
    fixed_ms, adaptive_ms = (0.0, 0.0) if shape is None else options.patience_for(granted_ms)
    return (
        lambda: policies_for(options, shape, Reconnect(), UNLIMITED),
        round(fixed_ms * 1000),
        round(adaptive_ms * 1000),
    )


def _assistant(target: Target, plan: Assistant) -> AssistantPlan:
    network = wan_profile(plan.network)
    make_policies, _, _ = _drafting(plan.drafting, 0.0)
    return AssistantPlan(
        pair=_pair(target, plan.drafter),
        make_policies=make_policies,
        up=network.up,
        down=network.down,
        delay_ms=plan.delay_ms,
    )


def wan_profile(network: Network) -> WanProfile:
    """A scenario's network in figures."""
    base = WanProfile(0.0) if network.profile is None else PROFILES[network.profile]
    given = network.model_dump(exclude={"profile", "outage", "handover"}, exclude_none=True)
    # What a profile says of the way up alone is a part of a figure that is another one now.
    for figure, part in _PARTS.items():
        if figure in given:
            given[part] = None
    if network.outage is not None:
        given["outage"] = Schedule(**dict(network.outage))
    if network.handover is not None:
        given["handover"] = Handover(**dict(network.handover))
    return replace(base, **given)


_PARTS: Final = {"rtt_ms": "up_delay_ms", "jitter_ms": "up_jitter_ms", "loss_percent": "up_loss_percent"}


def _pair(target: Target, drafter: Drafter) -> ProfiledPair:
    """The target as this drafter sees it."""
    profile = replace(_profile(target), draft_ms=drafter.step_ms, branch_cost=drafter.branch_cost)
    process: Process
    match drafter.acceptance:
        case ProfiledAcceptance(rate=rate):
            profile, process = replace(profile, acceptance=rate), Profiled()
        case IidAcceptance(rate=rate):
            profile, process = replace(profile, acceptance=rate), Iid()
        case MarkovAcceptance() as moods:
            process = Markov(moods.easy, moods.hard, moods.stay_easy, moods.stay_hard)
        case RecordedAcceptance(file=file):
            process = Recorded(read_trace(file))
    return make_pair(profile, process)


def _profile(target: Target) -> Profile:
    return Profile(
        vocabulary_size=target.vocabulary_size, context_length=target.context_length, seed=target.seed
    )


# ---- servers ----


def _server(target: Target, server: Server) -> PoolPlan:
    options = server.policies
    limits = Limits(max_sessions=options.max_sessions, max_patience_us=round(options.patience_ms * 1000))
    return PoolPlan(
        fleet=FleetPlan(
            workers=tuple(plan for group in server.workers for plan in _workers(target, server, group)),
            deadline_ms=server.worker_deadline_s * MS_PER_S,
            noticed_ms=(server.crash_noticed_ms,),
            transfer_token_ms=server.transfer_token_ms,
            transfer_failure=server.transfer_failure,
        ),
        make_pool=_pool(options),
        policies=CloudPolicies(
            prompt_lookup=options.prompt_lookup, adaptive_patience=options.adaptive_patience
        ),
        limits=limits,
    )


def _pool(options: PoolOptions) -> Callable[[], PoolScheduler]:
    budget: Callable[[], NodeBudget] = (
        MeasuredBudget if options.batching is BatchingName.MEASURED else FlatBudget
    )
    prefill = PrefillLimits(options.prefill_chunk, options.prefill_per_step)
    policies = pool_policies(options)
    return lambda: PoolScheduler(budget, prefill, policies)


def pool_policies(options: PoolOptions) -> PoolPolicies:
    """What a server's pool is run by."""
    hedges = HedgeAfter(options.hedge_factor, options.hedge_least_ms) if options.hedge_factor else NoHedging()
    return PoolPolicies(
        routing=_ROUTINGS[options.routing],
        batching=LengthAware() if options.batching is BatchingName.LENGTH_AWARE else Fifo(),
        hedging=hedges,
        transfers=_TRANSFERS[options.transfers],
        admission=None if options.admission_itl_ms is None else TokenPace(options.admission_itl_ms),
        sp_degree=options.sp_degree,
        helpers=options.helpers,
        sessions_per_step=options.sessions_per_step,
        check_share=options.check_share,
    )


_ROUTINGS: Final[dict[RoutingName, Callable[[], Routing]]] = {
    RoutingName.RANDOM: RandomRouting,
    RoutingName.ROUND_ROBIN: RoundRobin,
    RoutingName.SHORTEST_QUEUE: ShortestQueue,
    RoutingName.LEAST_WORK: LeastWork,
}
_TRANSFERS: Final[dict[TransfersName, Callable[[], Transfers]]] = {
    TransfersName.MEASURED: MeasuredTransfers,
    TransfersName.NEVER: NoTransfers,
}


def _workers(target: Target, server: Server, group: Workers) -> list[WorkerPlan]:
    """The workers of a group, each with what befalls it."""
    hardware = None if group.hardware.file is None else read_hardware(group.hardware.file)
    alike = WorkerPlan(
        profile=_step_cost(target, group.hardware, hardware),
        kind=worker_kind(server, group),
        slowness=group.slowness,
        hiccup=group.hiccup,
        kv_tokens=None if group.memory is None else _kv_tokens(group.memory, hardware),
    )
    plans = [alike] * group.count
    # Joins first: what else befalls a worker is counted from then.
    for event in sorted(group.schedule, key=lambda one: one.event is not Befalls.JOIN):
        for number in event.among(group.count):
            plan, at_ms = plans[number], event.at_s * MS_PER_S
            if event.event is Befalls.JOIN:
                plans[number] = replace(plan, join_ms=at_ms)
                continue
            plans[number] = replace(
                plan,
                misfortune=_MISFORTUNES[event.event],
                misfortune_ms=at_ms - plan.join_ms,
                freeze_ms=(event.lasts_s or 0.0) * MS_PER_S,
                returns_ms=None if event.returns_after_s is None else event.returns_after_s * MS_PER_S,
            )
    return plans


_MISFORTUNES: Final = {
    Befalls.DRAIN: Misfortune.DRAIN,
    Befalls.CRASH: Misfortune.CRASH,
    Befalls.FREEZE: Misfortune.FREEZE,
}


def worker_kind(server: Server, group: Workers) -> str:
    """What figures call the workers of a group."""
    return f"{server.name}/{group.name}"


def _step_cost(target: Target, hardware: Hardware, measured: HardwareProfile | None) -> Profile:
    base = _profile(target)
    if hardware.step_ms is None:
        return replace(base, hardware=measured)
    return replace(base, step_ms=hardware.step_ms, flat_nodes=hardware.flat_nodes, node_ms=hardware.node_ms)


def _kv_tokens(memory: Memory, hardware: HardwareProfile | None) -> int:
    if memory.tokens is not None:
        return memory.tokens
    each = memory.kv_bytes_per_token
    if each is None and hardware is not None:
        each = hardware.model.kv_bytes(hardware.dtype)
    if memory.gb is None or each is None:
        raise AssertionError("a scenario says how large its workers' memory is")
    return max(1, int(memory.gb * 1e9 / each))


_NEVER: Final = {"mode": Mode.CLOUD}
"""How an edge drafts that has no drafter."""
