"""The page: a template filled with the figures in the folder, so that page and files cannot disagree."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jinja2

from scripts.bench_capacity.setting import NAMES as SERVED_NAMES
from scripts.bench_capacity.setting import Arm
from scripts.bench_dsi.figures import geometric_mean
from scripts.reproduce import capacity, distance, plots
from scripts.reproduce.checks import Check
from scripts.reproduce.parts import (
    COMMAND,
    DistanceFigures,
    DsiFigures,
    Part,
    SpecEdgeFigures,
    Way,
    make_distance,
    make_dsi,
    make_specedge,
    read,
    write,
)
from scripts.reproduce.windows import DsdFigures, dsd_plots, make_dsd, ours
from scripts.windows.arms import Drafts, Sizer

PAGE: Final = "reproduction.md"
TEMPLATE: Final = Path(__file__).with_name("page.md.j2")
SHOWN_CLIENTS: Final = (1, 4, 16, 32, 64)
"""In the table of equal clients; the file has all."""
A_SERVER: Final = 8
"""Clients of a baseline that is worth the name of a server: where it can hardly serve at all, ratios say nothing."""
KINDS: Final[dict[Part, Any]] = {
    Part.DSI: DsiFigures,
    Part.DSD: DsdFigures,
    Part.DISTANCE: DistanceFigures,
    Part.SPECEDGE: SpecEdgeFigures,
}
MAKERS: Final[dict[Part, Any]] = {
    Part.DSI: make_dsi,
    Part.DSD: make_dsd,
    Part.DISTANCE: make_distance,
    Part.SPECEDGE: make_specedge,
}


def make(folder: Path, parts: Sequence[Part], way: Way) -> list[Check]:
    """Simulate these parts, write their figures, and the page with whatever is in the folder by now.

    Returns what was checked of these parts.

    Raises:
        UserError: the folder holds figures that this version cannot read; said before anything is simulated.
    """
    for part in Part:
        if part not in parts:
            read(folder, part, KINDS[part])
    checks: list[Check] = []
    for part in parts:
        write(folder, part, MAKERS[part](way))
        # Read again: what is drawn and told is what the file says.
        figures = read(folder, part, KINDS[part])
        draw(folder, figures)
        checks += getattr(figures, "checks", ())
    (folder / PAGE).write_text(page(folder), encoding="utf-8")
    return checks


def draw(folder: Path, figures: object) -> None:
    """The pictures of one part."""
    match figures:
        case DsiFigures():
            plots.rows(figures.rows, folder)
            plots.heat_maps(figures.cells, folder)
        case DistanceFigures():
            plots.winners(figures.cells, folder)
            plots.break_even(figures.break_evens, figures.cells, folder)
        case SpecEdgeFigures():
            plots.capacity(figures.served, folder)
            plots.equal_waiting(figures.equals, folder)
        case DsdFigures():
            dsd_plots(figures, folder)


def page(folder: Path) -> str:
    """Of the figures in a folder; a part without any says so."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    environment.filters |= {"change": _change, "share": _share}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        command=COMMAND,
        dsi=_dsi(read(folder, Part.DSI, DsiFigures)),
        dsd=_dsd(read(folder, Part.DSD, DsdFigures)),
        distance=_distance(read(folder, Part.DISTANCE, DistanceFigures)),
        specedge=_specedge(read(folder, Part.SPECEDGE, SpecEdgeFigures)),
    )


