"""What is taken away from a seeded world to make it small, as data: a world is its seed and its cuts.

Nothing is drawn anew: the world is drawn whole, then parts of it go. What is left keeps its own draws, except that
edges move up into the places of those that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.hedging import NoHedging
from shared.policy.transfer import NoTransfers
from shared.pool import PoolPolicies
from shared.sim.assistant import AssistPlan
from shared.sim.edge import EdgePlan
from shared.sim.workers import FleetPlan, WorkerPlan
from shared.sim.world_plan import WorldPlan

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cuts:
    """What is gone. Indexes are those of the whole world."""

    off: tuple[str, ...] = ()
    """Names of `FEATURES` that the world does without."""
    edges: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()
    """Of every server alike."""
    outages: tuple[int, ...] = ()
    assistants: tuple[int, ...] = ()
    """Counted through all edges."""
    tokens: int | None = None
    """No edge asks for more; None: as many as it wants."""
    prompt: int | None = None
    """No prompt is longer; None: as long as it is."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.off if name not in FEATURES]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(FEATURES)}")
        for name in PARTS:
            if any(index < 0 for index in getattr(self, name)):
                raise ValueError(f"{name}: an index is below 0")
        for name, limit in (("tokens", self.tokens), ("prompt", self.prompt)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} {limit} is below 1")


PARTS: Final = ("edges", "workers", "outages", "assistants")
"""What a world has several of."""


def cut(plan: WorldPlan, cuts: Cuts) -> WorldPlan:
    """The world without what is cut away; a world keeps an edge and a worker, whatever is said."""
    count, edges = 0, []
    for edge in plan.edges:
        gone = {index - count for index in cuts.assistants}
        count += len(edge.assistants)
        edges.append(replace(edge, assistants=_without(edge.assistants, gone)))
    plan = replace(
        plan,
        edges=tuple(_shortened(edge, cuts) for edge in _without(edges, cuts.edges) or edges[:1]),
        outages=_without(plan.outages, cuts.outages),
    )
    if plan.pool.fleet is not None:
        workers = _without(plan.pool.fleet.workers, cuts.workers) or plan.pool.fleet.workers[:1]
        plan = _with_fleet(plan, replace(plan.pool.fleet, workers=workers))
    for name in cuts.off:
        plan = FEATURES[name](plan)
    return plan


def features(plan: WorldPlan) -> list[str]:
    """What of `FEATURES` the world has."""
    return [name for name, without in FEATURES.items() if without(plan) != plan]


def parts(plan: WorldPlan) -> dict[str, int]:
    """How many a world has of each of `PARTS`."""
    fleet = plan.pool.fleet
    return {
        "edges": len(plan.edges),
        "workers": 1 if fleet is None else len(fleet.workers),
        "outages": len(plan.outages),
        "assistants": sum(len(edge.assistants) for edge in plan.edges),
    }


def _without(some: Sequence[T], gone: Sequence[int] | set[int]) -> tuple[T, ...]:
    return tuple(one for index, one in enumerate(some) if index not in gone)


def _shortened(edge: EdgePlan, cuts: Cuts) -> EdgePlan:
    request = edge.request
    tokens = request.max_new_tokens if cuts.tokens is None else min(request.max_new_tokens, cuts.tokens)
    return replace(
        edge, request=replace(request, max_new_tokens=tokens, prompt=request.prompt[: cuts.prompt])
    )


# ---- features ----

Cut = Callable[[WorldPlan], WorldPlan]


def _with_fleet(plan: WorldPlan, fleet: FleetPlan) -> WorldPlan:
    return replace(plan, pool=replace(plan.pool, fleet=fleet))


def _each_edge(change: Callable[[EdgePlan], EdgePlan]) -> Cut:
    return lambda plan: replace(plan, edges=tuple(change(edge) for edge in plan.edges))


def _each_worker(change: Callable[[WorkerPlan], WorkerPlan]) -> Cut:
    def apply(plan: WorldPlan) -> WorldPlan:
        fleet = plan.pool.fleet
        if fleet is None:
            return plan
        return _with_fleet(plan, replace(fleet, workers=tuple(change(one) for one in fleet.workers)))

    return apply


