"""The figures, as PNG files: functions of what was simulated, nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.patches import Patch

from scripts.bench_capacity.setting import NAMES as SERVED_NAMES
from scripts.bench_capacity.setting import Arm
from scripts.bench_latency.colours import ARMS as ARM_COLOURS
from scripts.bench_latency.colours import LIGHT
from scripts.reproduce.capacity import PAPER_THROUGHPUT, Served
from scripts.reproduce.distance import ARMS, NAMES, BreakEven, CellFigures, winner
from scripts.reproduce.dsi import CellFigures as DsiCell
from scripts.reproduce.dsi import RowFigures
from scripts.reproduce.parts import FIGURES

DPI: Final = 80
COLOURS: Final = {
    "cloud": ARM_COLOURS["cloud"],
    "colocated": ARM_COLOURS["colocated"],
    "edge_si": ARM_COLOURS["sync"],
    "chain": ARM_COLOURS["chain"],
    "slipstream": ARM_COLOURS["slipstream"],
    "assisted": ARM_COLOURS["tree"],
}
SERVED: Final = {
    Arm.CLOUD: ARM_COLOURS["cloud"],
    Arm.COLOCATED: ARM_COLOURS["colocated"],
    Arm.COLOCATED_PAID: ARM_COLOURS["sync"],
    Arm.SLIPSTREAM: ARM_COLOURS["slipstream"],
}
WITHOUT_ASSISTANT: Final = ("cloud", "colocated", "edge_si", "slipstream")
WITH_ASSISTANT: Final = (*WITHOUT_ASSISTANT, "assisted")


def heat_maps(cells: Sequence[DsiCell], folder: Path) -> str:
    """Speed-up over the better of SI and the target alone, by the drafter's share of the target and acceptance."""
    panels: list[tuple[str, Callable[[DsiCell], float]]] = [
        ("DSI, the theorem's conditions", lambda one: min(one.si, 1.0) / one.ideal.time),
        ("DSI, the product's chain, SP 7", lambda one: min(one.si, 1.0) / one.chain.time),
        ("the same, SI counted as the paper counts it", lambda one: min(one.paper_si, 1.0) / one.chain.time),
        ("Slipstream, SP 7", lambda one: min(one.si, 1.0) / one.policy.time),
    ]
    values = [np.array([of(one) for one in cells]) for _, of in panels]
    norm = Normalize(1.0, max(float(one.max()) for one in values))
    with _saved(folder, "dsi-heat-map", 2, 2, (11.0, 8.5)) as (name, figure, axes):
        image = None
        for (title, of), axis in zip(panels, axes.flat, strict=True):
            shares, acceptances, grid = _grid(
                [(one.share, one.acceptance, of(one)) for one in cells],
            )
            image = axis.imshow(grid, origin="lower", aspect="auto", cmap="viridis", norm=norm)
            slower = np.argwhere(grid < 0.999)
            axis.plot(slower[:, 1], slower[:, 0], "rx")
            _ticks(axis, shares, acceptances)
            axis.set(title=f"{title}: up to {grid.max():.2f}", xlabel="drafter / target", ylabel="acceptance")
        figure.colorbar(image, ax=axes, label="times as fast as the better of SI and the target alone")
    return name


def rows(found: Sequence[RowFigures], folder: Path) -> str:
    """DSI's ten rows."""
    bars: list[tuple[str, str, Callable[[RowFigures], float]]] = [
        ("claimed", ARM_COLOURS["cloud"], lambda one: one.claimed),
        (
            "chain, SI counted in the paper's way",
            ARM_COLOURS["sync"],
            lambda one: one.paper_si_ms / one.chain_ms,
        ),
        ("chain, SI counted honestly", ARM_COLOURS["chain"], lambda one: one.si_ms / one.chain_ms),
        ("Slipstream, SI counted honestly", ARM_COLOURS["slipstream"], lambda one: one.si_ms / one.policy_ms),
    ]
    with _saved(folder, "dsi-rows", 1, 1, (10.0, 3.6)) as (name, _, axes):
        axis = axes.flat[0]
        for place, (label, colour, of) in enumerate(bars):
            at = [index + (place - 1.5) * 0.2 for index in range(len(found))]
            axis.bar(at, [of(one) for one in found], 0.19, color=colour, label=label)
        axis.axhline(1.0, color=LIGHT.ink, linewidth=0.8)
        labels = [f"{one.number}\n{one.step_ms:g}/{one.draft_ms:g}\n{one.acceptance:.0%}" for one in found]
        axis.set_xticks(range(len(found)), labels)
        axis.set(ylabel="times as fast as SI", xlabel="row, target/drafter ms, acceptance")
        axis.legend(fontsize=8, ncols=2)
    return name


