"""The tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from scripts.bench_capacity.figures import LIMITS_MS, Aim, CellFigures, Served
from scripts.bench_capacity.records import Measured
from scripts.bench_capacity.setting import ACCEPTANCE, FLAT_NODES, NAMES, NODE_MS, STEP_MS
from scripts.bench_latency.statistic import Interval

CROWDED: Final = 0.8
"""Of one core: a process that uses more of it is measured itself."""


def show(
    found: Sequence[CellFigures], aims: Sequence[Aim], served: Sequence[Served], console: Console
) -> None:
    """Rates, who is served within which limit, what must hold, and what is to be known beside it."""
    if found:
        console.print(_rates(found), _served(served))
    for aim in aims:
        word, style = {True: ("met", "green"), False: ("NOT MET", "red"), None: ("not judged", "yellow")}[
            aim.met
        ]
        console.print(f"[{style}]{word}[/]: {aim.text}: {aim.measured}", soft_wrap=True)
    for line in remarks(found):
        console.print(line, style="dim", markup=False, soft_wrap=True)


def remarks(found: Sequence[CellFigures]) -> list[str]:
    """What is to be known beside the figures."""
    arms = [arm for cell in found for arm in cell.arms]
    lines = [
        f"A profiled pair, acceptance {ACCEPTANCE:g}: {STEP_MS:g} ms per step up to {FLAT_NODES} nodes, and for each",
        f"beyond {NODE_MS:.3g} ms more. A client begins its next text when one has ended.",
        "Co-located SI: the verifier's device drafts blocks of k for all its sessions before each step, k forwards as",
        "long as one for a single session; k is the best there is.",
        "Where time is stretched, step, drafter and link were that many times slower; figures are divided by it.",
    ]
    crowded = [one for one in arms if max(one.clients_cpu, one.server_cpu) > CROWDED]
    if crowded:
        lines.append(
            "More than 80 % of a core: "
            + "; ".join(f"{one.setting.key}, {NAMES[one.arm]}" for one in crowded)
            + ": the machine itself was measured there."
        )
    if arms:
        lines.append(f"Others used up to {max(one.neighbours for one in arms):.0%} of the cores meanwhile.")
    return lines


def _rates(found: Sequence[CellFigures]) -> Table:
    table = Table(
        title="tokens/s of all clients (how far from the simulated), p95 ms between tokens, facts per token",
        title_justify="left",
    )
    for heading in ("RTT", "drafter", "clients", "stretched"):
        table.add_column(heading, justify="right")
    for name in NAMES.values():
        table.add_column(name, justify="right")
    for heading in ("by SI co-located", "asked", "by cloud", "CPU clients/server"):
        table.add_column(heading, justify="right")
    before = None
    for cell in found:
        here = (cell.setting.rtt_ms, cell.setting.draft_ms)
        if before not in (None, here):
            table.add_section()
        before = here
        last = cell.arms[-1]
        table.add_row(
            f"{cell.setting.rtt_ms:g}",
            f"{cell.setting.draft_ms:g}",
            str(cell.setting.clients),
            f"{last.setting.stretch:g} x",
            _arm(cell.cloud),
            _arm(cell.colocated),
            _arm(cell.slipstream),
            _factor(cell.over_colocated),
            f"{cell.asked:g}",
            _factor(cell.over_cloud),
            f"{last.clients_cpu:.0%}/{last.server_cpu:.0%}",
        )
    return table


def _served(served: Sequence[Served]) -> Table:
    table = Table(
        title="clients served with the 95th percentile between tokens within a limit (and their tokens/s)",
        title_justify="left",
    )
    for heading in ("RTT", "drafter"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for limit in LIMITS_MS:
        table.add_column(f"{limit:g} ms", justify="right")
    for one in served:
        table.add_row(
            f"{one.rtt_ms:g}",
            f"{one.draft_ms:g}",
            NAMES[one.arm],
            *(
                "none" if clients is None else f"{clients} ({rate:.0f})"
                for clients, rate in zip(one.clients, one.tokens_per_s, strict=True)
            ),
        )
    return table


def _arm(one: Measured | None) -> str:
    if one is None:
        return "-"
    block = f" k={one.lookahead}" if one.lookahead is not None else ""
    error = f" ({one.error:+.0%})" if one.error is not None else ""
    return f"{_rate(one.tokens_per_s)}{error}, {one.itl_p95_ms:.0f} ms, {one.facts_per_token:.2f}{block}"


def _rate(one: Interval) -> str:
    return f"{one.value:.0f}"


def _factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
