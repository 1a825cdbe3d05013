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

from scripts.bench_capacity.colocated import best_lookahead
from scripts.bench_capacity.figures import aims, cells, served_within
from scripts.bench_capacity.records import Header, Measured, Record, read, to_line
from scripts.bench_capacity.run import run, span_for
from scripts.bench_capacity.setting import NAMES, Arm, Setting, stretch_for
from scripts.bench_capacity.show import show
from scripts.bench_capacity.simulate import predicted
from scripts.bench_latency.machine import command_line, machine
from scripts.bench_latency.tables import choice_in_words
from scripts.processes import ChildError
from scripts.wan.link import Enforcer, choose_enforcer
from shared.errors import UserError

RESULTS: Final = "bench-results"
RECORDS: Final = "runs.jsonl"
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Grid:
    """Which cells there are, where nothing else is asked for."""

    clients: Sequence[int]
    rtts_ms: Sequence[float]
    drafts_ms: Sequence[float]


QUICK: Final = Grid((1, 8), (14.0,), (3.0,))
STANDARD: Final = Grid((1, 4, 16, 64), (14.0, 50.0), (3.0, 12.0))
FULL: Final = Grid((1, 2, 4, 8, 16, 32, 64), (14.0, 50.0), (3.0, 6.0, 12.0))

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    *,
    clients: Annotated[list[int] | None, typer.Option(min=1, max=256, help="")] = None,
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
    enforcer: Annotated[
        Enforcer | None, typer.Option(help="What emulates the network. [the best that is possible]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for the results. [{RESULTS}/capacity-DATE-TIME]")
    ] = None,
) -> None:
    """Measure how many tokens per second closed-loop clients get from one verifier, served in three ways.

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
    folder, console = _folder(out), _console()
    choice = choose_enforcer(enforcer)
    console.print(f"Network emulated by {choice_in_words(choice)}.", soft_wrap=True)
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    command = command_line(sys.argv[1:]).replace("bench_latency", "bench_capacity", 1)
    found: list[Measured] = []
    code = 0
    with (folder / RECORDS).open("w", encoding="utf-8") as file:
        _write(file, Header(command, machine(), began))
        try:
            for one in _measure(settings, enforcer, console, quick=quick, simulate=simulate):
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


def _measure(
    settings: Sequence[Setting], enforcer: Enforcer | None, console: Console, *, quick: bool, simulate: bool
) -> Iterator[Measured]:
    alone: set[tuple[int, float]] = set()
    for number, setting in enumerate(settings, 1):
        console.print(f"cell {number} of {len(settings)}: {setting.key}", markup=False)
        for arm in Arm:
            if arm is Arm.CLOUD:
                if (setting.clients, setting.rtt_ms) in alone:
                    continue  # it has no drafter, so one is enough for all of them
                alone.add((setting.clients, setting.rtt_ms))
            lookahead = best_lookahead(setting.pair, setting.clients) if arm is Arm.COLOCATED else None
            prediction = predicted(setting, arm, lookahead) if simulate else None
            span = span_for(setting.clients, quick=quick)
            one, _ = run(setting, arm, lookahead, span, enforcer, prediction)
            simulated = "" if one.predicted is None else f", simulated {one.predicted.tokens_per_s:.0f}"
            console.print(
                f"  {NAMES[arm]}: {one.tokens_per_s.value:.0f} tokens/s{simulated}, p95 {one.itl_p95_ms:.1f} ms",
                markup=False,
            )
            yield one


def _tell(found: Sequence[Measured], console: Console) -> None:
    compared = cells(found)
    show(compared, aims(compared), served_within(found), console)


def _write(file: IO[str], record: Record) -> None:
    file.write(to_line(record) + "\n")
    file.flush()


def _folder(out: Path | None) -> Path:
    folder = out if out is not None else Path(RESULTS) / time.strftime("capacity-%Y-%m-%d-%H%M%S")
    if (folder / RECORDS).exists():
        raise UserError(f"--out {folder}: it holds results already; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error
    return folder


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
