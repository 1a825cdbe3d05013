"""`python -m scripts.pool_faults [kill] [freeze] [overload] [churn]`: each of these done to a server, with figures."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from scripts.pool_faults.crowding import Churn, Overload, churn, overload
from scripts.pool_faults.failing import Failing, fail
from scripts.processes import ChildError

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)

Rows = list[tuple[str, str]]


def _kill() -> Coroutine[Any, Any, Failing]:
    return fail(signal.SIGKILL)


def _freeze() -> Coroutine[Any, Any, Failing]:
    return fail(signal.SIGSTOP, tokens=1200)


def _freeze_unhedged() -> Coroutine[Any, Any, Failing]:
    return fail(signal.SIGSTOP, tokens=1200, deadline_s=2.0, options=("--hedge-factor", "0"))


RUNS: Final[dict[str, tuple[str, Callable[[], Coroutine[Any, Any, object]]]]] = {
    "kill": ("kill -9 of one of two worker processes, 16 generations", _kill),
    "freeze": ("SIGSTOP of one of two worker processes, deadline 5 s, 16 generations", _freeze),
    "freeze-unhedged": ("the same without hedging, deadline 2 s", _freeze_unhedged),
    "overload": ("four times as many clients as there is room for", overload),
    "churn": ("1,000 sessions opened and dropped at random moments", churn),
}


@app.command()
def main(
    which: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(RUNS)}. [all]")] = None,
) -> None:
    """Do to servers of several worker processes what they must stand, and show what it meant."""
    unknown = [name for name in which or () if name not in RUNS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]}: expected one of {', '.join(RUNS)}")
    console = Console()
    for name in which or RUNS:
        title, run = RUNS[name]
        table = Table("", "", title=title, show_header=False, title_justify="left")
        for row in _rows(asyncio.run(run())):
            table.add_row(*row)
        console.print(table)


def _rows(found: object) -> Rows:
    match found:
        case Failing():
            worst, middle = found.pauses_ms[0], found.pauses_ms[found.sessions // 2]
            return [
                ("right texts", f"{found.right} of {found.sessions}, {found.reconnects} reconnects"),
                ("longest pause before, median", f"{found.usual_ms:.0f} ms"),
                ("longest pause after, median and worst", f"{middle:.0f} and {worst:.0f} ms"),
                ("sessions with a pause twice the usual", f"{found.affected}"),
                ("noticed after", f"{found.noticed_s:.2f} s"),
                ("replaced after", f"{found.replaced_s:.2f} s"),
            ]
        case Overload():
            return [
                ("clients, room", f"{found.clients}, {found.room}"),
                ("completed, with the right text", f"{found.completed}, {found.right}"),
                ("refused, with status and hint", f"{found.refused}, {found.hinted}"),
                ("time between tokens, alone", f"{found.alone_ms:.1f} ms"),
                (
                    "time between tokens, crowded",
                    f"{found.crowded_ms:.1f} ms ({100 * (found.slowdown - 1):+.0f} %)",
                ),
                ("sessions left", f"{found.sessions_left}"),
                ("files, threads, processes left", _held(found)),
            ]
        case Churn():
            return [
                ("dropped", f"{found.dropped} in {found.lasted_s:.1f} s"),
                ("sessions left", f"{found.sessions_left}"),
                ("files, threads, processes left", _held(found)),
                ("a session afterwards", "right" if found.right else "WRONG"),
            ]
        case _:
            raise TypeError(type(found).__name__)


def _held(found: Overload | Churn) -> str:
    return f"{found.leaked.files}, {found.leaked.threads}, {found.leaked.processes}"


if __name__ == "__main__":
    try:
        app()
    except ChildError as error:
        sys.exit(str(error))
