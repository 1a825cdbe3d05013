"""The texts while they appear: three panels on a terminal, one line per generation elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

REFRESHES_PER_S: Final = 8
"""Painting takes the interpreter from the edge's event loop for some milliseconds each time."""
MOST_LINES: Final = 16
STATE_LINES: Final = 2
SURROUNDINGS: Final = 8
"""Lines of the terminal that the panels leave free."""


class View(Protocol):
    """Told what happens, in this order: `prompt`, then for each arm `begin`, `text` and `tokens`, `finish`."""

    def prompt(self, number: int, count: int, prompt: str) -> None:
        """A new prompt, numbered from 0."""

    def begin(self, arm: str) -> None:
        """An arm starts."""

    def text(self, arm: str, piece: str) -> None:
        """Final text."""

    def tokens(self, arm: str, count: int) -> None:
        """Final tokens."""

    def finish(self, arm: str, tokens: int, tpot_ms: float | None, drafted: int) -> None:
        """An arm is done."""


class PlainView:
    """One line per generation, for logs and pipes."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console = console
        self._names = names

    def __enter__(self) -> Self:
        self._console.print(
            "Plain output: standard output is no terminal, or --plain was given.", highlight=False
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def prompt(self, number: int, count: int, prompt: str) -> None:
        self._console.print(Text(f"prompt {number + 1} of {count}: ...{_last_line(prompt)}"), soft_wrap=True)

    def begin(self, arm: str) -> None:
        pass

    def text(self, arm: str, piece: str) -> None:
        pass

    def tokens(self, arm: str, count: int) -> None:
        pass

    def finish(self, arm: str, tokens: int, tpot_ms: float | None, drafted: int) -> None:
        self._console.print(Text(f"  {self._names[arm]}: {', '.join(_outcome(tokens, tpot_ms, drafted))}"))


@dataclass(slots=True)
class _Column:
    text: str = ""
    tokens: int = 0
    first_at: float | None = None
    state: tuple[str, ...] = ("waits",)


class LiveView:
    """Three panels side by side; they fill one after the other, for the arms run one after the other."""

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console = console
        self._names = names
        self._columns = {arm: _Column() for arm in names}
        self._title = ""
        self._prompt = ""
        self._lines = max(3, min(MOST_LINES, console.height - SURROUNDINGS - STATE_LINES))
        """Lines of text in a panel."""
        self._live = Live(
            console=console, refresh_per_second=REFRESHES_PER_S, get_renderable=self._paint, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def prompt(self, number: int, count: int, prompt: str) -> None:
        self._columns = {arm: _Column() for arm in self._names}
        self._title, self._prompt = f"prompt {number + 1} of {count}", _last_line(prompt)

    def begin(self, arm: str) -> None:
        self._columns[arm].state = ("asks",)

    def text(self, arm: str, piece: str) -> None:
        self._columns[arm].text += piece

    def tokens(self, arm: str, count: int) -> None:
        column = self._columns[arm]
        now = time.monotonic()
        if column.first_at is None:
            column.first_at = now
        column.tokens += count
        if now > column.first_at:
            rate = (column.tokens - 1) / (now - column.first_at)
            column.state = (f"{column.tokens} tokens, {rate:.1f}/s",)

    def finish(self, arm: str, tokens: int, tpot_ms: float | None, drafted: int) -> None:
        self._columns[arm].state = _outcome(tokens, tpot_ms, drafted)

    def _paint(self) -> Table:
        grid = Table.grid(expand=True)
        for _ in self._columns:
            grid.add_column(ratio=1)
        grid.add_row(
            *(
                Panel(self._body(column), title=self._names[arm], height=self._lines + STATE_LINES + 2)
                for arm, column in self._columns.items()
            )
        )
        grid.title = f"{self._title}: one arm at a time, in turns"
        return grid

    def _body(self, column: _Column) -> Text:
        # A panel cuts at its bottom, and what is new must be seen: only the last lines are given, folded here.
        text = (self._prompt + column.text).expandtabs(4).split("\n")[-self._lines :]
        width = self._console.width // len(self._columns) - 4
        folded = [line[at : at + width] for line in text for at in range(0, max(len(line), 1), width)]
        shown = folded[-self._lines :]
        blank = [""] * (self._lines - len(shown))
        return Text("\n".join([*shown, *blank])).append("\n" + "\n".join(column.state), style="bold")


def _last_line(prompt: str) -> str:
    return prompt.rsplit("\n", 1)[-1]


def _outcome(tokens: int, tpot_ms: float | None, drafted: int) -> tuple[str, ...]:
    written = f"{tokens} tokens" if tpot_ms is None else f"{tokens} tokens, {tpot_ms:.1f} ms each"
    return (written, f"{drafted} drafted") if drafted else (written,)
