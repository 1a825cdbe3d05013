"""The results in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.bench_latency.figures import ArmFigures, CellFigures, Difference
from scripts.bench_latency.plan import Place
from scripts.bench_latency.records import CellFacts, Results
from scripts.bench_latency.statistic import Interval
from scripts.wan.link import Choice, Enforcer

QUIET: Final = 0.05
"""Share of the cores up to which other processes leave a measurement alone."""


def show(
    results: Results, cells: Sequence[CellFigures], found: Sequence[Difference], console: Console
) -> None:
    """Everything, cell by cell."""
    for cell in cells:
        console.print(cell_table(cell))
        for line in remarks(cell, results.header.jobs):
            console.print(f"  {line}", style="dim", markup=False, soft_wrap=True)
        console.print()
    for one in found:
        console.print(one.describe(), style="bold red", markup=False)
    if results.state:
        console.print(f"Partial: {results.state}.", style="bold yellow", markup=False)


def cell_table(cell: CellFigures) -> Table:
    """One row per arm."""
    title = f"{cell.cell.pair.describe()}; {cell.cell.title}"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    for column in (
        "TTFT\nms",
        "TPOT ms\n(95 %)",
        "times as fast\nas cloud alone",
        "as co-\nlocated",
        "ITL ms\np50/p95/p99",
        "tokens\n/s",
        "100th\nms",
        "accep-\ntance",
        "facts/\ntoken",
        "B/token\nup/down",
        "simulated\nTPOT ms",
        "same\ntext",
    ):
        table.add_column(column, justify="right")
    for arm in cell.arms:
        table.add_row(*row(arm))
    return table


def row(arm: ArmFigures) -> tuple[str, ...]:
    """The cells of an arm's row."""
    return (
        name_of(arm),
        number(arm.ttft_ms, 0),
        with_interval(arm.tpot_ms, 1),
        with_interval(None if arm.to_cloud is None else arm.to_cloud.inverse(), 2),
        number(None if arm.to_colocated is None else arm.to_colocated.inverse(), 2),
        "/".join(number(one, 0) for one in arm.itl_ms),
        number(arm.tokens_per_s, 1),
        number(arm.hundredth_ms, 0),
        plain(arm.acceptance, 2),
        plain(arm.facts_per_token, 1),
        "/".join(plain(one, 0) for one in (arm.link_up, arm.link_down)),
        prediction(arm),
        "yes" if arm.identical else "NO",
    )


def remarks(cell: CellFigures, jobs: int) -> list[str]:
    """What is to be known beside a cell's figures."""
    lines = [*cell.cell.skipped]
    if cell.cell.pair.note:
        lines.append(cell.cell.pair.note)
    tokens = {f"{arm.units} x {cell.cell.tokens}" for arm in cell.arms}
    lines.append(f"tokens per arm: {' or '.join(sorted(tokens))}; temperature {cell.cell.temperature:g}")
    if any(arm.arm.place is not Place.EDGE for arm in cell.arms):
        lines.append(
            f"arms on the server's host have no link: {cell.cell.link.rtt_ms:g} ms were added to their TTFT and to the "
            "time of their 100th token"
        )
    if cell.facts is not None:
        lines += facts_lines(cell.facts, profiled=cell.cell.pair.profile is not None)
    if jobs > 1:
        lines.append(
            f"{jobs} cells ran side by side on this machine's cores: for the truth run one at a time"
        )
    if cell.neighbours is not None and cell.neighbours > QUIET:
        lines.append(f"other processes used {cell.neighbours:.0%} of the cores: run again when it is quiet")
    return lines


def facts_lines(facts: CellFacts, *, profiled: bool) -> list[str]:
    """How the link was made, what the runtime adds, which lookaheads were chosen."""
    lines = []
    if facts.enforcer == "none":
        lines.append("no network was emulated")
    else:
        lines.append(
            f"link by {choice_in_words(Choice(Enforcer(facts.enforcer), facts.reason, facts.cannot_show))}"
        )
    told = facts.believed
    lines.append(
        f"the simulator was told, from probes: {told.step_ms:.2f} ms per step, {told.draft_ms:.2f} ms per draft, "
        f"round trip {facts.overheads.rtt_ms:.2f} ms, "
        + (
            f"acceptance {told.acceptance:.2f} as told the models"
            if profiled
            else "and of each text the acceptance that its own drafts had"
        )
    )
    for one in facts.lookaheads:
        live = ", ".join(f"{length}: {ms:.1f}" for length, ms in one.live_ms.items())
        lines.append(f"lookahead of {one.arm}: {one.chosen} (live TPOT on probes, ms: {live})")
    return lines


def choice_in_words(choice: Choice) -> str:
    """Which enforcer, why not a better one, and what it cannot show."""
    why = f" ({choice.reason})" if choice.reason else ""
    lacks = f"; it cannot show {choice.cannot_show}" if choice.cannot_show else ""
    return f"{choice.enforcer}{why}{lacks}"


def name_of(arm: ArmFigures) -> str:
    """With its lookahead."""
    return arm.arm.name if arm.lookahead is None else f"{arm.arm.name}, lookahead {arm.lookahead}"


def prediction(arm: ArmFigures) -> str:
    """The simulator's TPOT and how far the live one is from it."""
    if arm.predicted_ms is None or arm.error is None:
        return "-"
    return f"{arm.predicted_ms:.1f} ({arm.error:+.1%})"


def with_interval(one: Interval | None, digits: int) -> str:
    """`1.0 (0.9..1.1)`."""
    if one is None:
        return "-"
    if one.low is None or one.high is None:
        return f"{one.value:.{digits}f}"
    return f"{one.value:.{digits}f} ({one.low:.{digits}f}..{one.high:.{digits}f})"


def number(one: Interval | None, digits: int) -> str:
    """Without its interval."""
    return plain(None if one is None else one.value, digits)


def plain(value: float | None, digits: int) -> str:
    """`-` for what is not known."""
    return "-" if value is None else f"{value:.{digits}f}"
