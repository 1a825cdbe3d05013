"""Command line of the capacity benchmark: `python -m scripts.bench_capacity [report FILE]`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Final

import typer
from rich.console import Console

from scripts.bench_capacity.figures import aims, cells, served_within
from scripts.bench_capacity.plan import FULL, QUICK, STANDARD, Row, rows
from scripts.bench_capacity.records import Found, Header, Record, Simulated, read, to_line
from scripts.bench_capacity.run import Span, run, span_for
from scripts.bench_capacity.setting import NAMES, Setting, stretch_for
from scripts.bench_capacity.show import show
from scripts.bench_capacity.simulate import predicted
from scripts.bench_latency.machine import command_line, machine
from scripts.bench_latency.tables import choice_in_words
from scripts.processes import ChildError
from scripts.results_folder import results_folder
from scripts.wan.link import Enforcer, choose_enforcer
from shared.errors import UserError

RESULTS: Final = "bench-results"
RECORDS: Final = "runs.jsonl"
INTERRUPTED: Final = 130


app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    *,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, max=256, help="Repeat for more. [1, 4, 16, 64]")
    ] = None,
    rtt: Annotated[
        list[float] | None, typer.Option(min=0, help="Round trip in ms; repeat for more. [14, 50]")
    ] = None,
    draft: Annotated[
        list[float] | None,
        typer.Option(min=0.1, help="ms of a drafter's forward; repeat for more. [3, 12]"),
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Of one generation.")] = 128,
    stretch: Annotated[
        float | None,
        typer.Option(min=1, help="Everything so many times slower. [as much as the clients' drafting needs]"),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="2, 8 and 32 clients too, and a drafter of 6 ms.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="1 and 8 clients, RTT 14, drafter 3 ms, briefly.")
    ] = False,
    simulate: Annotated[bool, typer.Option(help="Put the simulator's figures beside the live ones.")] = True,
    live: Annotated[bool, typer.Option(help="Without: the simulator's figures alone.")] = True,
    budget_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Begin no row that would last beyond it; --resume goes on with the rest."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that --out holds already.")] = False,
    enforcer: Annotated[
        Enforcer | None, typer.Option(help="What emulates the network. [the best that is possible]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for the results. [{RESULTS}/capacity-DATE-TIME]")
    ] = None,
) -> None:
    """Measure how many tokens per second closed-loop clients get from one verifier, served in several ways.

    Exit code 1 if a text is not the target's own.
    """
    if context.invoked_subcommand is not None:
        return
    grid = QUICK if quick else FULL if full else STANDARD
    settings = [
        Setting(count, rtt_ms, draft_ms, tokens, stretch or stretch_for(count, draft_ms))
        for rtt_ms in rtt or grid.rtts_ms
        for draft_ms in draft or grid.drafts_ms
        for count in clients or grid.clients
    ]
    folder, console = (
        results_folder(out, under=RESULTS, name="capacity", records=RECORDS, resume=resume),
        _console(),
    )
    if live:
        choice = choose_enforcer(enforcer)
        console.print(f"Network emulated by {choice_in_words(choice)}.", soft_wrap=True)
    path = folder / RECORDS
    header, kept = read(path) if path.exists() else (_header(), ())
    found = list(kept)
    missing = [row for row in rows(settings) if not row.found_in(found)]
    budget_s = None if budget_minutes is None else budget_minutes * 60
    code = 0
    with path.open("w", encoding="utf-8") as file:
        for record in (header, *kept):  # written again: the last line may have been cut off
            _write(file, record)
        try:
            for one in _measure(missing, enforcer, console, Way(quick, simulate, live, budget_s)):
                found.append(one)
                _write(file, one)
        except KeyboardInterrupt:
            code = INTERRUPTED
    _tell(found, console)
    console.print(f"Results: {folder.name}/{RECORDS}", markup=False)
    raise typer.Exit(code or int(any(one.wrong for one in found)))


@app.command()
def report(file: Annotated[Path, typer.Argument(help=f"The {RECORDS} of a run.")]) -> None:
    """Show the tables of what was measured before once more.

    Exit code 1 if a text is not the target's own.
    """
    _, found = read(file)
    _tell(found, _console())
    raise typer.Exit(int(any(one.wrong for one in found)))


@dataclass(frozen=True, slots=True)
class Way:
    """How rows are measured."""

    quick: bool
    simulate: bool
    live: bool
    budget_s: float | None


def _measure(
    missing: Sequence[Row], enforcer: Enforcer | None, console: Console, way: Way
) -> Iterator[Found]:
    began, longest_rest = time.monotonic(), 0.0
    for number, row in enumerate(missing, 1):
        span = span_for(row.setting.clients, quick=way.quick)
        known_s = span.seconds(span.warm_up_steps + span.window_steps, row.setting) if way.live else 0.0
        spent = time.monotonic() - began
        if way.budget_s is not None and spent + known_s + longest_rest > way.budget_s:
            console.print(f"{len(missing) - number + 1} rows are left: --resume with the same --out goes on.")
            return
        found = _row(row, span, enforcer, way)
        # What a row takes besides its measuring: starting processes, simulating, and comparing texts.
        longest_rest = max(longest_rest, time.monotonic() - began - spent - known_s)
        console.print(
            f"{number} of {len(missing)}: {row.setting.key}, {NAMES[row.arm]}: {found.rate:.0f} tokens/s"
            f"{_beside(found)}, p95 {found.itl_p95_ms:.1f} ms",
            markup=False,
            soft_wrap=True,
        )
        yield found


def _row(row: Row, span: Span, enforcer: Enforcer | None, way: Way) -> Found:
    prediction = predicted(row.setting, row.arm, row.lookahead) if way.simulate or not way.live else None
    if way.live:
        return run(row.setting, row.arm, row.lookahead, span, enforcer, prediction)[0]
    if prediction is None:
        raise AssertionError("a row that is not run is simulated")
    return Simulated(row.setting, row.arm, row.lookahead, prediction)


def _beside(found: Found) -> str:
    if isinstance(found, Simulated):
        return ", simulated"
    return "" if found.predicted is None else f" (simulated {found.predicted.tokens_per_s:.0f})"


def _header() -> Header:
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    command = command_line(sys.argv[1:]).replace("bench_latency", "bench_capacity", 1)
    return Header(command, machine(), began)


def _tell(found: Sequence[Found], console: Console) -> None:
    compared = cells(found)
    show(compared, aims(compared), served_within(found), console)


def _write(file: IO[str], record: Record) -> None:
    file.write(to_line(record) + "\n")
    file.flush()


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 190, highlight=False)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 1: a text is wrong or something broke; 2: something that the user can mend; 130: Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)  # whoever asks it to end gets the tables as well
    try:
        app(arguments)
    except UserError as error:
        print(f"bench_capacity: {error}", file=sys.stderr)
        sys.exit(2)
    except ChildError as error:
        print(f"bench_capacity: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
