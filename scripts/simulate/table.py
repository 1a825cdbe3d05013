"""The figures of one run for the eye."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import Final, TextIO

from scripts.simulate.grid import Grid, print_grid
from scripts.simulate.outcome import Cost, Energy, Outcome
from scripts.simulate.schema import Scenario
from shared.sim.deployment import Figures, Spread, WorkerFigures

_FLEETS: Final = (
    "generations",
    "refused",
    "tokens/s",
    "TTFT ms",
    "TPOT ms",
    "ITL ms",
    "acceptance",
    "facts/token",
)
_POOLS: Final = ("workers", "busy", "steps/s", "nodes/step")


def print_outcome(scenario: Scenario, outcome: Outcome, stream: TextIO | None = None) -> None:
    """Everything, as tables; times as p50 / p95 / p99."""
    for grid in grids_of(scenario, outcome):
        print_grid(grid, stream)
    figures = outcome.figures
    print(
        f"{figures.events:,} events, trace {figures.trace_hash[:16]}",
        file=stream if stream is not None else sys.stdout,
    )


def grids_of(scenario: Scenario, outcome: Outcome) -> list[Grid]:
    """Fleets and workers; costs, energy and limits where the scenario speaks of them."""
    figures = outcome.figures
    measured_s = (figures.duration_ms - figures.warm_up_ms) / 1000
    title = f"{scenario.name}: {measured_s:g} s measured, seed {scenario.seed}"
    fleets = [(name, *_fleet(found)) for name, found in figures.groups.items()]
    if len(figures.groups) > 1:
        fleets.append(("all", *_fleet(figures.total)))
    kinds = groupby(sorted(figures.workers, key=lambda one: one.kind), key=lambda one: one.kind)
    pools = tuple((kind, *_pool(list(workers), measured_s)) for kind, workers in kinds)
    grids = [Grid(title, ("fleet", *_FLEETS), tuple(fleets)), Grid("", ("workers of", *_POOLS), pools)]
    if outcome.cost is not None:
        grids.append(_cost(outcome.cost))
    if outcome.energy is not None:
        grids.append(_energy(outcome.energy, measured_s))
    if outcome.slo:
        rows = tuple(
            (str(one), "" if one.share is None else f"{one.share:.2%}", "kept" if one.met else "missed")
            for one in outcome.slo
        )
        grids.append(Grid("", ("limit", "reached by", ""), rows))
    return grids


def _cost(cost: Cost) -> Grid:
    each = "" if cost.per_million_tokens is None else f"{cost.per_million_tokens:,.3f}"
    row = (cost.currency, *(f"{one:,.4f}" for one in (cost.workers, cost.energy, cost.traffic, cost.total)))
    columns = ("costs", "workers", "energy", "traffic", "in all", "per hour", "per million tokens")
    return Grid("", columns, ((*row, f"{cost.per_hour:,.2f}", each),))


def _energy(energy: Energy, measured_s: float) -> Grid:
    each = "" if energy.per_token is None else f"{energy.per_token:,.3f}"
    watts = (f"{one / measured_s:,.1f}" for one in (energy.workers, energy.drafters, energy.total))
    return Grid("", ("energy", "workers W", "drafters W", "in all W", "J/token"), (("mean", *watts, each),))


def _fleet(figures: Figures) -> tuple[str, ...]:
    return (
        f"{figures.generations:,}",
        f"{figures.refused:,}",
        f"{figures.tokens_per_s:,.1f}",
        _spread(figures.ttft_ms, 0),
        _spread(figures.tpot_ms, 1),
        _spread(figures.itl_ms, 1),
        f"{figures.acceptance_rate:.3f}",
        f"{figures.facts_per_token:.2f}",
    )


def _pool(workers: Sequence[WorkerFigures], measured_s: float) -> tuple[str, ...]:
    present = sum(one.present_ms for one in workers)
    busy = sum(one.busy_share * one.present_ms for one in workers)
    steps = sum(one.steps for one in workers)
    nodes = sum(one.nodes_per_step * one.steps for one in workers)
    return (
        f"{len(workers):,}",
        f"{busy / present if present else 0.0:.1%}",
        f"{steps / measured_s:,.1f}",
        f"{nodes / steps if steps else 0.0:.1f}",
    )


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    return " / ".join(f"{value:,.{digits}f}" for value in (spread.p50, spread.p95, spread.p99))
