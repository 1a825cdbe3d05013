"""The plots, as PNG files' bytes: TPOT against the round trip, inter-token times, one run in three lanes."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from scripts.bench_latency.colours import DARK, LIGHT, Theme, colours
from scripts.bench_latency.figures import ArmFigures, CellFigures
from scripts.bench_latency.lanes import draw_lanes
from scripts.bench_latency.records import Results, Run
from scripts.bench_latency.timing import itl_ms

DPI: Final = 110
PANELS: Final = 3
"""Side by side in the plot of inter-token times."""
SMALLEST_MS: Final = 0.1
"""Where a logarithmic axis begins: tokens of one commit come together."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture in both themes."""

    name: str
    """Of its file, without ending."""
    title: str
    caption: str
    light: bytes
    dark: bytes


def plots(results: Results, cells: Sequence[CellFigures]) -> list[Plot]:
    """All that the results are enough for."""
    made: list[Plot] = []
    names = list(dict.fromkeys(cell.cell.pair.describe() for cell in cells))
    for number, name in enumerate(names, 1):
        own = [cell for cell in cells if cell.cell.pair.describe() == name]
        suffix = f"-{number}" if len(names) > 1 else ""
        swept = [cell for cell in own if _only_rtt(cell)]
        if len(swept) > 1:
            made.append(_tpot(name, swept, f"tpot{suffix}"))
        made.append(_itl(name, results, own, f"itl{suffix}"))
    made += _lanes(results, cells)
    return made


def _only_rtt(cell: CellFigures) -> bool:
    link = cell.cell.link
    return not (link.handover or link.loss_percent) and all(arm.link is None for arm in cell.cell.arms)


def _tpot(name: str, cells: Sequence[CellFigures], file: str) -> Plot:
    cells = sorted(cells, key=lambda cell: cell.cell.link.rtt_ms)
    keys = list(dict.fromkeys(arm.arm.key for cell in cells for arm in cell.arms))
    shades = colours(keys)

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        for key in keys:
            points = [(cell, arm) for cell in cells if (arm := cell.arm(key)) is not None and arm.tpot_ms]
            _line(axes, points, shades[key])
        axes.set_xlabel("round trip, ms")
        axes.set_ylabel("time per token (TPOT), ms")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, color=theme.faint, linewidth=0.5)
        axes.legend(frameon=False, fontsize=8)

    caption = (
        "Median over prompts and seeds with its 95 % interval (bootstrap). Dotted: the simulator, told the measured "
        "overheads. Lower is better; an arm on the server's host does not depend on the link."
    )
    return _plot(file, f"Time per token against the round trip: {name}", caption, draw, (8.0, 4.6))


def _line(axes: Any, points: Sequence[tuple[CellFigures, ArmFigures]], shade: str) -> None:
    known = [(cell, arm, arm.tpot_ms) for cell, arm in points if arm.tpot_ms is not None]
    if not known:
        return
    rtts = [cell.cell.link.rtt_ms for cell, _, _ in known]
    axes.plot(
        rtts, [one.value for _, _, one in known], marker="o", ms=4, color=shade, label=known[0][1].arm.name
    )
    low = [one.low if one.low is not None else one.value for _, _, one in known]
    high = [one.high if one.high is not None else one.value for _, _, one in known]
    axes.fill_between(rtts, low, high, color=shade, alpha=0.18, linewidth=0)
    told = [(rtt, arm.predicted_ms) for rtt, (_, arm, _) in zip(rtts, known, strict=True) if arm.predicted_ms]
    if told:
        axes.plot([rtt for rtt, _ in told], [ms for _, ms in told], ls=":", color=shade, linewidth=1.2)


