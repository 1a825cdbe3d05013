"""The tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from scripts.bench_capacity.figures import LIMITS_MS, Aim, CellFigures, Most, Served
from scripts.bench_capacity.records import Found, Measured
from scripts.bench_capacity.setting import (
    ACCEPTANCE,
    BATCHING,
    FLAT_NODES,
    NAMES,
    NODE_MS,
    STEP_MS,
    Arm,
)
from shared.profiled import Profile

CROWDED: Final = 0.7
"""Of one core by one process, or of all by everybody: where more is used the machine itself is measured."""


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
    live = [arm for cell in found for arm in cell.arms if isinstance(arm, Measured)]
    lines = [
        f"A profiled pair, acceptance {ACCEPTANCE:g}: {STEP_MS:g} ms per step up to {FLAT_NODES} nodes, and for each",
        f"beyond {NODE_MS:.3g} ms more. A client begins its next text when one has ended.",
        "Co-located SI: the verifier's device drafts blocks of k for all its sessions before each step, in k forwards.",
        f"{NAMES[Arm.COLOCATED]}: each of them as long as one for a single session. {NAMES[Arm.COLOCATED_PAID]}:",
        f"each further session adds {Profile().branch_cost:g} of a forward, as a further branch does at the edge.",
        "k, at least 1, is the best there is for the rate under each accounting; what co-located SI could serve",
        "within a limit with a shorter block is computed beside it.",
        "Where time is stretched, step, drafter and link were that many times slower; figures are divided by it.",
    ]
    crowded = [one for one in live if max(one.clients_cpu, one.server_cpu, one.busy) > CROWDED]
    if crowded:
        lines.append(
            f"More than {CROWDED:.0%} of a core by one process, or of all cores: "
            + "; ".join(f"{one.setting.key}, {NAMES[one.arm]}" for one in crowded)
            + ": the machine itself was measured there."
        )
    if live:
        lines.append(f"Others used up to {max(one.neighbours for one in live):.0%} of the cores meanwhile.")
    return lines


def _rates(found: Sequence[CellFigures]) -> Table:
    live = any(isinstance(one, Measured) for cell in found for one in cell.arms)
    table = Table(
        title="all clients together" if live else "all clients together, simulated", title_justify="left"
    )
    headings = ["RTT", "drafter", "clients", "", "k", "tokens/s", "p95 ms between tokens"]
    if live:
        headings += ["simulated", "live is", "facts/token", "stretched", "CPU clients/server/all"]
    for heading in [*headings, "Slipstream by it", "asked"]:
        table.add_column(heading, justify="left" if not heading else "right")
    for cell in found:
        for arm, one in cell.by_arm.items():
            own = cell.setting
            begun = arm is next(iter(cell.by_arm))
            where = (f"{own.rtt_ms:g}", f"{own.draft_ms:g}", str(own.clients)) if begun else ("", "", "")
            figures = (f"{one.rate:.0f}", f"{one.itl_p95_ms:.1f}")
            factor = cell.over(arm) if arm is not Arm.SLIPSTREAM else None
            table.add_row(
                *where,
                NAMES[arm],
                "" if one.lookahead is None else str(one.lookahead),
                *figures,
                *(_live(one) if live else ()),
                "" if factor is None else f"{factor:.2f}",
                f"{cell.asked:g}" if arm in BATCHING else "",
            )
        table.add_section()
    return table


def _live(one: Found) -> tuple[str, ...]:
    if not isinstance(one, Measured):
        return ("", "", "", "not run", "")
    return (
        "" if one.predicted is None else f"{one.predicted.tokens_per_s:.0f}, {one.predicted.itl_p95_ms:.1f}",
        "" if one.error is None else f"{one.error:+.1%}",
        f"{one.facts_per_token:.2f}",
        f"{one.setting.stretch:g} x",
        f"{one.clients_cpu:.0%}/{one.server_cpu:.0%}/{one.busy:.0%}",
    )


def _most(most: Most | None) -> str:
    if most is None:
        return "none"
    return (
        f"{most.clients} ({most.tokens_per_s:.0f}{'' if most.lookahead is None else f', k={most.lookahead}'})"
    )


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
            f"{NAMES[one.arm]}{', k for the limit, by formula' if one.computed else ''}",
            *(_most(most) for most in one.most),
            end_section=one.arm is Arm.SLIPSTREAM,
        )
    return table
