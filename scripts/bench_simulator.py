"""What the simulator itself costs: `python -m scripts.bench_simulator`.

A fleet of edges that think, ask, and read, over a pool of workers, for so many simulated minutes; each size runs in a
process of its own, one after the other, on one core. Nothing is measured but the simulator: the fleet is made up.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console

from edge_client.policies import DraftOptions, policies_for
from shared.errors import UserError
from shared.link import LinkProfile
from shared.messages import Limits
from shared.policy.batching import MeasuredBudget
from shared.pool import PoolScheduler
from shared.profiled import Profile, ProfiledPair
from shared.sim.deployment import Deployment, DeploymentPlan, PoolPlan, UserPlan, Visit, figures_of
from shared.sim.predict import default_reconnect, random_prompt
from shared.sim.random import Keyed
from shared.sim.workers import FleetPlan, WorkerPlan

PROFILE: Final = Profile(acceptance=0.8, step_ms=30.0, flat_nodes=64, node_ms=0.1, draft_ms=20.0)
"""A target of some ten billion weights on one accelerator, and a drafter of about one on a small board: 50 tokens a
second. Faster drafters draft more while an edge is active, and it is drafting that the simulator mostly does."""
UP: Final = LinkProfile(delay_ms=20.0, jitter_ms=2.5, kbit_per_s=18_000)
DOWN: Final = LinkProfile(delay_ms=20.0, jitter_ms=2.5, kbit_per_s=150_000)
"""5G: 40 ms there and back."""
PROMPT_TOKENS: Final = (20, 200)
OUTPUT_TOKENS: Final = (100, 300)
"""Least and greatest, every length in between as likely."""
THINK_MS: Final = 105_000.0
"""On average, exponential: with answers of about 5.5 s an edge is active for 5 % of the time."""
SIZES: Final = (8, 4, 2, 1)
"""The fleet's cost is measured at its size divided by these."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run."""

    edges: int
    workers: int
    simulated_s: float
    tokens: int
    """Committed, at the edges."""
    generations: int
    active: float
    """Share of the edges' time in which they generate."""
    busy: float
    """Share of the workers' time with a step out."""
    events: int
    cpu_s: float
    wall_s: float
    peak_mb: float
    trace_hash: str


def fleet(
    edges: int, workers: int, minutes: float, draft_ms: float = PROFILE.draft_ms, seed: int = 0
) -> DeploymentPlan:
    """The deployment: default policies on both sides, closed loop."""
    pair, options = ProfiledPair(replace(PROFILE, draft_ms=draft_ms)), DraftOptions()
    limits = Limits(max_sessions=max(64, edges))
    _, adaptive_ms = options.patience_for(limits.max_patience_us / 1000)
    users = [
        UserPlan(
            group="edges",
            pair=pair,
            make_policies=lambda: policies_for(
                options, options.shape_for(), default_reconnect(), PROFILE.context_length
            ),
            visits=_visits(seed, number),
            up=UP,
            down=DOWN,
            adaptive_patience_us=round(adaptive_ms * 1000),
        )
        for number in range(edges)
    ]
    pool = PoolPlan(
        FleetPlan((WorkerPlan(),) * workers), lambda: PoolScheduler(MeasuredBudget), limits=limits
    )
    return DeploymentPlan(pair, users, (pool,), duration_ms=minutes * 60_000, seed=seed)


def _visits(seed: int, user: int) -> Callable[[], Iterator[Visit]]:
    def visits() -> Iterator[Visit]:
        random = Keyed(seed, "visits", user)
        while True:
            wait = -THINK_MS * math.log(1.0 - random.uniform())
            prompt = random_prompt(
                random.integer(0, 1 << 40), random.integer(*PROMPT_TOKENS), PROFILE.vocabulary_size
            )
            yield Visit(wait, prompt, random.integer(*OUTPUT_TOKENS))

    return visits


