"""Command line of the images: `python -m scripts.container build|run|check`."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.container.check import Row
from scripts.container.check import check as check_images
from scripts.container.engine import SAFE, Engine, EngineError, find_engine
from scripts.container.images import IMAGES
from scripts.container.images import build as build_image
from scripts.container.leftovers import networks_as_before
from scripts.container.pip_settings import read_pip_settings
from scripts.container.stand_in import stand_in_engine
from scripts.container.world import SECRETS
from scripts.processes import ROOT, ChildError
from shared.errors import UserError

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
)

StandIn = Annotated[
    bool,
    typer.Option(
        "--stand-in-base",
        help="Where no registry can be reached: podman as root, on a base that debootstrap makes, not the real one.",
    ),
]


@app.command()
def build(
    images: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(IMAGES)}. [all]")] = None,
    *,
    build_arg: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, such as TORCH=cuda; may be repeated.")
    ] = None,
    stand_in_base: StandIn = False,
) -> None:
    """Build images with this machine's settings of pip; with docker if its engine answers, else podman."""
    unknown = [name for name in images or () if name not in IMAGES]
    if unknown:
        raise UserError(f"there is no image {unknown[0]}: name some of {', '.join(IMAGES)}")
    engine, pip = _engine(stand_in_base), read_pip_settings()
    arguments = [f"--build-arg={argument}" for argument in build_arg or ()]
    for name in images or IMAGES:
        built = build_image(engine, IMAGES[name], pip, arguments)
        print(f"{built.image.tag}: {built.size / 1e6:.0f} MB in {built.seconds:.0f} s", flush=True)


@app.command()
def run(
    *,
    secrets: Annotated[Path, typer.Option(help="Folder made by trial_secrets.sh.")] = ROOT / "secrets",
    port: Annotated[int, typer.Option(min=1, max=65535, help="On loopback.")] = 50051,
    stand_in_base: StandIn = False,
) -> None:
    """Serve the demo target from the server's image until Ctrl-C, with TLS and a token."""
    missing = [name for name in SECRETS if not (secrets / name).is_file()]
    if missing:
        raise UserError(f"{secrets} has no {missing[0]}: sh scripts/container/trial_secrets.sh {secrets}")
    engine, tag = _engine(stand_in_base), IMAGES["server"].tag
    if engine.attempt("image", "inspect", tag)[0] != 0:
        raise UserError(f"there is no image {tag}: build it first, with `build server`")
    mounts = [f"--volume={(secrets / name).resolve()}:/run/secrets/{name}:ro" for name in SECRETS]
    with networks_as_before() if stand_in_base else contextlib.nullcontext():
        command = ("run", "--rm", *SAFE, f"--publish=127.0.0.1:{port}:50051", *mounts)
        process = subprocess.Popen([*engine.command, *command, tag])
        # The terminal tells the engine of Ctrl-C too, which hands it on, and the server drains: that is waited for.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = process.wait()
    sys.exit(code)


@app.command()
def check(*, stand_in_base: StandIn = False) -> None:
    """Build the images, run them, and try what must hold. Fails (exit code 1) unless all of it does."""
    console = Console(highlight=False)
    if stand_in_base:
        print(
            "On a stand-in base, not the real one, which takes a minute or two to make the first time.",
            flush=True,
        )
    engine, pip = _engine(stand_in_base), read_pip_settings()
    print(f"Images are built by {engine.name}: some minutes the first time.", flush=True)
    rows: list[Row] = []
    with networks_as_before() if stand_in_base else contextlib.nullcontext():
        for row in check_images(engine, pip):
            rows.append(row)
            print(f"{'held' if row.held else 'FAILED'}: {row.what}: {row.detail}", flush=True)
    console.print(_table(rows))
    if not all(row.held for row in rows):
        raise typer.Exit(1)


def _table(rows: list[Row]) -> Table:
    table = Table("what", "held", "detail")
    table.add_column("s", justify="right")
    for row in rows:
        table.add_row(row.what, "yes" if row.held else "NO", row.detail, f"{row.seconds:.1f}")
    return table


def _engine(stand_in_base: bool) -> Engine:
    return stand_in_engine() if stand_in_base else find_engine()


def main() -> None:
    """Exit code 2 and one line for what the user can mend."""
    try:
        app()
    except UserError as error:
        print(f"container: {error}", file=sys.stderr)
        sys.exit(2)
    except (ChildError, EngineError) as error:
        print(f"container: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
