"""Recorded workloads: one generation a line, CSV with a header or JSON lines.

Columns: `at_s` (when it was asked for, seconds from the first line's own clock; never decreasing), `prompt_tokens`,
`output_tokens`. Other columns are not looked at.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.simulate.schema_base import MOST_SECONDS, MOST_TOKENS, Within
from shared.errors import UserError

MOST_ROWS: Final = 1_000_000
_TOKENS: Final = Within(1, MOST_TOKENS, whole=True)
_AT: Final = Within(0, MOST_SECONDS)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long a prompt was and what was written after it, in tokens."""

    prompt: int
    output: int


def read_lengths(path: Path) -> tuple[Lengths, ...]:
    """The prompts and outputs of a file, in its order.

    Raises:
        UserError: it cannot be read, is empty or too long, lacks a column, or holds what is no length.
    """
    return tuple(
        Lengths(int(row.number("prompt_tokens", _TOKENS)), int(row.number("output_tokens", _TOKENS)))
        for row in _rows(path)
    )


def read_arrivals(path: Path) -> tuple[float, ...]:
    """When generations were asked for (s), in the file's order.

    Raises:
        UserError: as `read_lengths`, and times that decrease.
    """
    times = tuple(row.number("at_s", _AT) for row in _rows(path))
    for number, (before, after) in enumerate(itertools.pairwise(times), 2):
        if after < before:
            raise UserError(f"{path}: row {number}: at_s {after:g} is before the row above it, {before:g}")
    return times


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    values: Mapping[str, Any]

    def number(self, column: str, bounds: Within) -> float:
        if column not in self.values:
            raise UserError(f"{self.where}: the column {column} is missing ({bounds})")
        value = self.values[column]
        try:
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            number = None
        fits = number is not None and bounds.least <= number <= bounds.most
        if number is None or not fits or (bounds.whole and number != int(number)):
            kind = "a whole number" if bounds.whole else "a number"
            raise UserError(f"{self.where}: {column} {value!r} is not {kind} from {bounds}")
        return number


def _rows(path: Path) -> Iterator[_Row]:
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(f"{path}: the name must end in one of {', '.join(_READERS)}")
    count = 0
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            for count, values in enumerate(read(lines), 1):
                if count > MOST_ROWS:
                    raise UserError(f"{path}: more than {MOST_ROWS:,} rows")
                where = f"{path}: row {count}"
                if not isinstance(values, Mapping):
                    raise UserError(f"{where} is not an object of names and values")
                yield _Row(where, values)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UserError(f"{path}: after row {count}: {error}") from error
    if not count:
        raise UserError(f"{path}: no row in it")


def _json_lines(lines: Iterator[str]) -> Iterator[Any]:
    return (json.loads(line) for line in lines if line.strip())


_READERS: Final[dict[str, Callable[[Any], Iterator[Any]]]] = {
    ".csv": csv.DictReader,
    ".jsonl": _json_lines,
}