def _each_link(change: Callable[[LinkProfile], LinkProfile]) -> Cut:
    def assisted(one: AssistPlan) -> AssistPlan:
        return replace(one, up=change(one.up), down=change(one.down))

    def apply(edge: EdgePlan) -> EdgePlan:
        helpers = tuple(assisted(one) for one in edge.assistants)
        return replace(edge, up=change(edge.up), down=change(edge.down), assistants=helpers)

    return _each_edge(apply)


def _no_fault(name: str) -> Cut:
    return lambda plan: replace(plan, faults=replace(plan.faults, **{name: 0.0}))


def _pool(change: Callable[[PoolPolicies], PoolPolicies]) -> Cut:
    def apply(plan: WorldPlan) -> WorldPlan:
        policies = change(plan.pool.policies)
        info = replace(plan.info, sp_degree=policies.sp_degree)
        return replace(plan, pool=replace(plan.pool, policies=policies), info=info)

    return apply


def _one_server(plan: WorldPlan) -> WorldPlan:
    outages = tuple(one for one in plan.outages if one.server == 0)
    return replace(plan, servers=1, outages=outages)


def _roomy(plan: WorldPlan) -> WorldPlan:
    kept = plan.info.limits
    limits = Limits(max_attached=kept.max_attached, max_messages_per_second=kept.max_messages_per_second)
    return replace(plan, info=replace(plan.info, limits=limits))


def _at_once(edge: EdgePlan) -> EdgePlan:
    return replace(edge, start_ms=0.0)


def _no_patience(edge: EdgePlan) -> EdgePlan:
    return replace(edge, request=replace(edge.request, adaptive_patience_us=0))


def _no_stops(edge: EdgePlan) -> EdgePlan:
    return replace(edge, request=replace(edge.request, stop_tokens=()))


def _no_kv_limit(plan: WorldPlan) -> WorldPlan:
    plan = replace(plan, pool=replace(plan.pool, lone_kv_tokens=None))
    return _each_worker(lambda one: replace(one, kv_tokens=None))(plan)


FEATURES: Final[dict[str, Cut]] = {
    "several servers": _one_server,
    "near assistants": lambda plan: replace(plan, near=None),
    "stream losses": _no_fault("stream_loss"),
    "step failures": _no_fault("step_failure"),
    "evictions": _no_fault("eviction"),
    "silences": _no_fault("silence"),
    "misfortunes of workers": _each_worker(lambda one: replace(one, misfortune=None)),
    "late workers": _each_worker(lambda one: replace(one, join_ms=0.0)),
    "slow workers": _each_worker(lambda one: replace(one, slowness=1.0, hiccup=0.0)),
    "limits of KV": _no_kv_limit,
    "poison": _each_edge(lambda edge: replace(edge, poisonous=False)),
    "edges that vanish": _each_edge(lambda edge: replace(edge, vanish_ms=None)),
    "edges that close": _each_edge(lambda edge: replace(edge, close_after=None)),
    "late edges": _each_edge(_at_once),
    "stop tokens": _each_edge(_no_stops),
    "adaptive patience": _each_edge(_no_patience),
    "lookups": lambda plan: replace(plan, policies=replace(plan.policies, prompt_lookup=False)),
    "lost packets": _each_link(lambda link: replace(link, loss=0.0)),
    "jitter": _each_link(lambda link: replace(link, jitter_ms=0.0)),
    "slow links": _each_link(lambda link: replace(link, kbit_per_s=0.0)),
    "delays": _each_link(lambda link: replace(link, delay_ms=0.0)),
    "the codec": lambda plan: replace(plan, through_codec=False),
    "tight limits": _roomy,
    "hedging": _pool(lambda one: replace(one, hedging=NoHedging())),
    "transfers": _pool(lambda one: replace(one, transfers=NoTransfers)),
    "checks": _pool(lambda one: replace(one, check_share=0.0)),
    "several steps of a session": _pool(lambda one: replace(one, sp_degree=1)),
}
"""What a world may do without, by name."""

NO_CUTS: Final = Cuts()
