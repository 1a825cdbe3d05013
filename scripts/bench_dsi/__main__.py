"""Command line of DSI's table: `python -m scripts.bench_dsi [report FILE]`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from scripts.bench_dsi.figures import aims, figures
from scripts.bench_dsi.plan import plan_of
from scripts.bench_dsi.rows import ROWS
from scripts.bench_dsi.show import show
from scripts.bench_dsi.simulate import pool_arms, predictions
from scripts.bench_latency.deployment import Deployment
from scripts.bench_latency.execute import Journal, execute
from scripts.bench_latency.figures import differences
from scripts.bench_latency.machine import command_line, machine
from scripts.bench_latency.records import CellFacts, Header, Results, read
from scripts.bench_latency.watch import Bar
from scripts.processes import ChildError
from shared.errors import UserError

RESULTS: Final = "bench-results"
RECORDS: Final = "runs.jsonl"
INTERRUPTED: Final = 130
QUICK_ROWS: Final = (1, 6, 10)
QUICK_PROMPTS: Final = 2
QUICK_TOKENS: Final = 120

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    *,
    row: Annotated[
        list[int] | None, typer.Option(min=1, max=len(ROWS), help="Only this row; repeat for more.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Texts that each arm writes in each row.")] = 4,
    tokens: Annotated[int, typer.Option(min=2, help="Of a text.")] = 300,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Rows {', '.join(map(str, QUICK_ROWS))}, short texts.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Rows side by side; of two, one with a slow drafter hardly needs a core."),
    ] = 2,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Folder for the results; it may not hold any. [{RESULTS}/dsi-DATE-TIME]"),
    ] = None,
) -> None:
    """Measure DSI's ten pairs on one host: cloud alone, SI at its best lookahead, DSI's chain, Slipstream's own choice.

    Exit code 1 if a text differs.
    """
    if context.invoked_subcommand is not None:
        return
    wanted = row or (QUICK_ROWS if quick else [one.number for one in ROWS])
    plan = plan_of(
        [one for one in ROWS if one.number in wanted],
        prompts=QUICK_PROMPTS if quick else prompts,
        tokens=QUICK_TOKENS if quick else tokens,
    )
    folder = _folder(out)
    console = _console()
    console.print(f"{plan.runs} texts in {len(plan.cells)} rows.")
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    command = command_line(sys.argv[1:]).replace("bench_latency", "bench_dsi", 1)
    header = Header(plan, command, machine(), began, jobs)
    with Journal(folder / RECORDS) as journal:
        with Bar(console, plan) as watcher:
            results, broke = execute(header, Deployment(), journal, watcher)
        if results.state == "":
            _predict(results, journal)
        results = Results.of(journal.records)
    _tell(results, console)
    console.print(f"Results: {folder.name}/{RECORDS}", markup=False)
    if broke is not None:
        raise broke
    raise typer.Exit(_exit_code(results))


@app.command()
def report(file: Annotated[Path, typer.Argument(help=f"The {RECORDS} of a run.")]) -> None:
    """Show the tables of what was measured before once more.

    Exit code 1 if a text differs.
    """
    results = read(file)
    _tell(results, _console())
    raise typer.Exit(_exit_code(results))


def _predict(results: Results, journal: Journal) -> None:
    facts: dict[str, CellFacts] = {one.cell: one for one in results.facts}
    for cell in results.header.plan.cells:
        if pool_arms(cell):
            for one in predictions(cell, facts[cell.key]):
                journal.write(one)


def _tell(results: Results, console: Console) -> None:
    rows = figures(results)
    show(results, rows, aims(rows, expected=len(ROWS)), differences(results), console)


def _exit_code(results: Results) -> int:
    if results.end is not None and results.end.outcome == "interrupted":
        return INTERRUPTED
    return 1 if differences(results) else 0


def _folder(out: Path | None) -> Path:
    folder = out if out is not None else Path(RESULTS) / time.strftime("dsi-%Y-%m-%d-%H%M%S")
    if (folder / RECORDS).exists():
        raise UserError(f"--out {folder}: it holds results already; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error
    return folder


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 1: a text differs or something broke; 2: something that the user can mend; 130: Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)  # whoever asks it to end gets the tables as well
    try:
        app(arguments)
    except UserError as error:
        print(f"bench_dsi: {error}", file=sys.stderr)
        sys.exit(2)
    except ChildError as error:
        print(f"bench_dsi: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
