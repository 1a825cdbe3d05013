"""The pictures of runs, sweeps and plans, as PNG files' bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from scripts.bench_latency.colours import LIGHT, OTHERS
from shared.sim.deployment import RunFigures
from shared.sim.deployment.record import DeploymentRecord

DPI: Final = 110
BINS: Final = 120
"""Of time, in the picture of a run."""
MOST_BARS: Final = 64


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture."""

    name: str
    """Of its file, without ending."""
    title: str
    caption: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """Points that belong together."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """One pool that was tried."""

    name: str
    cost: float
    latency: float
    met: bool


def of_run(record: DeploymentRecord, figures: RunFigures) -> list[Plot]:
    """What a run looked like: waiting times, tokens over time, who was busy."""
    made = [_spreads(record)] if any(one.times for one in record.generations) else []
    return [*made, _flow(record), _busy(figures)]


def _spreads(record: DeploymentRecord) -> Plot:
    def draw(figure: Any) -> None:
        for axes, (name, label) in zip(
            figure.subplots(1, 2), (("ttft_ms", "TTFT, ms"), ("tpot_ms", "TPOT, ms")), strict=True
        ):
            for number, group in enumerate(record.groups):
                values = np.sort(
                    [
                        value
                        for one in record.generations
                        if one.group == group and one.started >= record.warm_up_ns
                        if (value := getattr(one, name)) is not None
                    ]
                )
                if len(values):
                    shares = np.arange(1, len(values) + 1) / len(values)
                    axes.step(values, shares, where="post", color=_shade(number), label=group)
            _dress(axes, label, "share of generations")
            axes.set_ylim(0, 1.02)

    caption = "Share of generations that waited no longer: to the first token, and per token after it."
    return _plot("waiting", "How long users waited", caption, draw, (9.0, 3.8))


def _flow(record: DeploymentRecord) -> Plot:
    edges = np.linspace(0.0, record.duration_ns / 1e9, BINS + 1)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        heights: list[Any] = []
        for group in record.groups:
            own = [one for one in record.generations if one.group == group and one.times]
            times = np.concatenate([np.frombuffer(one.times, np.int64) / 1e9 for one in own] or [np.empty(0)])
            sizes = np.concatenate(
                [np.frombuffer(one.sizes, np.uint32).astype(np.float64) for one in own] or [np.empty(0)]
            )
            heights.append(np.histogram(times, edges, weights=sizes)[0] / (edges[1] - edges[0]))
        shades = [_shade(number) for number in range(len(heights))]
        axes.stackplot(edges[:-1], heights, labels=record.groups, colors=shades, step="post", linewidth=0)
        if record.warm_up_ns:
            axes.axvline(record.warm_up_ns / 1e9, color=LIGHT.ink, linewidth=0.8, linestyle=":")
        _dress(axes, "s", "tokens/s")

    caption = (
        "Tokens that came to the edges. What is left of the dotted line is warm-up and counts for no figure."
    )
    return _plot("flow", "Tokens over time", caption, draw, (9.0, 3.4))


def _busy(figures: RunFigures) -> Plot:
    workers = sorted(figures.workers, key=lambda one: -one.busy_share)[:MOST_BARS]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        kinds = list(dict.fromkeys(one.kind for one in figures.workers))
        places = range(len(workers))
        shades = [_shade(kinds.index(one.kind)) for one in workers]
        axes.bar(places, [one.busy_share for one in workers], color=shades)
        axes.axhline(figures.utilisation, color=LIGHT.ink, linewidth=0.8, linestyle=":")
        _dress(axes, "workers, the busiest first", "share of time with a step out", legend=False)
        axes.set_ylim(0, 1.02)

    caption = "Of the time in which each was there. Dotted: all of them."
    return _plot("busy", "How busy the workers were", caption, draw, (9.0, 3.0))


def of_sweep(label: str, panels: Sequence[tuple[str, Sequence[Line]]]) -> Plot:
    """What changes with what was varied: one panel for each figure, one line for each setting of the others."""

    def draw(figure: Any) -> None:
        for axes, (name, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
        ):
            for number, line in enumerate(lines):
                axes.plot(line.x, line.y, marker="o", ms=4, color=_shade(number), label=line.name)
            _dress(axes, label, name, legend=len(lines) > 1)
            axes.set_ylim(bottom=0)

    caption = "Means over the seeds, which are the same everywhere."
    return _plot("sweep", "What was varied, and what came of it", caption, draw, (4.0 * len(panels), 3.6))


def of_frontier(spots: Sequence[Spot], frontier: Sequence[Spot], cheapest: Spot | None, unit: str) -> Plot:
    """Cost against latency of all pools that were tried."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for number, kind in enumerate(dict.fromkeys(spot.name.partition(" x ")[2] for spot in spots)):
            for met in (True, False):
                own = [one for one in spots if one.name.partition(" x ")[2] == kind and one.met == met]
                axes.scatter(
                    [one.cost for one in own],
                    [one.latency for one in own],
                    color=_shade(number),
                    marker="o" if met else "x",
                    label=kind if met or not any(one.met for one in spots) else None,
                )
        ordered = sorted(frontier, key=lambda one: one.cost)
        costs, delays = [one.cost for one in ordered], [one.latency for one in ordered]
        axes.plot(costs, delays, color=LIGHT.ink, lw=0.8)
        if cheapest is not None:
            axes.annotate(
                cheapest.name, (cheapest.cost, cheapest.latency), xytext=(8, 8), textcoords="offset points"
            )
        _dress(axes, unit, "TPOT p95, ms")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)

    caption = (
        "Each point is a pool that was tried: dots kept every limit, crosses did not. The line joins those that no "
        "other one beats in both; the cheapest that keeps every limit is named."
    )
    return _plot("frontier", "Cost against latency", caption, draw, (8.0, 4.6))


def _shade(number: int) -> str:
    return OTHERS[number % len(OTHERS)]


def _dress(axes: Any, x: str, y: str, *, legend: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, color=LIGHT.faint, linewidth=0.5)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _plot(
    name: str, title: str, caption: str, draw: Callable[[Any], None], inches: tuple[float, float]
) -> Plot:
    figure = Figure(figsize=inches, layout="constrained", facecolor=LIGHT.ground)
    draw(figure)
    written = io.BytesIO()
    # Without its usual metadata: the same picture is the same file.
    figure.savefig(written, format="png", dpi=DPI, metadata={"Software": None})
    return Plot(name, title, caption, written.getvalue())
