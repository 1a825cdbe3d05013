"""Command line: `python -m scripts.recovery`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from scripts.recovery.show import show
from scripts.recovery.studies import STUDIES, Row, run
from shared.errors import UserError

RESULTS: Final = "recovery.json"
WIDTH: Final = 150
"""Of tables in a file or a pipe."""
app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def recovery(
    *,
    study: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(STUDIES)}; repeat for more. [all]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases, shorter, one seed.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Each case is simulated so often.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Folder for the results as JSON and plots.")] = None,
) -> int:
    """What recovery costs and buys: moving KV, hedging steps, waiting for silent edges."""
    wanted = study or list(STUDIES)
    for name in wanted:
        if name not in STUDIES:
            raise UserError(f"--study {name!r} is none of {', '.join(STUDIES)}")
    found: dict[str, list[Row]] = {}
    for name in dict.fromkeys(wanted):
        cases = STUDIES[name](quick)
        found[name] = []
        for number, case in enumerate(cases, 1):
            line = f"{name} {number}/{len(cases)}: {case.situation}: {case.protocol}"
            print(line, file=sys.stderr, flush=True)
            found[name].append(run(case, 1 if quick else seeds))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    show([row for rows in found.values() for row in rows], console)
    if out is not None:
        _write(out, found)
    return 0


def _write(folder: Path, found: dict[str, list[Row]]) -> None:
    from scripts.recovery.plots import save_plot  # noqa: PLC0415 - slow to import, and only needed here

    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "format": "slipstream-recovery",
        "version": 1,
        "studies": {name: [asdict(row) for row in rows] for name, rows in found.items()},
    }
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, rows in found.items():
        save_plot(rows, folder / f"recovery-{name}.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 well, 2 and one line for what the user can mend."""
    try:
        code = app(arguments, standalone_mode=False)
    except typer.exceptions.TyperException as error:
        print(f"recovery: {error.format_message()}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"recovery: {error}", file=sys.stderr)
        return 2
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
