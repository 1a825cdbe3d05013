"""`simulate plan`: the cheapest pool that keeps every limit of a scenario, and what more or less of it would buy.

For each kind of worker in the scenario's first server, and for each combination of what is varied beside it, the least
number that keeps all limits is sought: doubled until they are kept, then halved in between. That takes it that more
workers of one kind never break a limit that fewer kept.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from scripts.parallel import spread
from scripts.simulate.grid import Grid, print_grid
from scripts.simulate.outcome import Outcome, Reached
from scripts.simulate.plots import Spot, of_frontier
from scripts.simulate.progress import parts_bar
from scripts.simulate.report import write_report
from scripts.simulate.run import DurationS, File, Overrides, RunSeed, read
from scripts.simulate.schema import Scenario
from scripts.simulate.schema_base import MOST_WORKERS
from scripts.simulate.sweep import Jobs, Out, Seeds, Vary, again, case, common, parse_axis, run_case
from shared.errors import UserError

UNMET: Final = 1
BEYOND: Final = (1.25, 1.5, 2.0)
"""Times the least number that keeps the limits: what more money buys."""


@dataclass(frozen=True, slots=True)
class Search:
    """One kind of worker, and one combination of what is varied beside it."""

    path: Path
    own: tuple[tuple[str, Any], ...]
    values: tuple[tuple[str, Any], ...]
    kind: str
    group: dict[str, Any]
    """As the scenario has it, but for the count."""
    seeds: tuple[int, ...]
    most: int


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool that was tried, with every seed."""

    kind: str
    count: int
    values: tuple[tuple[str, Any], ...]
    outcomes: tuple[Outcome, ...]

    @property
    def met(self) -> bool:
        """Whether every limit was kept, with every seed."""
        return all(one.met for one in self.outcomes)

    @property
    def missed(self) -> Reached | None:
        """The first limit that was not kept."""
        return next((one for outcome in self.outcomes for one in outcome.slo if not one.met), None)

    @property
    def per_hour(self) -> float:
        """What it costs, on average over the seeds."""
        return _mean([one.cost.per_hour for one in self.outcomes if one.cost is not None])

    @property
    def tpot_ms(self) -> float | None:
        """The 95th percentile, on average over the seeds; None: nobody's text was finished."""
        found = [
            one.figures.total.tpot_ms.p95 for one in self.outcomes if one.figures.total.tpot_ms is not None
        ]
        return _mean(found) if len(found) == len(self.outcomes) else None

    def __str__(self) -> str:
        beside = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.values)
        return f"{self.count} x {self.kind}" + (f" ({beside})" if beside else "")


