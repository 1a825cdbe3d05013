"""The tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from scripts.recovery.studies import Row

REMARKS: Final = (
    "Simulated: step 30 ms, drafter 3 ms, acceptance 0.8, RTT 40 ms, a token's prefill 0.1 ms.",
    "Pauses: between two commits of a client; worst: the longest one of a client, median over clients.",
    "Per token: facts that workers stated, steps that sessions took part in, computed: tokens that steps forwarded,",
    "prompts that were computed again among them. given up: steps that another worker was asked for as well;",
    "gone: from the event until the worker had left.",
)


COLUMNS: Final = (
    "p50",
    "p95",
    "p99",
    "longest",
    "worst",
    "ms/token",
    "facts",
    "steps",
    "computed",
    "given up",
    "gone ms",
)


def show(rows: Sequence[Row], console: Console) -> None:
    """A table for each situation of each study."""
    for study, situation in dict.fromkeys((row.study, row.situation) for row in rows):
        here = [row for row in rows if (row.study, row.situation) == (study, situation)]
        console.print(_table(f"{study}: {situation}", here))
    for line in REMARKS:
        console.print(line, style="dim", markup=False, soft_wrap=True)


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("protocol", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        one = row.result
        pauses = (
            one.pause_p50_ms,
            one.pause_p95_ms,
            one.pause_p99_ms,
            one.pause_longest_ms,
            one.worst_p50_ms,
        )
        table.add_row(
            row.protocol,
            *(f"{pause:.0f}" for pause in pauses),
            f"{one.tpot_ms:.1f}",
            f"{one.facts_per_token:.2f}",
            f"{one.steps_per_token:.2f}",
            f"{one.computed_per_token:.2f}",
            str(one.given_up),
            "" if one.gone_after_ms is None else f"{one.gone_after_ms:.0f}",
        )
    return table
