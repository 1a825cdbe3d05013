"""Command line of the validation: `python -m scripts.validate [simulate FILE | report FILE]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table as RichTable

from scripts.bench_latency.machine import command_line, machine
from scripts.bench_latency.tables import choice_in_words
from scripts.processes import ChildError
from scripts.results_folder import results_folder
from scripts.validate import overheads
from scripts.validate.execute import Journal, execute
from scripts.validate.grid import GRID, QUICK
from scripts.validate.page import page
from scripts.validate.plot import plot
from scripts.validate.records import Header, Measured, Results, Simulated, read
from scripts.validate.tables import Table, rows_table, summary_table
from scripts.validate.verdict import Aim, aims, summaries
from scripts.wan.link import Enforcer, choose_enforcer
from shared.errors import UserError

RESULTS: Final = "bench-results"
RECORDS: Final = "rows.jsonl"
PAGE: Final = "validation.md"
IMAGES: Final = "images"
INTERRUPTED: Final = 130
JOBS: Final = os.cpu_count() or 1

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
Jobs = Annotated[int, typer.Option(min=1, help="Processes that simulate. [as many as there are cores]")]
File = Annotated[Path, typer.Argument(help=f"The {RECORDS} of a run.")]


@app.callback(invoke_without_command=True)
def validate(
    context: typer.Context,
    *,
    quick: Annotated[bool, typer.Option("--quick", help=f"{len(QUICK)} of the {len(GRID)} rows.")] = False,
    row: Annotated[
        list[int] | None,
        typer.Option(min=1, max=len(GRID), help="Only this row of the grid; repeat for more."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that --out holds already.")] = False,
    enforcer: Annotated[
        Enforcer | None, typer.Option(help="What emulates the network. [the best that is possible]")
    ] = None,
    jobs: Jobs = JOBS,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for the results. [{RESULTS}/validation-DATE-TIME]")
    ] = None,
) -> None:
    """Run configurations live and simulated, and say how far the simulator is off.

    Exit code 1 if a text is not the target's own, or if it is off by more than it may be.
    """
    if context.invoked_subcommand is not None:
        return
    grid = [GRID[number - 1] for number in row] if row else list(QUICK if quick else GRID)
    folder, console = (
        results_folder(out, under=RESULTS, name="validation", records=RECORDS, resume=resume),
        _console(),
    )
    path = folder / RECORDS
    kept = read(path) if path.exists() else Results(_header(enforcer))
    console.print(f"Network emulated by {kept.header.network}. {kept.header.overheads}", soft_wrap=True)
    began, done = time.monotonic(), 0

    def told(record: Measured | Simulated) -> None:
        nonlocal done
        done += 1
        console.print(f"{time.monotonic() - began:5.0f} s  {_line(record)}", markup=False, soft_wrap=True)

    code = 0
    with Journal(path, kept) as journal:
        try:
            execute(journal, grid, enforcer, jobs, told)
        except KeyboardInterrupt:
            code = INTERRUPTED
    raise typer.Exit(_tell(journal.results, folder / PAGE, console) or code)


@app.command()
def simulate(file: File, jobs: Jobs = JOBS) -> None:
    """Simulate all rows of a file once more, with the overheads measured then, and write it and its page again."""
    results, console = read(file), _console()
    with Journal(file, replace(results, simulated=())) as journal:
        execute(
            journal,
            [one.configuration for one in results.measured],
            None,
            jobs,
            lambda record: console.print(_line(record), markup=False, soft_wrap=True),
        )
    raise typer.Exit(_tell(journal.results, file.with_name(PAGE), console))


@app.command()
def report(
    file: File,
    page: Annotated[Path | None, typer.Option(help=f"Where it is to be. [{PAGE} beside FILE]")] = None,
) -> None:
    """Make the page and the plot once more, from what was found before."""
    raise typer.Exit(_tell(read(file), page if page is not None else file.with_name(PAGE), _console()))


def _tell(results: Results, path: Path, console: Console) -> int:
    """Show what was found and write the page; returns the exit code."""
    rows = results.rows()
    if not rows:
        console.print("No row has both sides yet.")
        return 0
    for table in (rows_table(rows), summary_table(summaries(rows))):
        console.print(_rich(table))
    found = aims(rows)
    for aim in found:
        console.print(_said(aim), soft_wrap=True)
    pictures = path.parent / IMAGES
    pictures.mkdir(parents=True, exist_ok=True)
    picture = pictures / f"{path.stem}.png"
    picture.write_bytes(plot(rows))
    path.write_text(page(results, rows, f"{IMAGES}/{picture.name}"), encoding="utf-8")
    console.print(f"Results: {path.parent.name}/{path.name}", markup=False)
    return int(any(aim.met is False for aim in found))


def _said(aim: Aim) -> str:
    word = {True: "[green]met[/]", False: "[red]NOT MET[/]", None: "[yellow]not judged[/]"}[aim.met]
    return f"{word}: {aim.text}: {aim.measured}"


def _line(record: Measured | Simulated) -> str:
    side, found = ("live", record.figures) if isinstance(record, Measured) else ("simulated", record.told)
    more = f", load {record.load:g}, machine {record.busy:.0%}" if isinstance(record, Measured) else ""
    return f"{side}: {record.configuration.key}: TPOT {found.tpot_ms:.2f} ms, {found.tokens_per_s:.1f} tokens/s{more}"


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left")
    for heading in table.headings:
        shown.add_column(heading, justify="right" if heading else "left")
    for cells in table.rows:
        shown.add_row(*cells)
    return shown


def _header(enforcer: Enforcer | None) -> Header:
    choice = choose_enforcer(enforcer)
    return Header(
        command=command_line(sys.argv[1:]).replace("bench_latency", "validate", 1),
        machine=machine(),
        began=datetime.now().astimezone().isoformat(timespec="seconds"),
        network=choice_in_words(choice),
        overheads=overheads.measure(enforcer),
    )


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 250, highlight=False)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 1: too far off, a text is wrong, or something broke; 2: the user can mend it; 130: Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)  # whoever asks it to end gets the tables as well
    try:
        app(arguments)
    except UserError as error:
        print(f"validate: {error}", file=sys.stderr)
        sys.exit(2)
    except ChildError as error:
        print(f"validate: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
