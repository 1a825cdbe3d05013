"""Results of a latency benchmark that nobody ran."""

from __future__ import annotations

from collections.abc import Sequence

from edge_client.stats import Emulation, Percentiles, Stats
from scripts.bench_latency.arms import CLOUD, COLOCATED, DEFAULT
from scripts.bench_latency.plan import Cell, Plan, describe_link, units
from scripts.bench_latency.presets import profiled_pair
from scripts.bench_latency.records import (
    CellFacts,
    End,
    ForwardCost,
    Header,
    Overheads,
    Picture,
    Results,
    Run,
)
from scripts.bench_latency.simulate import believed
from scripts.wan.profiles import WanProfile

STATS = Stats(
    ttft_ms=1.0,
    tpot_ms=1.0,
    itl_ms=Percentiles(None, None, None),
    commit_gap_ms=Percentiles(None, None, None),
    rtt_ms=50.5,
    acceptance_rate=0.8,
    mean_accepted=1.0,
    drafted=40,
    sent=40,
    verified=30,
    stale=3,
    bytes_up=200,
    bytes_down=100,
    mode="stream",
    shape="tree",
    reconnects=0,
    steps=5,
    self_decoded=0,
    forwards=20,
    emulation=Emulation(0.0, None),
)
OVERHEADS = Overheads(30.4, 50.6, (ForwardCost(1, 10, 3.2), ForwardCost(4, 10, 4.1)), 0.8)
STANDARD = profiled_pair("profiled:acceptance=0.8,step_ms=30,draft_ms=3")


def cell(*, rtt_ms=50.0, arms=(CLOUD, COLOCATED, DEFAULT), prompts=3, pair=STANDARD, link=None, tokens=10):
    link = link if link is not None else WanProfile(rtt_ms)
    where = describe_link(link)
    return Cell(f"{pair.name}, {where}", pair, link, tuple(arms), units(prompts, (0,)), tokens, title=where)


def facts(of: Cell, cannot_show: str = "") -> CellFacts:
    return CellFacts(of.key, "proxy", "", cannot_show, OVERHEADS, believed(of.pair, OVERHEADS))


def run(
    of: Cell, arm: str, prompt: int, *, tpot: float, ttft: float = 80.0, tokens=None, per_commit=1, **more
) -> Run:
    """A run with a commit of `per_commit` tokens every `tpot * per_commit` ms."""
    tokens = tuple(range(of.tokens)) if tokens is None else tokens
    counts = [1] + [per_commit] * ((len(tokens) - 1) // per_commit)
    commits, seen = [], 0
    for count in counts:
        seen += count
        commits.append((ttft + (seen - 1) * tpot, count))
    given = {"stats": STATS, "link_bytes_up": 1000, "link_bytes_down": 500} | more
    return Run(of.key, arm, prompt, 0, 0.5, tokens, "length", tuple(commits), **given)


def results(
    cells: Sequence[Cell],
    runs: Sequence[Run],
    *,
    outcome="complete",
    name="grid",
    jobs=1,
    known=None,
    predicted=(),
) -> Results:
    header = Header(
        Plan(tuple(cells), name), "python -m scripts.bench_latency", {"cpu": "none"}, "today", jobs
    )
    known = [facts(one) for one in cells] if known is None else known
    end = None if outcome is None else End(outcome, len(runs), 1.0)
    return Results(header, tuple(known), tuple(runs), tuple(predicted), (), end)


PICTURE = Picture(
    forwards=((0.0, 3.0, 1), (3.0, 6.5, 4)),
    sent=((3.0, 2), (6.5, 5)),
    commits=((85.0, 1, 0.1, 30.0, 0), (118.0, 3, 0.2, 30.0, 2)),
)