def _itl(name: str, results: Results, cells: Sequence[CellFigures], file: str) -> Plot:
    shades = colours(list(dict.fromkeys(arm.arm.key for cell in cells for arm in cell.arms)))
    columns = min(PANELS, len(cells))
    rows = -(-len(cells) // columns)

    def draw(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for number, axes in enumerate(panels.flat):
            if number >= len(cells):
                axes.set_visible(False)
                continue
            cell = cells[number]
            for arm in cell.arms:
                runs = [run for run in results.runs if (run.cell, run.arm) == (cell.cell.key, arm.arm.key)]
                gaps = np.sort([gap for run in runs for gap in itl_ms(run.commits)])
                if gaps.size:
                    share = np.arange(1, gaps.size + 1) / gaps.size
                    gaps = np.maximum(gaps, SMALLEST_MS)
                    axes.step(gaps, share, where="post", color=shades[arm.arm.key], label=arm.arm.name)
            axes.set_xscale("log")
            axes.set_title(cell.cell.title, fontsize=9)
            axes.grid(visible=True, color=theme.faint, linewidth=0.5)
        for axes in panels[-1]:
            axes.set_xlabel("between tokens, ms")
        panels[0][0].set_ylabel("share of tokens")
        handles = {
            label: handle
            for axes in panels.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(),
            handles.keys(),
            frameon=False,
            fontsize=8,
            ncols=min(columns, 2) + 1,
            loc="outside lower center",
        )

    caption = (
        "Share of tokens that came at most so long after their neighbour, all prompts and seeds. Tokens of one commit "
        f"come together: they stand at {SMALLEST_MS:g} ms."
    )
    return _plot(
        file, f"Time between tokens: {name}", caption, draw, (max(3.4 * columns + 0.8, 6.4), 2.6 * rows + 1.0)
    )


def _lanes(results: Results, cells: Sequence[CellFigures]) -> list[Plot]:
    """Of a pictured run that shows something: a link of middling length, of those where most drafts were right."""
    by_key = {cell.cell.key: cell for cell in cells}
    pictured = [run for run in results.runs if run.picture is not None and run.cell in by_key]
    if not pictured:
        return []

    def accepted(run: Run) -> float:
        arm = by_key[run.cell].arm(run.arm)
        return (arm.mean_accepted if arm is not None else None) or 0.0

    middle = statistics.median(map(accepted, pictured))
    pictured = [run for run in pictured if accepted(run) >= middle]
    pictured.sort(key=lambda run: by_key[run.cell].cell.link.rtt_ms)
    run = pictured[len(pictured) // 2]
    cell = by_key[run.cell]
    picture = run.picture
    arm = cell.arm(run.arm)
    if picture is None or arm is None:
        raise AssertionError("it was chosen for having one")
    rtt_ms = cell.facts.overheads.rtt_ms if cell.facts is not None else cell.cell.link.rtt_ms

    caption = (
        "One run as the edge saw it. Edge: drafter forwards. Link: drafts on their way up (colour) and commits on "
        "their way down (grey). Cloud: verify steps. Nothing waits: the three overlap. All times are of the edge's "
        "clock; what happened in the cloud is placed by the commit's arrival, less half of the round trip "
        f"({rtt_ms:.1f} ms), less the step's duration, which the cloud measured and sent along; arrivals of drafts "
        "are half a round trip after their sending."
    )
    return [
        _plot(
            "timeline",
            f"One run in three lanes: {arm.arm.name}, {cell.cell.pair.describe()}, {cell.cell.title}",
            caption,
            lambda figure, theme: draw_lanes(figure, theme, picture, rtt_ms),
            (10.0, 3.6),
        )
    ]


def _plot(file: str, title: str, caption: str, draw: Any, size: tuple[float, float]) -> Plot:
    light, dark = (_png(draw, theme, size) for theme in (LIGHT, DARK))
    return Plot(file, title, caption, light, dark)


def _png(draw: Any, theme: Theme, size: tuple[float, float]) -> bytes:
    with _styled(theme):
        figure = plt.figure(figsize=size, layout="constrained")
        try:
            draw(figure, theme)
            out = io.BytesIO()
            figure.savefig(out, format="png", dpi=DPI)
        finally:
            plt.close(figure)
    return out.getvalue()


@contextlib.contextmanager
def _styled(theme: Theme) -> Iterator[None]:
    ink = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "axes.titlecolor")
    style: dict[Any, Any] = dict.fromkeys(ink, theme.ink) | {
        "figure.facecolor": theme.ground,
        "axes.facecolor": theme.ground,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
    }
    with mpl.rc_context(style):
        yield