def winners(cells: Sequence[CellFigures], folder: Path) -> str:
    """Who is fastest, by round trip and acceptance; with its ms per token."""
    contexts = sorted({one.iid for one in cells}, reverse=True)
    with _saved(folder, "distance-map", len(contexts), 2, (12.0, 3.9 * len(contexts))) as (
        name,
        figure,
        axes,
    ):
        for iid, line in zip(contexts, axes, strict=True):
            own = [one for one in cells if one.iid is iid]
            for axis, arms in zip(line, (WITHOUT_ASSISTANT, WITH_ASSISTANT), strict=True):
                _winners(axis, own, arms)
                kind = "every context alike" if iid else "easy and hard contexts"
                axis.set_title(f"{kind}, {'with' if 'assisted' in arms else 'without'} an assistant")
        keys = [Patch(color=COLOURS[arm]) for arm in WITH_ASSISTANT]
        figure.legend(
            keys, [NAMES[arm] for arm in WITH_ASSISTANT], loc="outside lower center", ncols=5, fontsize=9
        )
    return name


def break_even(found: Sequence[BreakEven], cells: Sequence[CellFigures], folder: Path) -> str:
    """Up to which round trip synchronous drafting from the edge beats the cloud alone."""
    acceptances = sorted({one.acceptance for one in found})
    best = [
        max((one for one in found if one.acceptance == value), key=lambda one: one.exact_ms)
        for value in acceptances
    ]
    lines = (
        ("the paper's formula", "--", [one.formula_ms for one in best]),
        ("with the tokens of a block of this length", "-", [one.exact_ms for one in best]),
        ("counted on texts", ":", [one.counted_ms for one in best]),
    )
    with _saved(folder, "distance-break-even", 1, 1, (8.0, 4.2)) as (name, _, axes):
        axis = axes.flat[0]
        for (label, style, values), colour in zip(lines, ("#d55e00", "#0072b2", "#009e73"), strict=True):
            axis.plot(acceptances, values, style, color=colour, label=label)
        for wins, marker, label in (
            (True, "o", "SI from the edge faster"),
            (False, "x", "the cloud alone faster"),
        ):
            here = [one for one in cells if one.iid and (one.edge_si.ms < one.cloud.ms) is wins]
            axis.scatter(
                [one.acceptance for one in here],
                [one.rtt_ms for one in here],
                marker=marker,
                s=18,
                color=LIGHT.ink,
                label=f"{label}, best lookahead",
            )
        axis.set_ylim(-5.0, 1.05 * max((one.rtt_ms for one in cells), default=100.0))
        axis.set(xlabel="acceptance", ylabel="round trip, ms")
        axis.legend(fontsize=8)
    return name


