"""DSD's comparison (arXiv 2511.21669): windows on many fleets, then routing x batching x windows on one pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scripts.windows.arms import (
    BATCHINGS,
    OURS,
    POOL_STEP,
    PRODUCT,
    ROUTINGS,
    STATIC,
    STATIC_WINDOW,
    WINDOWS,
    Arm,
    Cloud,
    Drafts,
    Sizer,
    fixed,
)
from scripts.windows.load import Load, Outcome, simulate

DYNAMIC = (Sizer.EMA, Sizer.LEARNED, Sizer.MEASURED)
ON_POOL = (
    STATIC,
    *(Arm(Drafts.SYNC, sizer) for sizer in DYNAMIC),
    OURS,
)
"""Windows on the pool."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation to be made."""

    load: Load
    cloud: Cloud
    arm: Arm


@dataclass(frozen=True, slots=True)
class Ran:
    """It was made, once per seed."""

    cell: Cell
    outcomes: tuple[Outcome, ...]

    @property
    def latency_ms(self) -> float:
        """Per token; geometric mean over the seeds."""
        return geometric(one.latency_ms for one in self.outcomes)

    @property
    def tokens_per_s(self) -> float:
        """Of all clients; geometric mean over the seeds."""
        return geometric(one.tokens_per_s for one in self.outcomes)

    @property
    def facts_per_token(self) -> float:
        """Mean over the seeds."""
        return sum(one.facts_per_token for one in self.outcomes) / len(self.outcomes)


def window_cells(loads: Sequence[Load], drafts: Sequence[Drafts]) -> list[Cell]:
    """Every window on every fleet; the pool is run as the product's."""
    return [
        Cell(load, PRODUCT, arm)
        for load in loads
        for one in drafts
        for arm in (
            *(fixed(one, window) for window in WINDOWS[one]),
            *(Arm(one, sizer) for sizer in DYNAMIC),
        )
    ]


def pool_cells(load: Load, routings: Sequence[str] = (), batchings: Sequence[str] = ()) -> list[Cell]:
    """Every routing with every batching, and the windows of `ON_POOL`."""
    return [
        Cell(load, Cloud(routing, batching, POOL_STEP), arm)
        for routing in routings or tuple(ROUTINGS)
        for batching in batchings or tuple(BATCHINGS)
        for arm in ON_POOL
    ]


def run(cells: Sequence[Cell], seeds: int, progress: Callable[[Cell, int], None]) -> list[Ran]:
    """Make them, one after the other. `progress` is told each before it begins, with its place."""
    made: list[Ran] = []
    for number, cell in enumerate(cells):
        progress(cell, number)
        outcomes = tuple(
            simulate(cell.load, cell.arm.options, cell.cloud.make_pool, seed=seed) for seed in range(seeds)
        )
        made.append(Ran(cell, outcomes))
    return made


@dataclass(frozen=True, slots=True)
class Judged:
    """One way to size windows on one fleet."""

    fleet: str
    drafts: Drafts
    sizer: Sizer
    window: int | None
    """Of a fixed one."""
    latency_ms: float
    tokens_per_s: float
    facts_per_token: float
    speed_up: float
    """Latency of the static baseline by its own."""
    more: float
    """Throughput beyond that of the static baseline, as a share of it."""
    behind: float
    """Latency beyond that of the best fixed window of the same mode, as a share of it."""
    lost: float
    """Throughput that the best fixed window of the same mode has beyond its own, as a share of the best."""


def judge_windows(made: Sequence[Ran]) -> list[Judged]:
    """Per fleet and mode: the static window, the policies, and the oracle."""
    judged: list[Judged] = []
    for fleet in dict.fromkeys(one.cell.load.name for one in made):
        here = [one for one in made if one.cell.load.name == fleet]
        base = next(one for one in here if one.cell.arm == STATIC)
        for drafts in dict.fromkeys(one.cell.arm.drafts for one in here):
            same = [one for one in here if one.cell.arm.drafts is drafts]
            still = [one for one in same if one.cell.arm.window is not None]
            fastest = min(still, key=lambda one: one.latency_ms)
            most = max(one.tokens_per_s for one in still)
            for sizer in Sizer:
                one = fastest if sizer is Sizer.ORACLE else _of(same, sizer)
                judged.append(
                    Judged(
                        fleet,
                        drafts,
                        sizer,
                        one.cell.arm.window,
                        one.latency_ms,
                        one.tokens_per_s,
                        one.facts_per_token,
                        base.latency_ms / one.latency_ms,
                        one.tokens_per_s / base.tokens_per_s - 1.0,
                        one.latency_ms / fastest.latency_ms - 1.0,
                        1.0 - one.tokens_per_s / most,
                    )
                )
    return judged


def _of(made: Iterable[Ran], sizer: Sizer) -> Ran:
    if sizer is Sizer.STATIC:
        return next(one for one in made if one.cell.arm.window == STATIC_WINDOW)
    return next(one for one in made if one.cell.arm.sizer is sizer and one.cell.arm.window is None)


@dataclass(frozen=True, slots=True)
class Target:
    """What must hold."""

    text: str
    worst: str
    """The figure that is nearest to breaking it, or breaks it."""
    met: bool


LEAST_SPEED_UP = 1.1
LEAST_MORE = 0.097
MOST_BEHIND = 0.05


def targets(judged: Sequence[Judged], pool: Sequence[Ran]) -> list[Target]:
    """DSD's margins over the static window at the same load, and the distance to the oracle."""
    found: list[Target] = []
    ours = [one for one in judged if one.drafts is OURS.drafts and one.sizer is OURS.sizer]
    if ours:
        slowest, least = min(ours, key=lambda one: one.speed_up), min(ours, key=lambda one: one.more)
        behind = max(ours, key=lambda one: max(one.behind, one.lost))
        found += [
            Target(
                f"at least {LEAST_SPEED_UP:g}x as fast as window {STATIC_WINDOW} everywhere, on every fleet",
                f"{slowest.speed_up:.2f}x ({slowest.fleet})",
                slowest.speed_up >= LEAST_SPEED_UP,
            ),
            Target(
                f"at least {LEAST_MORE:+.1%} throughput over window {STATIC_WINDOW} everywhere, on every fleet",
                f"{least.more:+.1%} ({least.fleet})",
                least.more >= LEAST_MORE,
            ),
            Target(
                f"within {MOST_BEHIND:.0%} of the best fixed window in latency and throughput, on every fleet",
                f"{behind.behind:+.1%} latency, {-behind.lost:+.1%} throughput ({behind.fleet})",
                max(behind.behind, behind.lost) <= MOST_BEHIND,
            ),
        ]
    if pool:
        gains = [
            (base.latency_ms / one.latency_ms, one.tokens_per_s / base.tokens_per_s - 1.0, one.cell.cloud)
            for one in pool
            if one.cell.arm == OURS
            for base in pool
            if base.cell.arm == STATIC and base.cell.cloud == one.cell.cloud
        ]
        speed, cloud = min((gain[0], gain[2].name) for gain in gains)
        more, where = min((gain[1], gain[2].name) for gain in gains)
        found.append(
            Target(
                "both margins with every routing and batching",
                f"{speed:.2f}x ({cloud}), {more:+.1%} ({where})",
                speed >= LEAST_SPEED_UP and more >= LEAST_MORE,
            )
        )
    return found


def geometric(values: Iterable[float]) -> float:
    """Geometric mean of positive numbers."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
