"""A table as texts: the same for the terminal and for the report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final, TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDE: Final = 160
"""Columns where there is no terminal that says how many it has."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The first column is text, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def print_grid(grid: Grid, stream: TextIO | None = None) -> None:
    """On a terminal, or wherever output goes."""
    file = stream if stream is not None else sys.stdout
    console = Console(file=file, width=None if file.isatty() else WIDE, highlight=False)
    first, *others = grid.columns
    table = Table(escape(first), title=escape(grid.title) or None, title_justify="left", title_style="bold")
    for name in others:
        table.add_column(escape(name), justify="right")
    for row in grid.rows:
        table.add_row(*map(escape, row))
    console.print(table)
    if grid.note:
        console.print(grid.note, markup=False)
