"""DSD's comparison (arXiv 2511.21669) for the page: `scripts.windows` simulates and judges, this keeps its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from scripts.reproduce.parts import FIGURES, Part, Way
from scripts.windows.arms import FLEETS, OURS, POOL, STATIC, Arm, Cloud, Drafts
from scripts.windows.compare import (
    Cell,
    Judged,
    Ran,
    Target,
    judge_windows,
    pool_cells,
    targets,
    window_cells,
)
from scripts.windows.load import Outcome, simulate
from scripts.windows.plots import save_plots

SEEDS: Final = 1
"""`python -m scripts.windows compare` takes two."""
QUICK_FLEET: Final = "alone"
QUICK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One way to draft on one fleet; a `Ran` without what its fleet's name says already."""

    fleet: str
    cloud: Cloud
    arm: Arm
    outcomes: tuple[Outcome, ...]

    def ran(self) -> Ran:
        """As `scripts.windows` has it."""
        (load,) = (one for one in (*FLEETS, POOL) if one.name == self.fleet)
        return Ran(Cell(load, self.cloud, self.arm), self.outcomes)


@dataclass(frozen=True, slots=True)
class OnPool:
    """One routing with one batching: gains over the static window, routed and batched alike."""

    cloud: Cloud
    arm: Arm
    speed_up: float
    more: float
    """Throughput beyond the static window's, as a share of it."""


@dataclass(frozen=True, slots=True)
class DsdFigures:
    """DSD."""

    command: str
    seeds: int
    windows: tuple[Line, ...]
    pool: tuple[Line, ...]
    judged: tuple[Judged, ...]
    on_pool: tuple[OnPool, ...]
    targets: tuple[Target, ...]


def make_dsd(way: Way) -> DsdFigures:
    """Simulate."""
    seeds = SEEDS
    fleets = [one for one in FLEETS if one.name == QUICK_FLEET] if way.quick else list(FLEETS)
    if way.quick:
        fleets = [replace(one, seconds=QUICK_SECONDS) for one in fleets]
    drafts = (Drafts.SYNC, Drafts.TREE) if way.quick else tuple(Drafts)
    windows = window_cells(fleets, drafts)
    pool = [] if way.quick else pool_cells(POOL)
    tasks = [(cell, seed) for cell in (*windows, *pool) for seed in range(seeds)]
    outcomes = way.map("DSD's comparison", outcome, tasks)
    made = [
        Ran(cell, tuple(outcomes[place * seeds : (place + 1) * seeds]))
        for place, cell in enumerate((*windows, *pool))
    ]
    on_fleets, on_pool = made[: len(windows)], made[len(windows) :]
    judged = judge_windows(on_fleets)
    return DsdFigures(
        way.command(Part.DSD),
        seeds,
        _lines(on_fleets),
        _lines(on_pool),
        tuple(judged),
        tuple(gains(on_pool)),
        tuple(targets(judged, on_pool)),
    )


def outcome(task: tuple[Cell, int]) -> Outcome:
    """Of one simulation with one seed."""
    cell, seed = task
    return simulate(cell.load, cell.arm.options, cell.cloud.make_pool, seed=seed)


def gains(pool: Sequence[Ran]) -> list[OnPool]:
    """Of every window but the static one."""
    found = []
    for one in pool:
        if one.cell.arm == STATIC:
            continue
        (base,) = (other for other in pool if other.cell.arm == STATIC and other.cell.cloud == one.cell.cloud)
        found.append(
            OnPool(
                one.cell.cloud,
                one.cell.arm,
                base.latency_ms / one.latency_ms,
                one.tokens_per_s / base.tokens_per_s - 1.0,
            )
        )
    return found


def ours(figures: DsdFigures) -> list[Judged]:
    """The product's own window, fleet by fleet."""
    return [one for one in figures.judged if (one.drafts, one.sizer) == (OURS.drafts, OURS.sizer)]


def dsd_plots(figures: DsdFigures, folder: Path) -> list[str]:
    """The pictures' names."""
    target = folder / FIGURES
    target.mkdir(parents=True, exist_ok=True)
    return [one.name for one in save_plots([line.ran() for line in figures.windows], figures.judged, target)]


def _lines(made: Sequence[Ran]) -> tuple[Line, ...]:
    return tuple(Line(one.cell.load.name, one.cell.cloud, one.cell.arm, one.outcomes) for one in made)
