"""The tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from scripts.bench_dsi.figures import Aim, ArmFigures, RowFigures, geometric_mean
from scripts.bench_dsi.plan import ARMS, SI
from scripts.bench_latency.figures import Difference
from scripts.bench_latency.records import Results
from scripts.bench_latency.statistic import Interval


def show(
    results: Results,
    rows: Sequence[RowFigures],
    found: Sequence[Aim],
    wrong: Sequence[Difference],
    console: Console,
) -> None:
    """Times, factors, what must hold, and what is to be known beside it."""
    if results.state:
        console.print(f"The run was {results.state}.", style="yellow")
    for one in wrong:
        console.print(one.describe(), style="red", soft_wrap=True)
    if rows:
        console.print(_times(rows), _factors(rows))
    for aim in found:
        word, style = {True: ("met", "green"), False: ("NOT MET", "red"), None: ("not judged", "yellow")}[
            aim.met
        ]
        console.print(f"[{style}]{word}[/]: {aim.text}: {aim.measured}", soft_wrap=True)
    for line in remarks(results, rows):
        console.print(line, style="dim", markup=False, soft_wrap=True)


def remarks(results: Results, rows: Sequence[RowFigures]) -> list[str]:
    """What is to be known beside the figures."""
    lines = [
        "Models sleep instead of computing: acceptance is the same everywhere, a step lasts as long whatever is in it,",
        "a forward on 8 branches costs 1.7 times one on a single node. Server, edge and gRPC are the product's own.",
        "Intervals: 95 % bootstrap over texts. Simulated: told what the runtime adds, measured on probes.",
        "Recounted: chain over SI with a further target forward for each block with a wrong draft, as the paper counts",
        "it; on the same live runs, and by the formula at the best of the paper's lookaheads 1, 5 and 10.",
    ]
    if results.header.jobs > 1:
        lines.append(f"{results.header.jobs} rows ran side by side on this machine's cores.")
    shares = [one.neighbours for one in results.cell_ends if one.neighbours is not None]
    if shares:
        lines.append(f"Other processes used up to {max(shares):.0%} of the cores meanwhile.")
    if rows:
        lines.append(
            f"Each arm wrote {rows[0].texts} texts of {rows[0].tokens // rows[0].texts} tokens in each row."
        )
    return lines


def _times(rows: Sequence[RowFigures]) -> Table:
    table = Table(
        title="ms per token; in brackets: simulated, and how far the live one is from it",
        title_justify="left",
    )
    table.add_column("row", justify="right")
    table.add_column("step/draft ms, acceptance")
    for arm in ARMS:
        table.add_column(arm.name, justify="right")
    table.add_column("SI by formula", justify="right")
    for one in rows:
        table.add_row(
            str(one.row.number),
            f"{one.pair.step_ms:g}/{one.pair.draft_ms:g}, {one.pair.acceptance:.0%}",
            *(
                _time(one.arms[arm.key]) + (f" k={one.lookahead}" if arm.key == SI.key else "")
                for arm in ARMS
            ),
            f"{one.formula_ms:.2f}",
        )
    return table


def _factors(rows: Sequence[RowFigures]) -> Table:
    table = Table(title="times as fast", title_justify="left")
    for heading in (
        "row",
        "chain / SI",
        "prototype",
        "Slipstream / SI",
        "Slipstream / chain",
        "Slipstream / cloud",
        "recounted, live",
        "recounted, k",
        "claimed",
        "same text",
    ):
        table.add_column(heading, justify="right")
    for one in rows:
        table.add_row(
            str(one.row.number),
            factor(one.chain_over_si),
            f"{one.row.prototype:.2f}",
            factor(one.policy_over_si),
            factor(one.policy_over_chain),
            factor(one.policy_over_alone),
            f"{one.recounted.value:.2f}",
            f"{one.paper:.2f}, {one.paper_lookahead}",
            f"{one.row.claimed:.2f}",
            "yes" if one.identical else "NO",
        )
    means = [
        [one.chain_over_si.value for one in rows],
        [one.row.prototype for one in rows],
        [one.policy_over_si.value for one in rows],
        [one.policy_over_chain.value for one in rows],
        [one.policy_over_alone.value for one in rows],
        [one.recounted.value for one in rows],
        [one.paper for one in rows],
        [one.row.claimed for one in rows],
    ]
    table.add_section()
    table.add_row("mean", *(f"{geometric_mean(one):.3f}" for one in means), "")
    return table


def _time(arm: ArmFigures) -> str:
    if arm.predicted_ms is None or arm.error is None:
        return f"{arm.tpot_ms.value:.2f}"
    return f"{arm.tpot_ms.value:.2f} ({arm.predicted_ms:.2f}, {arm.error:+.0%})"


def factor(one: Interval) -> str:
    """`1.20 (1.15..1.25)`."""
    if one.low is None or one.high is None:
        return f"{one.value:.2f}"
    return f"{one.value:.2f} ({one.low:.2f}..{one.high:.2f})"