def measure(edges: int, workers: int, minutes: float, draft_ms: float = PROFILE.draft_ms) -> Cost:
    """Run one fleet in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    plan = fleet(edges, workers, minutes, draft_ms)
    record = Deployment(plan).run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    figures = figures_of(record)
    spent = sum(one.ended - one.started for one in record.generations) / 1e6
    return Cost(
        edges=edges,
        workers=workers,
        simulated_s=plan.duration_ms / 1000,
        tokens=figures.total.tokens,
        generations=figures.total.generations,
        active=spent / plan.duration_ms / edges,
        busy=figures.utilisation,
        events=record.events,
        cpu_s=cpu,
        wall_s=wall,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        trace_hash=record.trace_hash,
    )


def exponent(costs: Sequence[Cost]) -> float | None:
    """Of the fit cost = a * edges ** exponent; 1 is linear. Small fleets write more or less by chance: by the token.

    None: too few of them wrote anything.
    """
    wrote = [cost for cost in costs if cost.tokens]
    if len({cost.edges for cost in wrote}) < 2:
        return None
    edges = np.log([cost.edges for cost in wrote])
    return 1.0 + float(np.polyfit(edges, np.log([cost.cpu_s / cost.tokens for cost in wrote]), 1)[0])


def _apart(edges: int, workers: int, minutes: float, draft_ms: float) -> Cost:
    """In a process of its own, so that its peak of memory is its own."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as one:
        return one.submit(measure, edges, workers, minutes, draft_ms).result()


def _line(cost: Cost) -> str:
    each = f"{1e6 * cost.cpu_s / cost.tokens:9.0f}" if cost.tokens else f"{'-':>9}"
    return (
        f"{cost.edges:6d} {cost.workers:8d} {cost.simulated_s:8.0f} {cost.tokens:10d} {cost.active:7.1%} "
        f"{cost.busy:6.1%} {cost.events:10d} {cost.events / cost.cpu_s:9.0f} {cost.cpu_s:8.1f} "
        f"{each} {cost.peak_mb:8.0f}"
    )


HEADER: Final = (
    f"{'edges':>6} {'workers':>8} {'sim. s':>8} {'tokens':>10} {'active':>7} {'busy':>6} {'events':>10} "
    f"{'events/s':>9} {'cpu s':>8} {'us/token':>9} {'peak MB':>8}"
)

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    *,
    edges: Annotated[int, typer.Option(help="Edges, 5 % of which are active at a time.")] = 1000,
    workers: Annotated[int, typer.Option(help="Workers of the one server.")] = 64,
    minutes: Annotated[float, typer.Option(help="Simulated minutes of the whole fleet.")] = 10.0,
    growth_minutes: Annotated[
        float | None, typer.Option(help="Simulated minutes of each size of the growth; default: a tenth.")
    ] = None,
    draft_ms: Annotated[
        float, typer.Option(help="Duration of a drafter forward on one node.")
    ] = PROFILE.draft_ms,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the fleet for a tenth of the time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Real seconds, events and memory that a simulated fleet costs, and how that grows with the fleet."""
    if quick:
        edges, workers, minutes = max(1, edges // 10), max(1, workers // 10), minutes / 10
    for name, value in (("edges", edges), ("workers", workers), ("minutes", minutes), ("draft-ms", draft_ms)):
        if not 0 < value < math.inf:
            raise UserError(f"--{name} {value}: above 0")
    growing = minutes / 10 if growth_minutes is None else growth_minutes
    if not 0 < growing < math.inf:
        raise UserError(f"--growth-minutes {growing}: above 0")
    # The table goes where it is not in the way of the document.
    console = Console(stderr=as_json, soft_wrap=True, highlight=False, markup=False)
    console.print(f"{replace(PROFILE, draft_ms=draft_ms)}\nup {UP}\ndown {DOWN}\n{HEADER}")
    whole = _apart(edges, workers, minutes, draft_ms)
    console.print(_line(whole))
    costs = []
    for part in SIZES:
        costs.append(_apart(max(1, edges // part), max(1, workers // part), growing, draft_ms))
        console.print(_line(costs[-1]))
    grows = exponent(costs)
    console.print("too little was written" if grows is None else f"a fleet of n edges costs n ** {grows:.2f}")
    if as_json:
        found = {"fleet": asdict(whole), "growth": [asdict(cost) for cost in costs], "exponent": grows}
        print(json.dumps(found, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 well, 2 and one line for what the user can mend."""
    try:
        app(arguments, standalone_mode=False)
    except (typer.exceptions.TyperException, UserError) as error:
        detail = error.format_message() if isinstance(error, typer.exceptions.TyperException) else str(error)
        print(f"bench_simulator: {detail}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
