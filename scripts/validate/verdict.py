"""How far the simulator is off over all rows, and what must hold."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scripts.validate.figures import Figures, error
from scripts.validate.records import Row

MEDIAN: Final = 0.10
WORST: Final = 0.20
"""Over the grid, of what must hold."""
LEAST_ROWS: Final = 24
"""Fewer say nothing about a grid."""

NAMES: Final[Mapping[str, str]] = {
    "tpot_ms": "TPOT",
    "tokens_per_s": "tokens/s",
    "ttft_ms": "TTFT",
    "itl_p50_ms": "ITL p50",
    "itl_p95_ms": "ITL p95",
    "acceptance": "acceptance",
    "facts_per_token": "facts/token",
}
"""Of the fields of `Figures`."""
JUDGED: Final = ("tpot_ms", "tokens_per_s")
IN_MS: Final = ("itl_p50_ms",)
"""Compared by their difference. Where half of the tokens come together the median jumps between 0 and a step."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure over all rows in which it can be compared, without sign: shares, or ms of those `IN_MS`."""

    field: str
    rows: int
    median: float
    worst: float
    worst_key: str
    """The row."""
    ideal_median: float
    """Of a simulator that is told no overheads."""
    ideal_worst: float


@dataclass(frozen=True, slots=True)
class Aim:
    """Something that must hold."""

    text: str
    measured: str
    met: bool | None
    """None: there are too few rows to judge."""


def told(row: Row, field: str) -> float | None:
    """How far the prediction of a figure is off: a share, or ms of those `IN_MS`."""
    return _error(row, field, row.simulated.told)


def ideal(row: Row, field: str) -> float | None:
    """The same without overheads."""
    return _error(row, field, row.simulated.ideal)


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Of every figure that can be compared in some row."""
    found = []
    for field in NAMES:
        known = _known(rows, field, told)
        if known:
            others = [value for value, _ in _known(rows, field, ideal)]
            worst, key = max(known)
            found.append(
                Summary(
                    field,
                    len(known),
                    statistics.median(value for value, _ in known),
                    worst,
                    key,
                    statistics.median(others),
                    max(others),
                )
            )
    return found


def aims(rows: Sequence[Row]) -> list[Aim]:
    """What must hold."""
    wrong = sum(row.measured.wrong for row in rows)
    found = [Aim("all texts are the target's own", f"{wrong} others", wrong == 0 if rows else None)]
    for one in summaries(rows):
        if one.field in JUDGED:
            met = one.median <= MEDIAN and one.worst <= WORST if one.rows >= LEAST_ROWS else None
            text = f"{NAMES[one.field]} predicted within {MEDIAN:.0%} in the median and {WORST:.0%} at worst"
            found.append(Aim(text, f"{one.median:.1%} and {one.worst:.1%} ({one.worst_key})", met))
    return found


def _error(row: Row, field: str, predicted: Figures) -> float | None:
    values = (getattr(predicted, field), getattr(row.measured.figures, field))
    return values[0] - values[1] if field in IN_MS else error(*values)


def in_words(field: str, off: float, *, signed: bool = False) -> str:
    """How far a figure is off."""
    sign = "+" if signed else ""
    return f"{off:{sign}.1f} ms" if field in IN_MS else f"{off:{sign}.1%}"


def _known(
    rows: Sequence[Row], field: str, how: Callable[[Row, str], float | None]
) -> list[tuple[float, str]]:
    return [(abs(value), row.configuration.key) for row in rows if (value := how(row, field)) is not None]