def _dsi(figures: DsiFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    rows, cells = figures.rows, figures.cells
    gains = [one.si_ms / one.chain_ms for one in rows]
    paper = [one.paper_si_ms / one.chain_ms for one in rows]
    return {
        "figures": figures,
        "own_pass": all(one.passed for one in figures.checks if one.must),
        "product_pass": all(one.passed for one in figures.checks if one.key.startswith("theorem")),
        "never_slower": all(one.passed for one in figures.checks if one.key == "theorem-1"),
        "theorem_2": "; ".join(
            f"{name} in {one.cells - one.failed} of {one.cells} cells, at worst {one.worst - 1.0:+.0%}"
            for name, one in zip(
                ("chain", "its own width"),
                [one for one in figures.checks if one.key == "theorem-2" and not one.must],
                strict=True,
            )
        ),
        "least_claimed": min(one.claimed for one in rows),
        "most_claimed": max(one.claimed for one in rows),
        "rows": {
            "least": min(gains),
            "most": max(gains),
            "paper_least": min(paper),
            "paper_most": max(paper),
            "smaller": sum(gain < one.claimed for gain, one in zip(gains, rows, strict=True)),
            "larger": sum(gain > one.claimed for gain, one in zip(paper, rows, strict=True)),
        },
        "means": {
            "chain": geometric_mean(gains),
            "paper": geometric_mean(paper),
            "policy": geometric_mean([one.si_ms / one.policy_ms for one in rows]),
            "claimed": geometric_mean([one.claimed for one in rows]),
        },
        "over": {
            "ideal": _over([min(one.si, 1.0) / one.ideal.time for one in cells]),
            "chain": _over([min(one.si, 1.0) / one.chain.time for one in cells]),
            "paper": _over([min(one.paper_si, 1.0) / one.chain.time for one in cells]),
            "policy": _over([min(one.si, 1.0) / one.policy.time for one in cells]),
        },
        "si_slower": sum(one.si > 1.0 for one in cells),
    }


def _over(values: Sequence[float]) -> dict[str, float]:
    return {
        "least": min(values),
        "most": max(values),
        "faster": sum(one > 1.001 for one in values),
        "cells": len(values),
    }


def _dsd(figures: DsdFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    in_sync = [one for one in figures.judged if one.drafts is Drafts.SYNC]
    clouds = list(dict.fromkeys(one.cloud for one in figures.on_pool))
    return {
        "figures": figures,
        "met": all(one.met for one in figures.targets),
        "pictures": [f"windows-{one.value.replace(' ', '-')}.png" for one in _modes(figures)]
        + ["windows-gain.png"],
        "ours": ours(figures),
        "sync": [
            {
                "sizer": sizer.value,
                "speed_up": geometric_mean([one.speed_up for one in in_sync if one.sizer is sizer]),
                "more": geometric_mean([1.0 + one.more for one in in_sync if one.sizer is sizer]) - 1.0,
            }
            for sizer in Sizer
        ],
        "arms": list(dict.fromkeys(one.arm.name for one in figures.on_pool)),
        "pool": [(cloud.name, [one for one in figures.on_pool if one.cloud == cloud]) for cloud in clouds],
    }


def _modes(figures: DsdFigures) -> list[Drafts]:
    return list(dict.fromkeys(one.drafts for one in figures.judged))


def _distance(figures: DistanceFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    won = {}
    for arms in (plots.WITHOUT_ASSISTANT, plots.WITH_ASSISTANT):
        found = [distance.winner(one, arms) for one in figures.cells]
        won[len(arms)] = {distance.NAMES[arm]: found.count(arm) for arm in arms}
    acceptances = sorted({one.acceptance for one in figures.break_evens})
    best = [
        max((one for one in figures.break_evens if one.acceptance == value), key=lambda one: one.exact_ms)
        for value in acceptances
    ]
    verdict = {one.key: one.passed for one in figures.checks}
    return {
        "figures": figures,
        "verdict": verdict,
        "plain_wins": won[len(plots.WITHOUT_ASSISTANT)][distance.NAMES["cloud"]]
        + won[len(plots.WITHOUT_ASSISTANT)][distance.NAMES["edge_si"]],
        "formula": verdict.get("necessary", True) and verdict.get("sufficient", True),
        "without": won[len(plots.WITHOUT_ASSISTANT)],
        "with": won[len(plots.WITH_ASSISTANT)],
        "best": best,
        "costs": _costs(figures.cells),
        "reach": _reach(figures.cells),
        "step_ms": distance.STEP_MS,
        "draft_ms": distance.DRAFT_MS,
        "near_ms": distance.NEAR_RTT_MS,
    }


def _costs(cells: Sequence[distance.CellFigures]) -> list[distance.CellFigures]:
    """What a token costs the verifier, by acceptance, where the round trip is nearest to 50 ms."""
    alike = [one for one in cells if one.iid]
    nearest = min({one.rtt_ms for one in alike}, key=lambda rtt_ms: abs(rtt_ms - 50.0))
    return [one for one in alike if one.rtt_ms == nearest]


def _reach(cells: Sequence[distance.CellFigures]) -> list[dict[str, Any]]:
    """The longest simulated round trip at which drafting in flight is not slower than SI in the cloud."""
    found = []
    for iid, acceptance in sorted({(one.iid, one.acceptance) for one in cells}, reverse=True):
        own = [one for one in cells if (one.iid, one.acceptance) == (iid, acceptance)]
        lookahead = own[0].colocated.lookahead or 1
        found.append(
            {
                "iid": iid,
                "acceptance": acceptance,
                "window_ms": lookahead * distance.DRAFT_MS,
                **{
                    arm: max((one.rtt_ms for one in own if one.way(arm).ms <= one.colocated.ms), default=None)
                    for arm in ("chain", "slipstream", "assisted")
                },
            }
        )
    return found


def _specedge(figures: SpecEdgeFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    drafts = sorted({one.draft_ms for one in figures.ratios})
    medians = _medians(figures)
    return {
        "figures": figures,
        "names": {arm.value: name for arm, name in SERVED_NAMES.items()},
        "served": _table(figures, drafts),
        "ratios": sorted(
            (one for one in figures.ratios if one.clients in SHOWN_CLIENTS),
            key=lambda one: (one.draft_ms, one.clients, one.baseline.value),
        ),
        "same": [one for one in figures.equals if one.asked == 0.0 and one.throughput is not None],
        "equal": [one for one in figures.equals if one.asked > 0.0 and one.throughput is not None],
        "medians": medians,
        "words": "; ".join(
            f"{one['name'].rpartition(', ')[2]}: median {one['median']:.2f}, {one['least']:.2f} to {one['most']:.2f}"
            for one in medians
        ),
        "a_server": A_SERVER,
        "cost_words": _cost_words(figures),
        "tokens": capacity.TOKENS,
        "paper": {
            "throughput": capacity.PAPER_THROUGHPUT,
            "cost": capacity.PAPER_COST_EFFICIENCY,
            "itl": capacity.PAPER_LATENCY,
            "edges": capacity.PAPER_THROUGHPUT / capacity.PAPER_COST_EFFICIENCY - 1.0,
        },
    }


def _table(figures: SpecEdgeFigures, drafts: Sequence[float]) -> list[dict[str, Any]]:
    """A line for each drafter and number of clients, with every arm."""
    found = []
    for draft_ms in drafts:
        for clients in sorted({one.clients for one in figures.served}):
            line = {
                one.arm.value: one
                for one in figures.served
                if one.clients == clients and (one.arm is Arm.CLOUD or one.draft_ms == draft_ms)
            }
            found.append({"draft_ms": draft_ms, "clients": clients, **line})
    return found


def _medians(figures: SpecEdgeFigures) -> list[dict[str, Any]]:
    """Over all drafters and limits with `A_SERVER` clients, by the way of counting, at the paper's shorter waiting."""
    found = []
    for arm in (Arm.COLOCATED, Arm.COLOCATED_PAID):
        values = [
            one.throughput
            for one in figures.equals
            if one.baseline is arm and one.asked > 0.0 and one.throughput is not None and _a_server(one)
        ]
        if values:
            found.append(
                {
                    "name": SERVED_NAMES[arm],
                    "median": statistics.median(values),
                    "least": min(values),
                    "most": max(values),
                }
            )
    return found


def _a_server(one: capacity.Equal) -> bool:
    return one.other is not None and one.other.clients >= A_SERVER


def _cost_words(figures: SpecEdgeFigures) -> str:
    """At the paper's shorter waiting."""
    known = [one for one in figures.equals if one.asked > 0.0 and _a_server(one)]
    rented = [one.cost_efficiency for one in known if one.cost_efficiency is not None]
    own = [one.cost_efficiency_own for one in known if one.cost_efficiency_own is not None]
    if not rented or not own:
        return "nothing to compare: the baseline serves too few"
    return (
        f"with a rented device for each client {min(rented):.2f} to {max(rented):.2f}, "
        f"with users' own {min(own):.2f} to {max(own):.2f}"
    )


def _change(value: float) -> str:
    return f"{100.0 * value:+.0f} %"


def _share(value: float) -> str:
    return f"{100.0 * value:.0f} %"
