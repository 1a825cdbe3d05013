"""The measurements as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from scripts.bench_verifier.bounds import Bounds
from scripts.bench_verifier.check import Finding
from scripts.bench_verifier.flips import FlipReport
from shared.hardware import ModelShape, StepPoint


def show_curve(
    points: Sequence[StepPoint], shape: ModelShape, dtype: str, bounds: Bounds, console: Console
) -> None:
    """One table per context: a row per number of nodes, a column per number of sessions."""
    for context in sorted({point.context for point in points}):
        here = {(point.nodes, point.sessions): point for point in points if point.context == context}
        sessions = sorted({count for _, count in here})
        table = Table(
            title=f"Context {context}: ms per step (times the device's own bound)", title_justify="left"
        )
        table.add_column("nodes", justify="right")
        for count in sessions:
            table.add_column(f"{count} session{'s' if count > 1 else ''}", justify="right")
        for nodes in sorted({nodes for nodes, _ in here}):
            cells = [_cell(here.get((nodes, count)), shape, dtype, bounds) for count in sessions]
            table.add_row(str(nodes), *cells)
        console.print(table)


def _cell(point: StepPoint | None, shape: ModelShape, dtype: str, bounds: Bounds) -> str:
    if point is None:
        return ""
    least = bounds.least_ms(shape, dtype, point.nodes, point.sessions, point.context)
    return f"{point.step_ms:.3g} ({point.step_ms / least:.1f})"


def show_bounds(bounds: Bounds, shape: ModelShape, dtype: str, console: Console) -> None:
    """What the bounds are made of."""
    weights_ms = bounds.memory_ms(shape, dtype, 0, 0)
    console.print(
        f"  {bounds.bytes_per_s / 1e9:.1f} GB/s by a large copy: reading the weights takes {weights_ms:.3g} ms; "
        f"{bounds.flop_per_s / 1e9:.0f} GFLOP/s by a large product in {dtype}. A model that fits into the "
        f"processor's cache can be read faster than that.",
        style="dim",
        markup=False,
    )


def show_flips(report: FlipReport, console: Console) -> None:
    """How many argmaxes flipped in each shape of step."""
    table = Table(title=f"Argmaxes that differ from plain decoding, {report.dtype}", title_justify="left")
    for name in ("the step holds", "facts", "differ", "share", "their margins, nats", "margins moved by"):
        table.add_column(name, justify="left" if name == "the step holds" else "right")
    for one in report.flips:
        margins = f"{one.margins[0]:.2g} to {one.margins[-1]:.2g}" if one.margins else ""
        table.add_row(
            one.company, str(one.facts), str(one.flipped), f"{one.share:.2%}", margins, f"{one.drift:.1g}"
        )
    console.print(table)
    spread = ", ".join(f"{share:.0%} below {margin:.2g}" for share, margin in report.quantiles)
    console.print(f"  margins of all facts, nats: {spread}", style="dim", markup=False)


def show_findings(findings: Sequence[Finding], console: Console) -> None:
    """One line per check."""
    for finding in findings:
        style = "green" if finding.passed else "bold red"
        console.print("PASS" if finding.passed else "FAIL", style=style, end=" ")
        console.print(f"{finding.name}: {finding.detail}", markup=False, highlight=False)
