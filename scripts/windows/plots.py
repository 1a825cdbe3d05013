"""The plots: latency by window with the policies beside it, and speed-up and throughput over the static window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from scripts.bench_latency.colours import OTHERS
from scripts.windows.arms import STATIC_WINDOW, Drafts, Sizer
from scripts.windows.compare import Judged, Ran

DPI: Final = 110
COLUMNS: Final = 4
PANEL: Final = (3.1, 2.7)
"""Inches."""
COLOURS: Final = dict(zip(Sizer, OTHERS, strict=False))


def save_plots(made: Sequence[Ran], judged: Sequence[Judged], folder: Path) -> list[Path]:
    """Write the files; returns their paths."""
    paths: list[Path] = []
    for drafts in dict.fromkeys(one.drafts for one in judged):
        paths.append(folder / f"windows-{drafts.value.replace(' ', '-')}.png")
        _save(_curves([one for one in made if one.cell.arm.drafts is drafts], drafts), paths[-1])
    if judged:
        paths.append(folder / "windows-gain.png")
        _save(_gains(judged), paths[-1])
    return paths


def _curves(made: Sequence[Ran], drafts: Drafts) -> Any:
    fleets = list(dict.fromkeys(one.cell.load.name for one in made))
    columns = min(COLUMNS, len(fleets))
    rows = -(-len(fleets) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.6), squeeze=False
    )
    for axis in axes.flat[len(fleets) :]:
        axis.set_visible(False)
    for axis, fleet in zip(axes.flat, fleets, strict=False):
        here = [one for one in made if one.cell.load.name == fleet]
        still = sorted((one.cell.arm.window, one.latency_ms) for one in here if one.cell.arm.window)
        axis.plot(*zip(*still, strict=True), "o-", color="#8b949e", markersize=3, label="fixed window")
        static = dict(still)[STATIC_WINDOW]
        axis.plot([STATIC_WINDOW], [static], "s", color=COLOURS[Sizer.STATIC], label=Sizer.STATIC.value)
        for one in here:
            if one.cell.arm.window is None:
                sizer = one.cell.arm.sizer
                axis.axhline(one.latency_ms, color=COLOURS[sizer], linewidth=1.4, label=sizer.value)
        axis.set_xscale("log", base=2)
        axis.set_title(fleet, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(visible=True, alpha=0.3)
    figure.suptitle(f"{drafts.value}: ms per token by window (nodes)", fontsize=10)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def _gains(judged: Sequence[Judged]) -> Any:
    fleets = list(dict.fromkeys(one.fleet for one in judged))
    modes = list(dict.fromkeys(one.drafts for one in judged))
    figure, axes = plt.subplots(
        len(modes), 1, figsize=(9, 2.1 * len(modes) + 0.5), sharex=True, squeeze=False
    )
    width = 0.8 / len(Sizer)
    for axis, drafts in zip(axes.flat, modes, strict=True):
        for number, sizer in enumerate(Sizer):
            values = [
                next(
                    one.speed_up
                    for one in judged
                    if (one.fleet, one.drafts, one.sizer) == (fleet, drafts, sizer)
                )
                for fleet in fleets
            ]
            places = [place + (number - (len(Sizer) - 1) / 2) * width for place in range(len(fleets))]
            axis.bar(places, values, width, color=COLOURS[sizer], label=sizer.value)
        axis.axhline(1.0, color="#1b1f24", linewidth=0.8)
        axis.set_ylabel(drafts.value, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(visible=True, axis="y", alpha=0.3)
    axes.flat[-1].set_xticks(range(len(fleets)), fleets)
    figure.suptitle("Speed-up over synchronous blocks of 4", fontsize=10)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return figure


def _save(figure: Any, path: Path) -> None:
    # Without a date: the same run gives the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
