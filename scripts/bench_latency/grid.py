"""The plans of `python -m scripts.bench_latency`: pairs by links, and the ablation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from scripts.bench_latency.ablation import ablation_arms
from scripts.bench_latency.arms import distinct, for_pair
from scripts.bench_latency.plan import Arm, Cell, Pair, Plan, describe_link, units
from scripts.bench_latency.presets import PRESETS, profiled_pair
from scripts.wan.profiles import WanProfile, find_profile
from shared.errors import UserError

FULL_RTTS_MS: Final = (0.0, 10.0, 20.0, 50.0, 100.0, 150.0, 200.0, 300.0)
SHORT_RTTS_MS: Final = (0.0, 50.0, 100.0)
DEMO_RTT_MS: Final = 50.0
STANDARD_PAIR: Final = "profiled:acceptance=0.8,step_ms=30,draft_ms=3"
DEMO_STEP_FLOOR_MS: Final = 40.0
"""The demo's target takes 2 ms a step: behind any link nothing could speed that up. It stands for a larger one."""
ABLATION_RTTS_MS: Final = (0.0, 50.0, 100.0)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each cell."""

    prompts: int
    tokens: int
    demo_tokens: int
    """Of real models: the demo's context is short."""


SHORT: Final = Size(prompts=3, tokens=200, demo_tokens=96)
FULL: Final = Size(prompts=6, tokens=400, demo_tokens=160)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says; None or empty: the default."""

    rtts_ms: Sequence[float] = ()
    profiles: Sequence[str] = ()
    pairs: Sequence[str] = ()
    preset: str | None = None
    up_kbit: float = 0.0
    down_kbit: float = 0.0
    loss_percent: float = 0.0
    jitter_ms: float = 0.0
    step_floor_ms: float | None = None
    draft_floor_ms: float = 0.0
    prompts: int | None = None
    seeds: Sequence[int] = (0,)
    tokens: int | None = None
    temperature: float = 0.0
    full: bool = False
    ablation: bool = False
    peers: bool = True
    deployed: bool = False
    emulate: bool = True
    only: Sequence[str] = ()
    """Keys of arms; the reference is always there."""
    seed: int = 0

    @property
    def size(self) -> Size:
        """How much of each cell."""
        size = FULL if self.full else SHORT
        return replace(
            size,
            prompts=self.prompts if self.prompts is not None else size.prompts,
            tokens=self.tokens if self.tokens is not None else size.tokens,
            demo_tokens=self.tokens if self.tokens is not None else size.demo_tokens,
        )


def plan_of(asked: Asked) -> Plan:
    """Every pair behind every link.

    Raises:
        UserError: an unknown name, or figures that do not go together.
    """
    cells = tuple(
        _cell(asked, pair, link, name)
        for pair, links in _pairs_and_links(asked)
        for name, link in (links if asked.emulate else [("", WanProfile(0.0))])
    )
    if len({cell.key for cell in cells}) < len(cells):
        raise UserError("a pair and link is asked for twice")
    return Plan(cells, "ablation" if asked.ablation else "grid", asked.seed)


def pair_of(source: str, asked: Asked) -> Pair:
    """`demo`, `own` (folders given on the command line) or `profiled:...`.

    Raises:
        UserError: it is none of them.
    """
    if source in ("demo", "own"):
        floor = DEMO_STEP_FLOOR_MS if source == "demo" and not asked.deployed else 0.0
        return Pair(
            f"{source} pair",
            source,
            step_floor_ms=floor if asked.step_floor_ms is None else asked.step_floor_ms,
            draft_floor_ms=asked.draft_floor_ms,
        )
    if source.partition(":")[0] != "profiled":
        raise UserError(f"--pair {source}: expected demo, or profiled:acceptance=0.8,step_ms=30,draft_ms=3")
    return profiled_pair(
        source, step_floor_ms=asked.step_floor_ms or 0.0, draft_floor_ms=asked.draft_floor_ms
    )


Links = list[tuple[str, WanProfile]]


def _pairs_and_links(asked: Asked) -> list[tuple[Pair, Links]]:
    if asked.preset is not None:
        if asked.preset not in PRESETS:
            raise UserError(f"there is no preset {asked.preset!r}: choose one of {', '.join(PRESETS)}")
        preset = PRESETS[asked.preset]
        rates = replace(
            asked,
            up_kbit=asked.up_kbit or preset.rate_kbit,
            down_kbit=asked.down_kbit or preset.rate_kbit,
        )
        return [(replace(pair, note=preset.claim), _links(rates, preset.rtts_ms)) for pair in preset.pairs]
    if asked.pairs:
        rtts = ABLATION_RTTS_MS if asked.ablation else FULL_RTTS_MS if asked.full else SHORT_RTTS_MS
        return [(pair_of(source, asked), _links(asked, rtts)) for source in asked.pairs]
    standard = pair_of(STANDARD_PAIR, asked)
    if asked.ablation:
        return [(standard, _links(asked, ABLATION_RTTS_MS))]
    demo = pair_of("demo", asked)
    if asked.deployed:
        return [(demo, _links(asked, SHORT_RTTS_MS))]
    if asked.full:
        return [(pair, _links(asked, FULL_RTTS_MS)) for pair in (standard, demo)]
    return [(standard, _links(asked, SHORT_RTTS_MS)), (demo, _links(asked, (DEMO_RTT_MS,)))]


def _links(asked: Asked, default: Sequence[float]) -> Links:
    """The named profiles and the grid of round trips; `default` where neither is asked for."""
    named = [(name, find_profile(name)) for name in asked.profiles]
    rtts = asked.rtts_ms or (() if named else default)
    made = [
        WanProfile(
            rtt,
            jitter_ms=asked.jitter_ms,
            up_kbit=asked.up_kbit,
            down_kbit=asked.down_kbit,
            loss_percent=asked.loss_percent,
        )
        for rtt in rtts
    ]
    return [*named, *(("", link) for link in made)]


def _cell(asked: Asked, pair: Pair, link: WanProfile, name: str) -> Cell:
    peers = asked.peers and asked.temperature == 0.0
    arms, skipped = for_pair(pair, deployed=asked.deployed, peers=peers)
    if asked.ablation:
        arms, skipped = distinct(ablation_arms()), ()
    arms = _only(arms, asked.only)
    size = asked.size
    where = (f"{name}: " if name else "") + (describe_link(link) if asked.emulate else "the network as it is")
    return Cell(
        key=f"{pair.name}, {where}",
        pair=pair,
        link=link,
        arms=arms,
        units=units(size.prompts, asked.seeds),
        tokens=size.tokens if pair.profile is not None else size.demo_tokens,
        temperature=asked.temperature,
        title=where,
        skipped=skipped,
    )


def _only(arms: Sequence[Arm], wanted: Sequence[str]) -> tuple[Arm, ...]:
    if unknown := [key for key in wanted if key not in {arm.key for arm in arms}]:
        keys = ", ".join(arm.key for arm in arms)
        raise UserError(f"--arm {unknown[0]}: choose from {keys}")
    return tuple(arm for number, arm in enumerate(arms) if not wanted or number == 0 or arm.key in wanted)
