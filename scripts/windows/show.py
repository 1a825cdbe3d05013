"""The tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from scripts.windows.arms import DSD_MOST, OURS, STATIC, Drafts, Sizer
from scripts.windows.compare import Judged, Ran, Target, geometric
from scripts.windows.train import Learned
from shared.policy.learned_window import Drafting

REMARKS: Final = (
    "Speed-up and throughput: over synchronous blocks of 4 on the same fleet, seeds and pool. Latency is per token",
    "of a client, waiting for prompts included, each client counting the same; a client asks again as soon as its text",
    "ends. Oracle: the best fixed window of that fleet and mode, on the same seeds. off: latency beyond the oracle's /",
    f"throughput short of the best fixed window's. DSD's EMA rule ends at {DSD_MOST} nodes.",
)


def show(judged: Sequence[Judged], pool: Sequence[Ran], found: Sequence[Target], console: Console) -> None:
    """Windows, the pool, what must hold."""
    if judged:
        console.print(_windows(judged), _means(judged))
        for line in REMARKS:
            console.print(line, style="dim", markup=False, soft_wrap=True)
    if pool:
        console.print(_pool(pool))
    for target in found:
        word, style = ("holds", "green") if target.met else ("DOES NOT HOLD", "red")
        console.print(f"[{style}]{word}[/]: {target.text}: {target.worst}", soft_wrap=True)


def show_learned(learned: dict[Drafting, Learned], console: Console) -> None:
    """How training went."""
    table = Table(title="Mean latency beyond the best window of each fleet", title_justify="left")
    for name in ("network", "fleets it saw", "others", "the best single window there"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for drafting, one in learned.items():
        fixed = f"{one.fixed_regret:.1%} (window {one.fixed})"
        table.add_row(drafting.value, f"{one.learned:.1%}", f"{one.held_out:.1%}", fixed)
    console.print(table)


def _windows(judged: Sequence[Judged]) -> Table:
    table = Table(title="Windows: speed-up, throughput, distance to the oracle", title_justify="left")
    table.add_column("fleet")
    table.add_column("mode")
    for sizer in Sizer:
        table.add_column(sizer.value, justify="right")
    for fleet in dict.fromkeys(one.fleet for one in judged):
        for drafts in Drafts:
            row = [one for one in judged if one.fleet == fleet and one.drafts is drafts]
            if row:
                first = fleet if row[0].drafts is Drafts.SYNC else ""
                table.add_row(first, drafts.value, *(_cell(one) for one in row))
        table.add_section()
    return table


def _cell(one: Judged) -> str:
    off = f" ={one.window}" if one.sizer is Sizer.ORACLE else f" off {one.behind:.0%}/{one.lost:.0%}"
    return f"{one.speed_up:.2f}x {one.more:+.0%}{off}"


def _means(judged: Sequence[Judged]) -> Table:
    table = Table(title="Over all fleets (geometric mean; off: the mean and the worst)", title_justify="left")
    for name in ("mode", "window"):
        table.add_column(name)
    for name in ("speed-up", "throughput", "off", "worst", "facts/token"):
        table.add_column(name, justify="right")
    for drafts in dict.fromkeys(one.drafts for one in judged):
        for sizer in Sizer:
            several = [one for one in judged if one.drafts is drafts and one.sizer is sizer]
            table.add_row(
                drafts.value,
                sizer.value,
                f"{geometric(one.speed_up for one in several):.2f}x",
                f"{geometric(1.0 + one.more for one in several) - 1.0:+.1%}",
                f"{geometric(1.0 + one.behind for one in several) - 1.0:.1%}",
                f"{max(one.behind for one in several):.1%}",
                f"{sum(one.facts_per_token for one in several) / len(several):.2f}",
            )
        table.add_section()
    return table


def _pool(pool: Sequence[Ran]) -> Table:
    arms = list(dict.fromkeys(one.cell.arm for one in pool))
    table = Table(
        title=f"Routing x batching x windows on one pool: speed-up and throughput over {STATIC.name}, "
        "routed and batched alike",
        title_justify="left",
    )
    table.add_column("routing, batching")
    table.add_column("baseline ms, tokens/s", justify="right")
    for arm in arms[1:]:
        table.add_column(f"ours: {arm.name}" if arm == OURS else arm.name, justify="right")
    for cloud in dict.fromkeys(one.cell.cloud for one in pool):
        row = {one.cell.arm: one for one in pool if one.cell.cloud == cloud}
        base = row[STATIC]
        table.add_row(
            cloud.name,
            f"{base.latency_ms:.1f}, {base.tokens_per_s:.0f}",
            *(
                f"{base.latency_ms / row[arm].latency_ms:.2f}x {row[arm].tokens_per_s / base.tokens_per_s - 1:+.0%}"
                for arm in arms[1:]
            ),
        )
    return table