def capacity(served: Sequence[Served], folder: Path) -> str:
    """What one verifier delivers by what its users wait for."""
    drafts = sorted({one.draft_ms for one in served if one.arm is Arm.SLIPSTREAM})
    with _saved(folder, "specedge-capacity", 1, len(drafts), (4.2 * len(drafts), 4.2)) as (
        name,
        figure,
        axes,
    ):
        for draft_ms, axis in zip(drafts, axes.flat, strict=True):
            for arm, colour in SERVED.items():
                own = sorted(
                    (
                        one
                        for one in served
                        if one.arm is arm and (arm is Arm.CLOUD or one.draft_ms == draft_ms)
                    ),
                    key=lambda one: one.clients,
                )
                axis.plot(
                    [one.itl_ms for one in own],
                    [one.tokens_per_s for one in own],
                    "o-",
                    color=colour,
                    markersize=3,
                    label=SERVED_NAMES[arm],
                )
                for one in own[-1:] + own[len(own) // 2 : len(own) // 2 + 1]:
                    axis.annotate(
                        str(one.clients),
                        (one.itl_ms, one.tokens_per_s),
                        fontsize=7,
                        xytext=(3, 3),
                        textcoords="offset points",
                    )
            axis.set(
                title=f"drafter {draft_ms:g} ms", xlabel="mean ms between tokens of a client", xlim=(5, 70)
            )
        axes.flat[0].set_ylabel("tokens/s of the verifier (numbers: clients)")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return name


def equal_waiting(equals: Sequence[Any], folder: Path) -> str:
    """Slipstream's throughput by the baseline's at the paper's shorter waiting."""
    known = [one for one in equals if one.asked > 0.0 and one.throughput is not None]
    with _saved(folder, "specedge-equal-waiting", 1, 1, (8.0, 3.6)) as (name, _, axes):
        axis = axes.flat[0]
        for draft_ms in sorted({one.draft_ms for one in known}):
            for arm, style in ((Arm.COLOCATED, "o--"), (Arm.COLOCATED_PAID, "o-")):
                own = [one for one in known if one.draft_ms == draft_ms and one.baseline is arm]
                label = f"drafter {draft_ms:g} ms, {SERVED_NAMES[arm].rpartition(', ')[2]}"
                axis.plot([one.limit_ms for one in own], [one.throughput for one in own], style, label=label)
        axis.axhline(PAPER_THROUGHPUT, color=LIGHT.ink, linewidth=0.8, linestyle=":", label="SpecEdge's 2.22")
        axis.axhline(1.0, color=LIGHT.ink, linewidth=0.8)
        axis.set(
            xlabel="the baseline's users wait at most so many ms between tokens",
            ylabel="times its throughput",
        )
        if known:
            axis.set_yscale("log", base=2)
            axis.set_yticks([1, 1.5, 2, 3, 4, 8, 16], ["1", "1.5", "2", "3", "4", "8", "16"])
        axis.legend(fontsize=8, ncols=2)
    return name


def _winners(axis: Any, cells: Sequence[CellFigures], arms: tuple[str, ...]) -> None:
    rtts, acceptances, grid = _grid(
        [(one.rtt_ms, one.acceptance, float(ARMS.index(winner(one, arms)))) for one in cells]
    )
    colours = ListedColormap([COLOURS[arm] for arm in ARMS])
    norm = BoundaryNorm(np.arange(-0.5, len(ARMS)), len(ARMS))
    axis.imshow(grid, origin="lower", aspect="auto", cmap=colours, norm=norm)
    for one in cells:
        axis.text(
            rtts.index(one.rtt_ms),
            acceptances.index(one.acceptance),
            f"{one.way(winner(one, arms)).ms:.0f}",
            ha="center",
            va="center",
            color="white",
            fontsize=8,
        )
    _ticks(axis, rtts, acceptances)
    axis.set(xlabel="round trip, ms", ylabel="acceptance")


def _grid(values: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float], Any]:
    """Columns, rows, and the values in their places."""
    columns, lines = sorted({x for x, _, _ in values}), sorted({y for _, y, _ in values})
    grid = np.full((len(lines), len(columns)), np.nan)
    for x, y, value in values:
        grid[lines.index(y), columns.index(x)] = value
    return columns, lines, grid


def _ticks(axis: Any, columns: Sequence[float], lines: Sequence[float]) -> None:
    axis.set_xticks(range(len(columns)), [f"{one:g}" for one in columns], fontsize=8)
    step = 2 if len(lines) > 12 else 1
    axis.set_yticks(range(0, len(lines), step), [f"{one:g}" for one in lines[::step]], fontsize=8)


@contextlib.contextmanager
def _saved(
    folder: Path, name: str, lines: int, columns: int, size: tuple[float, float]
) -> Iterator[tuple[str, Any, Any]]:
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10}):
        figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
        try:
            yield name, figure, axes
            path = folder / FIGURES / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # No date and no version in it: the same figures are the same bytes.
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
        finally:
            plt.close(figure)