def plan(
    scenario: File,
    *,
    most: Annotated[int, typer.Option(min=1, max=MOST_WORKERS, help="Workers of one kind, at most.")] = 64,
    vary: Vary = None,
    seeds: Seeds = 1,
    seed: RunSeed = None,
    duration_s: DurationS = None,
    overrides: Overrides = None,
    jobs: Jobs = 1,
    out: Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> int:
    """The cheapest pool that keeps the scenario's limits, and cost against latency of those around it."""
    found = read(scenario, overrides, seed=seed, duration_s=duration_s)
    searches = _searches(
        found, scenario, [parse_axis(one) for one in vary or ()], overrides, duration_s, seeds, most
    )
    tried: list[Pool] = []
    for pools in parts_bar(f"plan of {found.name}", len(searches), spread(search, searches, jobs)):
        tried += pools
    tried.sort(key=lambda pool: (pool.per_hour, str(pool)))
    cheapest = next((pool for pool in tried if pool.met), None)
    frontier = pareto(tried)
    grid = _table(found, tried, frontier, cheapest)
    if as_json:
        print(json.dumps(_document(tried, frontier, cheapest), indent=1, allow_nan=False))
    else:
        print_grid(grid)
        print(_verdict(found, tried, cheapest))
    if out is not None:
        drawn = [pool for pool in tried if pool.tpot_ms is not None]
        picture = of_frontier(
            [_spot(pool) for pool in drawn],
            [_spot(pool) for pool in frontier],
            _spot(cheapest) if cheapest is not None else None,
            f"{found.prices.currency} per hour",
        )
        words = [
            "plan",
            str(scenario),
            f"--most {most}",
            *(f"--set '{one}'" for one in overrides or ()),
            *(f"--vary '{one}'" for one in vary or ()),
        ]
        command = again([*words, f"--seeds {seeds}"], found)
        write_report(out, kind="plan", scenario=found, grids=[grid], plots=[picture], command=command)
        written = json.dumps(_document(tried, frontier, cheapest), indent=1, allow_nan=False)
        (out / "results.json").write_text(written + "\n")
    return 0 if cheapest is not None else UNMET


def _searches(
    scenario: Scenario,
    path: Path,
    axes: Sequence[tuple[str, tuple[Any, ...]]],
    overrides: list[str] | None,
    duration_s: float | None,
    seeds: int,
    most: int,
) -> list[Search]:
    if not scenario.slo:
        raise UserError(
            f"{path}: slo: is missing: plan needs to know what is wanted, such as {{ tpot_ms: 25 }}"
        )
    groups = scenario.servers[0].workers
    for number, group in enumerate(groups):
        key = f"{path}: servers[0].workers[{number}]"
        if group.price_per_hour is None:
            raise UserError(f"{key}.price_per_hour: is missing (0 to 1,000,000): plan compares costs")
        if any(event.workers is not None for event in group.schedule):
            raise UserError(
                f"{key}.schedule: plan varies how many there are, so leave out which of them it befalls"
            )
    own = common(overrides, duration_s)
    combinations = itertools.product(*([(key, value) for value in values] for key, values in axes))
    found = [
        Search(
            path,
            own,
            tuple(values),
            group.name,
            group.model_dump(mode="json", exclude_unset=True),
            tuple(range(scenario.seed, scenario.seed + seeds)),
            most,
        )
        for values in combinations
        for group in groups
    ]
    for one in found:
        _case(one, 1, one.seeds[0]).scenario()  # what is wrong is told before anything runs
    return found


def search(wanted: Search) -> list[Pool]:
    """All pools that were tried for one kind of worker, the least that keeps the limits among them."""
    tried: dict[int, Pool] = {}

    def met(count: int) -> bool:
        if count not in tried:
            tried[count] = _try(wanted, count)
        return tried[count].met

    low, high = 0, 1
    while not met(high) and high < wanted.most:
        low, high = high, min(2 * high, wanted.most)
    if met(high):
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if met(middle) else (middle, high)
        for factor in BEYOND:
            met(min(wanted.most, max(high + 1, round(high * factor))))
    return list(tried.values())


def _try(wanted: Search, count: int) -> Pool:
    """One pool; the first seed that breaks a limit is reason enough."""
    outcomes: list[Outcome] = []
    for seed in wanted.seeds:
        outcomes.append(run_case(_case(wanted, count, seed)))
        if not outcomes[-1].met:
            break
    return Pool(wanted.kind, count, wanted.values, tuple(outcomes))


def _case(wanted: Search, count: int, seed: int) -> Any:
    pool = ("servers[0].workers", [{**wanted.group, "count": count}])
    return case(wanted.path, wanted.own, (pool, *wanted.values), seed)


def pareto(pools: Sequence[Pool]) -> list[Pool]:
    """Those that no other one beats in cost and latency; cheapest first."""
    found: list[Pool] = []
    for pool in sorted(pools, key=lambda one: (one.per_hour, one.tpot_ms or 0.0)):
        if pool.tpot_ms is not None and all(pool.tpot_ms < (one.tpot_ms or 0.0) for one in found):
            found.append(pool)
    return found


# ---- what is shown ----


def _spot(pool: Pool) -> Spot:
    return Spot(str(pool), pool.per_hour, pool.tpot_ms or 0.0, pool.met)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _table(
    scenario: Scenario, tried: Sequence[Pool], frontier: Sequence[Pool], cheapest: Pool | None
) -> Grid:
    currency = scenario.prices.currency
    columns = (
        "pool",
        f"{currency}/h",
        f"{currency}/M tokens",
        "tokens/s",
        "TPOT p95 ms",
        "busy",
        "frontier",
        "limits",
    )
    rows = tuple(_row(pool, on_frontier=pool in frontier, cheapest=pool is cheapest) for pool in tried)
    return Grid(f"{scenario.name}: pools that were tried", columns, rows)


def _row(pool: Pool, *, on_frontier: bool, cheapest: bool) -> tuple[str, ...]:
    costs = [one.cost.per_million_tokens for one in pool.outcomes if one.cost is not None]
    each = [cost for cost in costs if cost is not None]
    missed = pool.missed
    share = "nobody asked" if missed is None or missed.share is None else f"{missed.share:.1%}"
    verdict = "kept, the cheapest" if cheapest else "kept" if missed is None else f"{share}: {missed}"
    return (
        str(pool),
        f"{pool.per_hour:,.2f}",
        f"{_mean(each):,.3f}" if each else "",
        f"{_mean([one.figures.total.tokens_per_s for one in pool.outcomes]):,.1f}",
        "" if pool.tpot_ms is None else f"{pool.tpot_ms:,.2f}",
        f"{_mean([one.figures.utilisation for one in pool.outcomes]):.1%}",
        "yes" if on_frontier else "",
        verdict,
    )


def _verdict(scenario: Scenario, tried: Sequence[Pool], cheapest: Pool | None) -> str:
    if cheapest is not None:
        return f"cheapest: {cheapest}, {cheapest.per_hour:,.2f} {scenario.prices.currency} per hour"
    largest = max(pool.count for pool in tried)
    return f"no pool of up to {largest} workers of one kind keeps the limits: give --most, or change slo"


def _document(tried: Sequence[Pool], frontier: Sequence[Pool], cheapest: Pool | None) -> dict[str, Any]:
    return {
        "cheapest": None if cheapest is None else str(cheapest),
        "frontier": [str(pool) for pool in frontier],
        "tried": [
            {
                "pool": str(pool),
                "kind": pool.kind,
                "count": pool.count,
                "set": dict(pool.values),
                "met": pool.met,
                "missed": None if pool.missed is None else dataclasses.asdict(pool.missed),
                "per_hour": pool.per_hour,
                "runs": [one.document() for one in pool.outcomes],
            }
            for pool in tried
        ],
    }
