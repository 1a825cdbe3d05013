"""Command line: `python -m scripts.server_faults`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from scripts.processes import ChildError
from scripts.server_faults.trial import Fault, Outcome, Settings, run

FREEZE_TOKENS = 900
"""A frozen server is noticed after some seconds: generations that were over by then would show nothing."""

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    servers: Annotated[int, typer.Option(help="Server processes.")] = 3,
    sessions: Annotated[int, typer.Option(help="Generations side by side.")] = 16,
    rtt_ms: Annotated[float, typer.Option(help="Round trip to every server.")] = 40.0,
    step_ms: Annotated[float, typer.Option(help="Of a verify step.")] = 30.0,
    fault: Annotated[list[Fault] | None, typer.Option(help="Only this one. May be repeated.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to a file.")] = None,
) -> None:
    """Kill, freeze and drain one of several servers while generations go on, and measure what they notice."""
    settings = Settings(servers=servers, sessions=sessions, rtt_ms=rtt_ms, step_ms=step_ms)
    outcomes = measure(settings, fault or tuple(Fault))
    for line in table(outcomes, settings):
        print(line)
    if json_file is not None:
        rows = [asdict(one) | {"fault": one.fault.name.lower()} for one in outcomes]
        json_file.write_text(json.dumps({"settings": asdict(settings), "outcomes": rows}, indent=1) + "\n")
    if any(one.right < one.sessions for one in outcomes):
        sys.exit(1)


def measure(settings: Settings, faults: Sequence[Fault] = tuple(Fault)) -> list[Outcome]:
    """One trial of each; see `trial.run`."""
    frozen = replace(settings, tokens=max(settings.tokens, FREEZE_TOKENS))
    return [run(fault, frozen if fault is Fault.FREEZE else settings) for fault in faults]


def table(outcomes: Sequence[Outcome], settings: Settings) -> list[str]:
    """For people."""
    what = f"{settings.servers} servers, {settings.sessions} generations side by side"
    columns = "pause ms, median / longest", "others, longest", "usual gap p50 / p99"
    lines = [f"{what}, {settings.step_ms:g} ms a step, round trip {settings.rtt_ms:g} ms", ""]
    lines.append(
        f"{'one server is':18} {'right texts':>11} {'hit':>4} {'left':>5} {columns[0]:>27} {columns[1]:>16} "
        f"{columns[2]:>20}"
    )
    for one in outcomes:
        pause = _of(statistics.median(one.pause_ms or [0.0]), max(one.pause_ms, default=0.0))
        others = max(one.others_ms, default=0.0)
        gap = _of(one.gap_ms.p50, one.gap_ms.p99)
        lines.append(
            f"{one.fault.value:18} {f'{one.right} of {one.sessions}':>11} {one.hit:>4} {one.left:>5} "
            f"{pause:>27} {others:>16.0f} {gap:>20}"
        )
    lines.append("")
    lines += [f"{one.fault.value}: {notice}" for one in outcomes for notice in one.notices]
    return lines


def _of(*figures: float | None) -> str:
    return " / ".join("-" if figure is None else f"{figure:.0f}" for figure in figures)


if __name__ == "__main__":
    try:
        app()
    except ChildError as error:
        sys.exit(f"server_faults: {error}")
