"""`python -m scripts.bench`: every figure of the documentation, each beside its peer, measured in the same run."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from scripts.bench.measure import Neighbours
from scripts.bench.report import Section, show
from scripts.bench.settings import DEMO_PAIR, BenchSettings
from scripts.processes import ChildError
from shared.errors import UserError

PACKAGES: Final = ("torch", "transformers", "onnxruntime", "grpcio", "numpy")

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def _drafter(settings: BenchSettings) -> Section:
    from scripts.bench.drafter import measure_drafter  # noqa: PLC0415 - a section costs what it needs, no more

    return measure_drafter(settings)


def _verifier(settings: BenchSettings) -> Section:
    from scripts.bench.verifier import measure_verifier  # noqa: PLC0415

    return measure_verifier(settings)


def _alone(settings: BenchSettings) -> Section:
    from scripts.bench.alone import measure_alone  # noqa: PLC0415

    return measure_alone(settings)


def _many(settings: BenchSettings) -> Section:
    from scripts.bench.many import measure_many  # noqa: PLC0415

    return measure_many(settings)


def _prefix(settings: BenchSettings) -> Section:
    from scripts.bench.cache import measure_prefix  # noqa: PLC0415

    return measure_prefix(settings)


def _memory(settings: BenchSettings) -> Section:
    from scripts.bench.cache import measure_memory  # noqa: PLC0415

    return measure_memory(settings)


def _pair(settings: BenchSettings) -> Section:
    from scripts.bench.pair import measure_pair  # noqa: PLC0415

    return measure_pair(settings)


def _live(settings: BenchSettings) -> Section:
    from scripts.bench.live import measure_live  # noqa: PLC0415

    return measure_live(settings)


SECTIONS: Final[dict[str, Callable[[BenchSettings], Section]]] = {
    "drafter": _drafter,
    "verifier": _verifier,
    "alone": _alone,
    "many": _many,
    "prefix": _prefix,
    "memory": _memory,
    "pair": _pair,
    "live": _live,
}


@app.command()
def bench(
    *,
    only: Annotated[str, typer.Option(help=f"Sections by comma: {', '.join(SECTIONS)}. [all]")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
    quick: Annotated[bool, typer.Option(help="Few rounds: shows the direction only.")] = False,
    pair: Annotated[Path, typer.Option(help="Folder with target/ and drafter/.")] = DEMO_PAIR,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Torch threads of both sides. [all cores]")
    ] = None,
) -> None:
    """Measure, print tables, and say which aims were met. Slow machines and busy ones change times, not ratios."""
    keys = [key.strip() for key in only.split(",") if key.strip()] or list(SECTIONS)
    if unknown := [key for key in keys if key not in SECTIONS]:
        raise UserError(f"--only {','.join(unknown)}: choose from {', '.join(SECTIONS)}")
    settings = BenchSettings(pair=pair) if threads is None else BenchSettings(pair=pair, threads=threads)
    run(keys, settings.quick() if quick else settings, json_file)


def run(keys: list[str], settings: BenchSettings, json_file: Path | None) -> None:
    """Measure the named sections in their order, print each when it is done, and write JSON if asked to."""
    console = Console(width=None if sys.stdout.isatty() else 132)
    machine = _machine()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), style="dim", markup=False)
    console.print()
    sections = []
    for key in keys:
        with Neighbours() as neighbours:
            section = SECTIONS[key](settings)
        section = dataclasses.replace(section, neighbours=neighbours.share)
        show(section, console)
        sections.append(section)
    _summarise(sections, console)
    if json_file is not None:
        document = {
            "machine": machine,
            "settings": dataclasses.asdict(settings) | {"pair": settings.pair.name},
            "sections": [section.as_dict() for section in sections],
        }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _summarise(sections: list[Section], console: Console) -> None:
    """Count the aims of the sections that had the machine for themselves."""
    judged = [
        (section.key, figure)
        for section in sections
        if section.quiet
        for figure in section.figures
        if figure.met is not None
    ]
    console.print(f"{sum(figure.met is True for _, figure in judged)} of {len(judged)} aims met")
    for key, figure in judged:
        if not figure.met:
            console.print(f"  not met: {key}: {figure.name}", markup=False)
    if busy := [section.key for section in sections if not section.quiet]:
        console.print(f"  not judged, for other processes were busy: {', '.join(busy)}", markup=False)
    if wrong := [section.key for section in sections if section.failures]:
        console.print(f"  texts differ: {', '.join(wrong)}", style="bold red", markup=False)


def _machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    facts: dict[str, Any] = {"python": platform.python_version()}
    facts |= {name: metadata.version(name) for name in PACKAGES}
    return facts | {"cores": len(os.sched_getaffinity(0)), "load": f"{os.getloadavg()[0]:.1f}"}


def main() -> None:
    """Entry point: exit code 2 and one line for what the user can mend, 1 for a server that did not come up."""
    # Before the model libraries are imported: models come from this tree, and their progress bars are not figures.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module="transformers")
    try:
        app()
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    except ChildError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
