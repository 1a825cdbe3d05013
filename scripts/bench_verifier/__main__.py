"""`python -m scripts.bench_verifier`: what a verify step costs here, against what the device can do at best."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cloud_server.model import resolve_device, resolve_dtype
from cloud_server.verifier import Verifier
from scripts.bench.measure import Neighbours
from scripts.bench.report import QUIET
from scripts.bench_verifier.bounds import Bounds, measure_bounds
from scripts.bench_verifier.check import run_checks
from scripts.bench_verifier.curve import FULL, QUICK, Grid, kv_bytes, measure_curve
from scripts.bench_verifier.flips import FlipReport, measure_flips
from scripts.bench_verifier.shapes import SHAPES, Maker, dtype_name, maker
from scripts.bench_verifier.show import show_bounds, show_curve, show_findings, show_flips
from shared.errors import UserError
from shared.hardware import HardwareProfile, ModelShape, StepPoint, write_hardware

FLIP_ROUNDS: Final = 2
FLIP_KV_BYTES: Final = 1 << 28
INTERRUPTED: Final = 130

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@dataclass(slots=True)
class Found:
    """What was measured so far; an interrupted run ends with this much."""

    shape: ModelShape
    dtype: str
    device: str
    bounds: Bounds | None = None
    points: list[StepPoint] = field(default_factory=list)
    left_out: int = 0
    """Points that did not fit into memory, or into the model's context."""
    flips: list[FlipReport] = field(default_factory=list)
    neighbours: float | None = None
    """Share of the cores that other processes used meanwhile."""

    def profile(self, name: str) -> HardwareProfile:
        """As the simulator and the profiled server read it."""
        return HardwareProfile(
            name=name,
            device=self.device,
            software=software(),
            model=self.shape,
            dtype=self.dtype,
            points=tuple(self.points),
            memory_gb_per_s=None if self.bounds is None else self.bounds.bytes_per_s / 1e9,
        )

    def as_dict(self, *, interrupted: bool) -> dict[str, Any]:
        """For JSON: everything, with each point's bounds."""
        return {
            "device": self.device,
            "software": software(),
            "model": dataclasses.asdict(self.shape),
            "dtype": self.dtype,
            "interrupted": interrupted,
            "neighbours": self.neighbours,
            "bounds": None if self.bounds is None else dataclasses.asdict(self.bounds),
            "points": [dataclasses.asdict(point) | self._bounds_of(point) for point in self.points],
            "points_that_did_not_fit": self.left_out,
            "flips": [dataclasses.asdict(report) for report in self.flips],
        }

    def _bounds_of(self, point: StepPoint) -> dict[str, float]:
        if self.bounds is None:
            return {}
        return {
            "memory_ms": self.bounds.memory_ms(self.shape, self.dtype, point.sessions, point.context),
            "compute_ms": self.bounds.compute_ms(self.shape, point.nodes, point.context),
        }


@app.command()
def bench_verifier(
    *,
    shape: Annotated[
        str | None,
        typer.Option(help=f"Random weights of this shape: {', '.join(SHAPES)}. [8b on cuda, else demo]"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A real model's folder or hub id, instead.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [cuda where there is one]")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. [float32 on cpu, bfloat16 on cuda]")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="1 to 512 nodes, 1 to 64 sessions, up to 8k.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads on a CPU. [all cores]")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the draws. 0: greedy.")] = 0.0,
    profile: Annotated[Path | None, typer.Option(help="Write a hardware profile there.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only: are the facts right? PASS or FAIL.")] = False,
) -> None:
    """Measure the product's verifier on this device; with --check see that it is right. Ctrl-C keeps what there is."""
    transformers.utils.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    place = resolve_device(device)
    name = shape or ("tiny" if check else "8b" if place.type == "cuda" else "demo")
    known, make = maker(name, model, str(place))
    console = Console(width=None if sys.stdout.isatty() else 120)
    if check:
        sys.exit(_check(make, place, console))
    kind = resolve_dtype(dtype, place)
    found = Found(known, dtype_name(kind), device_words(place))
    console.print(f"{known.name} on {found.device}, {found.dtype}; {software()}", style="dim", markup=False)
    interrupted = False
    with Neighbours() as neighbours:
        try:
            _measure(make, FULL if full else QUICK, place, found, temperature, console)
        except KeyboardInterrupt:
            interrupted = True
            console.print("interrupted: what was measured until then", style="yellow")
    found.neighbours = neighbours.share
    _report(found, console)
    if json_file is not None:
        text = json.dumps(found.as_dict(interrupted=interrupted), indent=1)
        json_file.write_text(text + "\n", encoding="utf-8")
    if profile is not None and found.points:
        write_hardware(found.profile(profile.stem), profile)
        console.print(
            f"hardware profile: {profile}  (use it: --model profiled:hardware={profile})", markup=False
        )
    if interrupted:
        sys.exit(INTERRUPTED)


def _check(make: Maker, place: torch.device, console: Console) -> int:
    """Exit code: 0 if every check passed."""
    console.print(f"{device_words(place)}; {software()}", style="dim", markup=False)
    passed = True
    for finding in run_checks(make, place):
        show_findings([finding], console)
        passed = passed and finding.passed
    console.print("PASS" if passed else "FAIL", style="bold green" if passed else "bold red")
    return 0 if passed else 1


def _measure(
    make: Maker, grid: Grid, place: torch.device, found: Found, temperature: float, console: Console
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("making the model", total=len(list(grid.points())))

        def done(point: StepPoint | None) -> None:
            progress.update(bar, description="step cost", advance=1)
            if point is None:
                found.left_out += 1
            else:
                found.points.append(point)

        _measure_dtype(make, grid, place, found, temperature, done)
        if place.type == "cpu" and found.dtype == "float32":
            # The other half of the question, which needs no accelerator.
            progress.update(bar, description="flips in bfloat16")
            verifier = Verifier(
                make("bfloat16", grid.context_length), kv_limit_bytes=FLIP_KV_BYTES, prefix_reuse=False
            )
            found.flips.append(measure_flips(verifier, "bfloat16", FLIP_ROUNDS))


def _measure_dtype(
    make: Maker,
    grid: Grid,
    place: torch.device,
    found: Found,
    temperature: float,
    done: Callable[[StepPoint | None], None],
) -> None:
    loaded = make(found.dtype, grid.context_length)
    found.bounds = measure_bounds(place, loaded.dtype)
    verifier = Verifier(
        loaded, kv_limit_bytes=kv_bytes(found.shape, found.dtype, grid, place), prefix_reuse=False
    )
    measure_curve(verifier, grid, place, temperature, done)
    found.flips.append(measure_flips(verifier, found.dtype, FLIP_ROUNDS))


def _report(found: Found, console: Console) -> None:
    if found.bounds is not None:
        show_curve(found.points, found.shape, found.dtype, found.bounds, console)
        show_bounds(found.bounds, found.shape, found.dtype, console)
    if found.left_out:
        console.print(f"  {found.left_out} points did not fit into memory or context", style="yellow")
    if found.neighbours is not None and found.neighbours > QUIET:
        busy = f"other processes used {found.neighbours:.0%} of the cores: times not to be cited"
        console.print(f"  {busy}", style="bold red")
    for report in found.flips:
        show_flips(report, console)


def device_words(device: torch.device) -> str:
    """What computes, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    """The processor's name; Linux tells it in a file only."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def software() -> str:
    """Versions of what computes."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))


def main() -> None:
    """Entry point: exit code 2 and one line for what the user can mend."""
    try:
        app()
    except UserError as error:
        print(f"bench_verifier: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
