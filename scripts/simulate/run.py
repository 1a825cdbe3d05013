"""`simulate run` and `simulate check`: one scenario, once, as a table or as one JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from scripts.simulate.build import build
from scripts.simulate.load import digest, load, parse_override
from scripts.simulate.outcome import simulate
from scripts.simulate.plots import of_run
from scripts.simulate.progress import share_bar
from scripts.simulate.report import write_report
from scripts.simulate.schema import Scenario
from scripts.simulate.table import grids_of, print_outcome

File = Annotated[Path, typer.Argument(metavar="SCENARIO", help="A YAML file; see docs/scenarios.md.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="KEY.PATH=VALUE in place of the file's, such as fleets[0].count=10. May be repeated."
    ),
]
RunSeed = Annotated[int | None, typer.Option(help="In place of the scenario's.")]
DurationS = Annotated[float | None, typer.Option(help="Simulated seconds, in place of the scenario's.")]


def run(
    scenario: File,
    *,
    seed: RunSeed = None,
    duration_s: DurationS = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for report.html, its plots and results.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")] = False,
) -> int:
    """What a scenario comes to: the same for the same seed, on every machine."""
    found = read(scenario, overrides, seed=seed, duration_s=duration_s)
    with share_bar(found.name) as progress:
        record, outcome = simulate(found, progress)
    if as_json:
        print(json.dumps(outcome.document(), indent=1, allow_nan=False))
    else:
        print_outcome(found, outcome)
    if out is not None:
        changes = [*(f"--set '{one}'" for one in overrides or ()), f"--duration-s {found.duration_s:g}"]
        command = f"python -m scripts.simulate run {scenario} {' '.join(changes)} --seed {found.seed}"
        write_report(
            out,
            kind="run",
            scenario=found,
            grids=grids_of(found, outcome),
            plots=of_run(record, outcome.figures),
            command=command,
        )
        written = json.dumps(outcome.document(), indent=1, allow_nan=False)
        (out / "results.json").write_text(written + "\n")
    return 0


def check(
    scenario: File, *, seed: RunSeed = None, duration_s: DurationS = None, overrides: Overrides = None
) -> int:
    """Whether a scenario is right, and how large it is. Runs nothing."""
    found = read(scenario, overrides, seed=seed, duration_s=duration_s)
    build(found)
    print(
        f"{found.name}: {_many(found.edges, 'edge')} in {_many(len(found.fleets), 'fleet')}, "
        f"{_many(found.workers, 'worker')} in {_many(len(found.servers), 'server')}, {found.duration_s:g} s, "
        f"hash {digest(found)[:16]}"
    )
    return 0


def read(
    path: Path,
    overrides: list[str] | None = None,
    *,
    seed: int | None = None,
    duration_s: float | None = None,
) -> Scenario:
    """The scenario that a command line asks for.

    Raises:
        UserError: see `load`.
    """
    changes = dict(parse_override(one) for one in overrides or ())
    if seed is not None:
        changes["seed"] = seed
    if duration_s is not None:
        changes["duration_s"] = duration_s
    return load(path, changes)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("s" if count != 1 else "")
