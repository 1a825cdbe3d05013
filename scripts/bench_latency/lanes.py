"""One run as three lanes over time: the edge's forwards, the link's messages, the cloud's steps."""

from __future__ import annotations

from typing import Any, Final

from scripts.bench_latency.colours import ARMS, Theme
from scripts.bench_latency.records import Picture

EDGE, LINK_TOP, LINK_BOTTOM, CLOUD = 2.0, 1.85, 0.55, 0.4
"""Places on the vertical axis: the edge above, the cloud below, the link between."""
HEIGHT: Final = 0.3
ROUND_TRIPS: Final = 4.0
LEAST_MS, MOST_MS = 250.0, 1500.0
"""How much of a run is drawn: some round trips, within these bounds."""


def draw_lanes(figure: Any, theme: Theme, picture: Picture, rtt_ms: float) -> None:
    """Draw onto an empty figure. `rtt_ms`: half of it is taken for each way."""
    axes = figure.subplots()
    shown = window(picture, rtt_ms)
    draft, hit, miss = ARMS["slipstream"], ARMS["tree"], ARMS["cloud"]
    forwards = [(begin, end - begin) for begin, end, _ in picture.forwards]
    axes.broken_barh(forwards, (EDGE, HEIGHT), facecolor=draft, edgecolor=theme.ground, linewidth=0.3)
    for at, _ in picture.sent:
        axes.plot([at, at + rtt_ms / 2], [LINK_TOP, LINK_BOTTOM], color=draft, linewidth=0.6, alpha=0.7)
    for at, tokens, _, verify, accepted in picture.commits:
        end = at - rtt_ms / 2
        axes.plot([end, at], [LINK_BOTTOM, LINK_TOP], color=theme.ink, linewidth=0.9, alpha=0.6)
        axes.broken_barh(
            [(end - verify, verify)],
            (CLOUD - HEIGHT, HEIGHT),
            facecolor=hit if accepted else miss,
            edgecolor=theme.ground,
            linewidth=0.6,
        )
        if shown[0] <= at <= shown[1]:
            axes.text(at, EDGE + HEIGHT + 0.05, str(tokens), ha="center", fontsize=7)
    axes.set_xlim(shown)
    axes.set_ylim(CLOUD - HEIGHT - 0.1, EDGE + HEIGHT + 0.3)
    axes.set_yticks(
        [EDGE + HEIGHT / 2, (LINK_TOP + LINK_BOTTOM) / 2, CLOUD - HEIGHT / 2], ["edge", "link", "cloud"]
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(
        "ms since the request; above the edge: tokens that a commit brought; in the cloud: green, a draft was right"
    )


def window(picture: Picture, rtt_ms: float) -> tuple[float, float]:
    """What is drawn: from the first commit on, when it is in its stride."""
    length = min(max(ROUND_TRIPS * rtt_ms, LEAST_MS), MOST_MS)
    begin = picture.commits[0][0] if picture.commits else 0.0
    return begin, begin + length
