"""Command line: `python -m scripts.windows compare|train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from scripts.windows.arms import FLEETS, MIXED, POOL, Drafts
from scripts.windows.compare import (
    Cell,
    Judged,
    Ran,
    Target,
    judge_windows,
    pool_cells,
    targets,
    window_cells,
)
from scripts.windows.compare import run as run_cells
from scripts.windows.show import show, show_learned
from scripts.windows.train import collect, learn, load_sweeps, save, save_sweeps
from shared import policy
from shared.errors import UserError
from shared.policy.learned_window import FILE, Drafting

RESULTS = "windows.json"
WIDTH = 150
"""Of tables in a file or a pipe."""
QUICK_FLEETS = (MIXED.name, "alone")
QUICK_ROUTINGS = ("random", "least work")
QUICK_BATCHINGS = ("fifo", "node-budgeted")
app = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def cli() -> None:
    """Window controllers in the simulator."""


@app.command()
def compare(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Two fleets, four pools, one seed.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Each simulation is made so often.")] = 2,
    fleet: Annotated[
        list[str] | None, typer.Option(help="Only this fleet; repeat for more; `none` for the pool alone.")
    ] = None,
    pool: Annotated[bool, typer.Option(help="Routing x batching x windows too.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for the results as JSON and plots.")] = None,
) -> int:
    """Windows on many fleets against the best fixed ones, and routing x batching x windows on one pool."""
    console = _console()
    wanted = fleet if fleet is not None else list(QUICK_FLEETS) if quick else [one.name for one in FLEETS]
    names = {one.name for one in FLEETS} | {"none"}
    for name in wanted:
        if name not in names:
            raise UserError(f"--fleet {name!r} is none of {', '.join(sorted(names))}")
    windows = window_cells([one for one in FLEETS if one.name in wanted], tuple(Drafts))
    pools = pool_cells(POOL, QUICK_ROUTINGS, QUICK_BATCHINGS) if quick else pool_cells(POOL)
    cells = windows + (pools if pool else [])
    made = run_cells(cells, 1 if quick else seeds, lambda cell, number: _tell(cell, number, len(cells)))
    judged = judge_windows(made[: len(windows)])
    found = targets(judged, made[len(windows) :])
    show(judged, made[len(windows) :], found, console)
    if out is not None:
        _write(out, made, judged, found, made[: len(windows)])
    return 0 if all(target.met for target in found) else 1


@app.command()
def train(
    *,
    block: Annotated[int, typer.Option(min=5, help="Fleets for blocks.")] = 60,
    chain: Annotated[int, typer.Option(min=5, help="Fleets for chains.")] = 24,
    tree: Annotated[int, typer.Option(min=5, help="Fleets for trees.")] = 18,
    seed: Annotated[int, typer.Option(help="Of the fleets and of the networks' first weights.")] = 0,
    sweeps: Annotated[
        Path | None, typer.Option(help="Sweeps are kept in this file; if it is there they are read from it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="[the package's own file]")] = None,
) -> int:
    """Train the learned controllers on sweeps of the simulator."""
    if sweeps is not None and sweeps.exists():
        found = load_sweeps(sweeps)
    else:
        counts = {Drafting.BLOCK: block, Drafting.CHAIN: chain, Drafting.TREE: tree}
        found = collect(counts, seed, lambda line: print(line, file=sys.stderr, flush=True))
        if sweeps is not None:
            save_sweeps(found, sweeps)
    learned = {drafting: learn(drafting, several, seed) for drafting, several in found.items()}
    path = Path(policy.__path__[0]) / FILE if out is None else out
    save({drafting: one.controller for drafting, one in learned.items()}, path)
    console = _console()
    show_learned(learned, console)
    console.print(f"written to {path}", soft_wrap=True)
    return 0


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _tell(cell: Cell, number: int, count: int) -> None:
    line = f"{number + 1}/{count} {cell.load.name}: {cell.cloud.name}: {cell.arm.name}"
    print(line, file=sys.stderr, flush=True)


def _write(
    folder: Path,
    made: Sequence[Ran],
    judged: Sequence[Judged],
    found: Sequence[Target],
    windows: Sequence[Ran],
) -> None:
    from scripts.windows.plots import save_plots  # noqa: PLC0415 - slow to import, and only needed here

    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "format": "slipstream-windows",
        "version": 1,
        "targets": [asdict(target) for target in found],
        "windows": [asdict(one) for one in judged],
        "runs": [
            {
                "fleet": asdict(one.cell.load) | {"clients": len(one.cell.load.clients)},
                "cloud": asdict(one.cell.cloud),
                "arm": asdict(one.cell.arm),
                "outcomes": [asdict(outcome) for outcome in one.outcomes],
            }
            for one in made
        ],
    }
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    save_plots(windows, judged, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 well, 1 something that must hold does not, 2 and one line for what the user can mend."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.exceptions.TyperException as error:
        # A bare command prints its help and has no message of its own.
        print(f"windows: {error.format_message()}" if error.format_message() else "", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"windows: {error}", file=sys.stderr)
        return 2
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
