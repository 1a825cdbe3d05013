"""Seeded worlds with every fault on: whatever happens, the text is the target's own and every session ends.

One seed is one world. `draw_world(seed)` draws everything from the seed, so a failure is replayed by its seed, and by
what was cut away from it to make it small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from shared.link import LinkProfile
from shared.messages import Limits, ModelInfo
from shared.policy.agreement import Agreement, Calibrated, Claimed
from shared.policy.expansion import BestFirst, Expansion, MarginalGain, chain
from shared.policy.pacing import AtOnce, Block, Coalescing, Pacing, Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.servers import Balance
from shared.policy.window import AdvisedWindow, EmaWindow, FixedWindow, MeasuredWindow, Window
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import EdgePolicies, Request
from shared.session.front import CloudPolicies
from shared.sim.assistant import AssistPlan
from shared.sim.cuts import NO_CUTS, Cuts, cut
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter, Temper
from shared.sim.pools import make_plan
from shared.sim.predict import model_info, random_prompt
from shared.sim.random import Keyed
from shared.sim.repeating import RepeatingPair
from shared.sim.setting import Faults
from shared.sim.world import Outage, World
from shared.sim.world_plan import WorldPlan

HIGH_RATE = 100_000
"""Messages a second that no edge of these worlds reaches."""
MOST_EVENTS = 50_000
"""A world with more never ends: the busiest of a thousand has 8,000."""


@dataclass(frozen=True, slots=True)
class WorldReport:
    """What a world did."""

    seed: int
    events: int
    tokens: int
    reconnects: int
    trace_hash: str
    """Of the whole trace: equal for equal seeds, in any process."""


def run_world(seed: int, cuts: Cuts = NO_CUTS) -> WorldReport:
    """Run one world.

    Raises:
        LawBroken: the world shows a broken law.
        AssertionError, ValueError: a machine found itself in a state it excludes.
    """
    world = make_world(seed, cuts)
    world.run(MOST_EVENTS)
    digest = hashlib.sha256(repr(world.trace).encode()).hexdigest()[:16]
    return WorldReport(
        seed=seed,
        events=world.clock.events,
        tokens=sum(len(edge.session.log.completion) for edge in world.edges),
        reconnects=sum(edge.session.counts.reconnects for edge in world.edges),
        trace_hash=digest,
    )


def make_world(seed: int, cuts: Cuts = NO_CUTS) -> World:
    """The world of a seed, without what is cut away."""
    return cut(draw_world(seed), cuts).make()


def draw_world(seed: int) -> WorldPlan:
    """What the world of a seed is made of."""
    random = Keyed(seed, "world")
    profile = Profile(
        acceptance=random.choice((0.0, 0.3, 0.6, 0.8, 0.95, 1.0)),
        step_ms=random.choice((1.0, 10.0, 30.0, 100.0)),
        draft_ms=random.choice((0.1, 1.0, 3.0, 40.0)),
        vocabulary_size=random.choice((64, 1000, 32_000)),
        context_length=random.choice((48, 1 << 20)),
        seed=seed,
    )
    limits = Limits(
        max_nodes_per_message=random.choice((4, 256)),
        max_live_nodes=random.choice((4, 16, 512)),
        max_depth=random.choice((3, 256)),
        # The lower rate is one that a drafter in these worlds can exceed and reports of `seen` alone cannot.
        max_messages_per_second=random.choice((20, HIGH_RATE)) if profile.step_ms >= 100.0 else HIGH_RATE,
        max_message_bytes=random.choice((64, 1 << 20)),
        run_ahead=random.choice((2, 8, 256)),
    )
    company = Keyed(seed, "company")
    limits = replace(limits, max_attached=company.choice((1, 2, 3)))
    servers = company.choice((1, 1, 1, 2, 3))
    speed = Keyed(seed, "speed")
    repeating = speed.choice((0.0, 0.5, 0.9, 1.0))
    pair = RepeatingPair(profile, repeating) if repeating else ProfiledPair(profile)
    nodes, share, chunk = random.choice((1, 8, 128)), random.choice((1, 8, 64)), random.choice((2, 7, 256))
    pool = make_plan(seed, profile.step_ms, nodes, share, chunk)
    if (
        pool.sp_degree > 1
    ):  # with several steps at once, what is seen is reported more often than the lower rate
        limits = replace(limits, max_messages_per_second=100_000)
    info = replace(model_info(profile, limits), takes_attached=True, sp_degree=pool.sp_degree)
    return WorldPlan(
        seed=seed,
        pair=pair,
        info=info,
        pool=pool,
        edges=tuple(
            _in_company(
                _edge(Keyed(seed, "plan", index), pair, info, seed + index),
                Keyed(seed, "company", index),
                pair,
                limits,
                several=servers > 1,
            )
            for index in range(random.integer(1, 4))
        ),
        faults=Faults(
            stream_loss=random.choice((0.0, 0.0, 0.003, 0.02)),
            step_failure=random.choice((0.0, 0.0, 0.1)),
            eviction=random.choice((0.0, 0.0, 0.2)),
            silence=random.choice((0.0, 0.0, 0.05)),
            silence_ms=random.choice((50.0, 3000.0)),
        ),
        servers=servers,
        outages=(
            *([Outage(random.uniform(0, 1500), random.uniform(1, 2000))] if random.chance(0.25) else []),
            *_outages(Keyed(seed, "outages"), servers),
        ),
        through_codec=random.chance(0.2),
        policies=CloudPolicies(
            prompt_lookup=speed.choice((True, True, False)),
            adaptive_patience=speed.choice((True, True, False)),
        ),
        near=(lambda index: _near(Keyed(seed, "near", index), pair, limits))
        if company.chance(0.15)
        else None,
    )


def _edge(random: Keyed, pair: ProfiledPair, info: ModelInfo, seed: int) -> EdgePlan:
    size = info.vocabulary_size
    prompt = random_prompt(seed, random.choice((1, 2, 16, 40)), size)
    stops = tuple(random.integer(0, size - 1) for _ in range(random.choice((0, 0, 1, 8))))
    mode = random.choice(("stream", "stream", "stream", "sync", "cloud"))
    speed = Keyed(seed, "speed")
    request = Request(
        prompt,
        max_new_tokens=random.choice((1, 2, 32, 32, 64)),
        sampling=SamplingParams(),
        stop_tokens=stops,
        patience_us=random.choice((200_000, 5_000_000)) if mode == "sync" else random.choice((0, 0, 20_000)),
        adaptive_patience_us=speed.choice((0, 1000, 20_000, 5_000_000)),
    )
    temper = random.choice((Temper.GOOD, Temper.GOOD, Temper.RANDOM, Temper.WRONG, Temper.PERFECT))
    return EdgePlan(
        request,
        _policies(random, speed, mode),
        None if mode == "cloud" else SyntheticDrafter(pair, temper, seed),
        up=_up(random, info.limits),
        down=_link(random),
        start_ms=random.uniform(0, 500),
        vanish_ms=random.uniform(0, 1500) if random.chance(0.1) else None,
        close_after=random.integer(1, 20) if random.chance(0.1) else None,
        poisonous=speed.chance(0.03),
    )


def _outages(random: Keyed, servers: int) -> Iterator[Outage]:
    """Of the servers of a world that has several: they crash, or tell their edges before."""
    for index in range(servers if servers > 1 else 0):
        if random.chance(0.5):
            start_ms = random.uniform(0, 1200)
            notice_ms = random.uniform(0, start_ms) if random.chance(0.7) else None
            yield Outage(start_ms, random.uniform(1, 2000), index, notice_ms)


def _in_company(
    plan: EdgePlan, random: Keyed, pair: ProfiledPair, limits: Limits, *, several: bool
) -> EdgePlan:
    """Other servers to go to, and other devices that help."""
    if several:
        plan.balance = random.choice(tuple(Balance))
        plan.policies.moves = random.chance(0.8)
    count = (
        random.choice((0, 0, 0, 1, 2)) if plan.policies.expansion is not None else random.choice((0, 0, 1))
    )
    plan.assistants = tuple(
        _assistant(Keyed(random.integer(0, 1 << 30), "assistant"), pair, limits) for _ in range(count)
    )
    return plan


def _near(random: Keyed, pair: ProfiledPair, limits: Limits) -> AssistPlan:
    """Beside the server: whatever it drafts is there at once."""
    return replace(_assistant(random, pair, limits), up=LinkProfile(), down=LinkProfile(), delay_ms=0.0)


def _assistant(random: Keyed, pair: ProfiledPair, limits: Limits) -> AssistPlan:
    temper = random.choice((Temper.GOOD, Temper.GOOD, Temper.RANDOM, Temper.WRONG, Temper.PERFECT))
    key = random.integer(0, 1 << 30)
    return AssistPlan(
        lambda: _policies(Keyed(key, "plan"), Keyed(key, "speed"), "stream"),
        SyntheticDrafter(pair, temper, key),
        up=_up(random, limits),
        down=_link(random),
        delay_ms=random.choice((0.0, random.uniform(0, 1000))),
        life_ms=random.uniform(0, 1000) if random.chance(0.2) else None,
        rogue=random.chance(0.25),
    )


def _policies(random: Keyed, speed: Keyed, mode: str) -> EdgePolicies:
    nodes = random.choice((1, 2, 4, 16, 64, 512))
    windows: tuple[Window, ...] = (FixedWindow(nodes), AdvisedWindow(nodes), EmaWindow())
    window = random.choice(windows)
    pacing: Pacing = Streaming()
    expansion: Expansion | None = BestFirst(
        random.choice((1, 2, 4, 8)), random.choice((1, 2, 4, 8)), random.choice((2.0, 5.0, 20.0))
    )
    if mode == "sync":
        lookahead = random.integer(1, 8)
        window, pacing, expansion = FixedWindow(lookahead), Block(lookahead), chain()
    elif mode == "cloud":
        expansion = None
    elif random.chance(0.3):
        expansion = chain()
    draft_context = random.choice((20, 1 << 30))
    agreement: Agreement = Claimed()
    if mode == "stream" and speed.chance(0.6):
        # The product's own, and each of its parts with the others' baselines.
        beat = Coalescing()
        paces: tuple[Pacing, ...] = (beat, beat, AtOnce(beat))
        pacing = speed.choice(paces)
        sizes: tuple[Window, ...] = (MeasuredWindow(nodes, beat.steps_in_flight), window)
        window = speed.choice(sizes)
        if isinstance(expansion, BestFirst) and speed.chance(0.7):
            expansion = MarginalGain(expansion.branches, expansion.width, expansion.max_cost)
        agreement = Calibrated() if speed.chance(0.7) else Claimed()
    return EdgePolicies(window, pacing, expansion, Reconnect(patience=600.0), draft_context, agreement)


def _up(random: Keyed, limits: Limits) -> LinkProfile:
    link = _link(random)
    # What a lost packet holds up for seconds arrives all at once: more than a low rate has room for.
    return link if limits.max_messages_per_second >= HIGH_RATE else replace(link, loss=0.0)


def _link(random: Keyed) -> LinkProfile:
    return LinkProfile(
        delay_ms=random.choice((0.0, 0.1, 5.0, 25.0, 150.0)),
        jitter_ms=random.choice((0.0, 2.0, 80.0)),
        kbit_per_s=random.choice((0.0, 0.0, 50.0)),
        loss=random.choice((0.0, 0.0, 0.0, 0.05)),
    )
