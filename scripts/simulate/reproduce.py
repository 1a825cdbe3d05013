"""`simulate reproduce`: what four papers found, under our own machines; figures, and the page that tells of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.reproduce.capacity import Prices
from scripts.reproduce.parts import QUICK_FOLDER, STANDARD_FOLDER, Part, Way
from shared.errors import UserError

ALL = "all"


def reproduce(
    part: Annotated[str, typer.Argument(help=f"One of {', '.join(Part)}, or {ALL}.")] = ALL,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A few cells of each, to see it work.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of the page; figures go below. [{STANDARD_FOLDER}; quick: {QUICK_FOLDER}]"
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes. The figures do not depend on it.")] = 1,
    verifier_per_hour: Annotated[
        float, typer.Option(min=0.0, help="Price of the accelerator that verifies.")
    ] = Prices().verifier,
    edge_per_hour: Annotated[
        float, typer.Option(min=0.0, help="Price of a device that drafts; 0: it is its user's own.")
    ] = Prices().edge,
) -> int:
    """Reproduce DSI, DSD, Speculation at a Distance and SpecEdge.

    Exit code 1 if a theorem does not hold under its own conditions, or the product breaks a promise of its own. What a
    paper claims and what does not come out is a result like any other.
    """
    from scripts.reproduce.page import make  # noqa: PLC0415 - matplotlib is slow to import, and only needed here

    if part != ALL and part not in list(Part):
        raise UserError(f"reproduce {part}: one of {', '.join(Part)} or {ALL}")
    if verifier_per_hour <= 0.0:
        raise UserError(f"--verifier-per-hour {verifier_per_hour:g}: above 0, tokens have to cost something")
    folder = out if out is not None else Path(QUICK_FOLDER if quick else STANDARD_FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error
    console = Console()
    began = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done)

        way = Way(quick, jobs, Prices(verifier_per_hour, edge_per_hour), told)
        checks = make(folder, list(Part) if part == ALL else [Part(part)], way)
    for one in checks:
        console.print(f"{one.verdict}: {one.claim} [{one.conditions or 'as simulated'}]", markup=False)
    console.print(f"{folder / 'reproduction.md'}, {time.perf_counter() - began:.0f} s", markup=False)
    return int(any(not one.passed and one.must for one in checks))
