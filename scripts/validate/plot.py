"""Predicted against measured, as the bytes of a PNG file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from scripts.bench_latency.colours import ARMS, LIGHT
from scripts.validate.configuration import Policy
from scripts.validate.records import Row
from scripts.validate.verdict import MEDIAN, NAMES, WORST

DPI: Final = 120
MARKERS: Final = {1: "o", 4: "s", 16: "^"}
"""By clients."""
UNITS: Final = {"tpot_ms": "ms", "tokens_per_s": "tokens/s of all clients"}
ROOM: Final = 1.25
"""Beside the least and the greatest."""


def plot(rows: Sequence[Row]) -> bytes:
    """Two panels: time per token, and the rate of all clients."""
    figure, panels = plt.subplots(1, 2, figsize=(11.0, 5.4), facecolor=LIGHT.ground)
    for axes, field in zip(panels, UNITS, strict=True):
        _panel(axes, rows, field)
    figure.legend(handles=_legend(rows), loc="lower center", ncols=8, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=DPI)
    plt.close(figure)
    return target.getvalue()


def _panel(axes: Any, rows: Sequence[Row], field: str) -> None:
    points = [(getattr(row.measured.figures, field), getattr(row.simulated.told, field), row) for row in rows]
    values = [value for measured, predicted, _ in points for value in (measured, predicted)]
    ends = np.array([min(values) / ROOM, max(values) * ROOM])
    for share, alpha in ((WORST, 0.35), (MEDIAN, 0.6)):
        axes.fill_between(
            ends, ends * (1 - share), ends * (1 + share), color=LIGHT.faint, alpha=alpha, linewidth=0
        )
    axes.plot(ends, ends, color=LIGHT.ink, linewidth=0.8)
    for measured, predicted, row in points:
        one = row.configuration
        axes.scatter(
            measured, predicted, s=34, marker=_marker(one.clients), color=_colour(one.policy), zorder=3
        )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set_xlabel(f"measured, {UNITS[field]}")
    axes.set_ylabel(f"simulated, {UNITS[field]}")
    axes.set_title(
        f"{NAMES[field]}; the bands: {MEDIAN:.0%} and {WORST:.0%} off", fontsize=11, color=LIGHT.ink
    )


def _legend(rows: Sequence[Row]) -> list[Any]:
    policies = {_family(row.configuration.policy): _colour(row.configuration.policy) for row in rows}
    clients = sorted({row.configuration.clients for row in rows})
    return [
        *(_handle(name, "o", colour) for name, colour in policies.items()),
        *(_handle(f"{count} client{'s' * (count > 1)}", _marker(count), LIGHT.ink) for count in clients),
    ]


def _handle(name: str, marker: str, colour: str) -> Any:
    return mpl.lines.Line2D([], [], linestyle="", marker=marker, color=colour, label=name)


def _family(policy: Policy) -> str:
    return policy.value.partition(",")[0]


def _colour(policy: Policy) -> str:
    return ARMS[_family(policy).partition(" ")[0]]


def _marker(clients: int) -> str:
    return MARKERS.get(clients, "D")
