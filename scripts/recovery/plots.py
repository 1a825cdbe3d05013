"""One plot a study: what each protocol's longest pauses are, and what a token costs the cloud."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from scripts.bench_latency.colours import OTHERS
from scripts.recovery.studies import Row

DPI = 110


def save_plot(rows: Sequence[Row], path: Path) -> None:
    """Write the plot of one study: one colour per situation, a pair of bars per protocol."""
    situations = list(dict.fromkeys(row.situation for row in rows))
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    figure, (pauses, costs) = plt.subplots(1, 2, sharey=True, figsize=(10, 0.42 * len(protocols) + 1.8))
    height = 0.8 / len(situations)
    for number, situation in enumerate(situations):
        here = {row.protocol: row.result for row in rows if row.situation == situation}
        places = [protocols.index(name) + (number - (len(situations) - 1) / 2) * height for name in here]
        colour = OTHERS[number % len(OTHERS)]
        worst = [one.pause_longest_ms for one in here.values()]
        pauses.barh(places, worst, height, color=colour, label=situation)
        costs.barh(places, [one.computed_per_token for one in here.values()], height, color=colour)
    pauses.set_xscale("log")
    pauses.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    pauses.xaxis.set_major_formatter("{x:g}")
    pauses.xaxis.set_minor_formatter(NullFormatter())
    pauses.set_xlabel("longest pause of any client, ms", fontsize=8)
    costs.set_xlabel("tokens computed in the cloud per token", fontsize=8)
    pauses.set_yticks(range(len(protocols)), protocols, fontsize=8)
    pauses.invert_yaxis()
    for axis in (pauses, costs):
        axis.tick_params(labelsize=8)
        axis.grid(visible=True, axis="x", alpha=0.3)
    handles, names = pauses.get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=min(4, len(names)), fontsize=8, frameon=False)
    figure.suptitle(rows[0].study, fontsize=10)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    # Without a date: the same run gives the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
