"""Rows and summaries as headings and cells, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scripts.validate.records import Row
from scripts.validate.verdict import NAMES, Summary, in_words, told

CROWDED: Final = 0.7
"""Of one core by one process, or of all by everybody: where more is used the machine itself is measured."""


@dataclass(frozen=True, slots=True)
class Table:
    """Text."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def rows_table(rows: Sequence[Row]) -> Table:
    """One line for each configuration."""
    return Table(
        "measured / simulated (how far the simulated is off)",
        (
            "",
            "stretched",
            "TPOT, ms",
            "tokens/s",
            "TTFT, ms",
            "ITL p50, ms",
            "ITL p95, ms",
            "acceptance",
            "facts/token",
            "load",
            "CPU clients/server/all",
        ),
        tuple(_row(row) for row in rows),
    )


def summary_table(found: Sequence[Summary]) -> Table:
    """One line for each figure."""
    return Table(
        "how far the simulator is off",
        ("", "rows", "median", "worst", "where", "median without overheads", "worst without overheads"),
        tuple(
            (
                NAMES[one.field],
                str(one.rows),
                in_words(one.field, one.median),
                in_words(one.field, one.worst),
                one.worst_key,
                in_words(one.field, one.ideal_median),
                in_words(one.field, one.ideal_worst),
            )
            for one in found
        ),
    )


def crowded(rows: Sequence[Row]) -> list[str]:
    """The rows in which the machine itself was measured."""
    return [
        row.configuration.key
        for row in rows
        if max(row.measured.clients_cpu, row.measured.server_cpu, row.measured.busy) > CROWDED
    ]


def _row(row: Row) -> tuple[str, ...]:
    one = row.measured
    return (
        row.configuration.key,
        f"{row.configuration.stretch:g} x",
        _pair(row, "tpot_ms", 2),
        _pair(row, "tokens_per_s", 1),
        _pair(row, "ttft_ms", 1),
        _pair(row, "itl_p50_ms", 1),
        _pair(row, "itl_p95_ms", 1),
        _pair(row, "acceptance", 3),
        _pair(row, "facts_per_token", 2),
        f"{one.load:.1f}",
        f"{one.clients_cpu:.0%}/{one.server_cpu:.0%}/{one.busy:.0%}",
    )


def _pair(row: Row, field: str, digits: int) -> str:
    measured, simulated = (getattr(one, field) for one in (row.measured.figures, row.simulated.told))
    if measured is None or simulated is None:
        return "-"
    off = told(row, field)
    return f"{measured:.{digits}f} / {simulated:.{digits}f}" + (
        "" if off is None else f" ({in_words(field, off, signed=True)})"
    )
