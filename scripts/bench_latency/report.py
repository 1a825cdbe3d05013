"""One self-contained HTML file and the plots as PNG files, from results alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jinja2

from scripts.bench_latency.check import judge
from scripts.bench_latency.check_report import word
from scripts.bench_latency.codec import encode
from scripts.bench_latency.figures import ArmFigures, CellFigures, Difference
from scripts.bench_latency.plots import Plot, plots
from scripts.bench_latency.records import Results
from scripts.bench_latency.tables import (
    choice_in_words,
    name_of,
    number,
    plain,
    prediction,
    remarks,
    with_interval,
)
from scripts.wan.link import Choice, Enforcer

TEMPLATE: Final = Path(__file__).with_name("report.html.j2")
REPORT: Final = "report.html"
COLUMNS: Final = (
    "TTFT ms",
    "TPOT ms",
    "times as fast as cloud alone",
    "as co-located SI",
    "ITL ms p50 / p95 / p99",
    "commit gap ms p50 / p95 / p99",
    "tokens/s",
    "100th token ms",
    "acceptance",
    "accepted per step",
    "facts/token",
    "steps/token",
    "link B/token up / down",
    "messages B/token up / down",
    "simulated TPOT ms",
    "simulated, nominal",
    "same text",
)


def write_report(
    results: Results, cells: Sequence[CellFigures], found: Sequence[Difference], folder: Path
) -> None:
    """Write `report.html` and one PNG file per plot into `folder`."""
    made = plots(results, cells)
    for plot in made:
        (folder / f"{plot.name}.png").write_bytes(plot.light)
    (folder / REPORT).write_text(html(results, cells, found, made), encoding="utf-8")


def html(
    results: Results, cells: Sequence[CellFigures], found: Sequence[Difference], made: Sequence[Plot]
) -> str:
    """The page. Nothing in it is fetched from elsewhere."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    header, end = results.header, results.end
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        kind={"grid": "Grid", "ablation": "Ablation", "check": "What must hold"}[header.plan.name],
        began=header.began,
        runs=len(results.runs),
        took=f"{end.took_s / 60:.1f} minutes" if end is not None else "",
        state=results.state,
        found=found,
        jobs=header.jobs,
        enforcers=enforcers(results),
        verdicts=judge(results) if header.plan.name == "check" else (),
        word=word,
        plots=made,
        uri=_uri,
        cells=cells,
        columns=COLUMNS,
        name_of=name_of,
        wide_row=wide_row,
        remarks=remarks,
        command=header.command,
        machine=header.machine,
        settings=json.dumps(encode(header.plan), indent=1),
    )


def enforcers(results: Results) -> list[str]:
    """What the emulation of the network cannot show, and why no better one was used; each once."""
    lines = []
    for facts in results.facts:
        if facts.enforcer != "none" and (facts.reason or facts.cannot_show):
            choice = Choice(Enforcer(facts.enforcer), facts.reason, facts.cannot_show)
            lines.append(f"The network was emulated by {choice_in_words(choice)}.")
    return list(dict.fromkeys(lines))


def wide_row(arm: ArmFigures) -> tuple[str, ...]:
    """The figures in the order of `COLUMNS`."""
    return (
        with_interval(arm.ttft_ms, 0),
        with_interval(arm.tpot_ms, 2),
        with_interval(None if arm.to_cloud is None else arm.to_cloud.inverse(), 2),
        with_interval(None if arm.to_colocated is None else arm.to_colocated.inverse(), 2),
        " / ".join(number(one, 1) for one in arm.itl_ms),
        " / ".join(number(one, 1) for one in arm.commit_gap_ms),
        with_interval(arm.tokens_per_s, 1),
        with_interval(arm.hundredth_ms, 0),
        plain(arm.acceptance, 3),
        plain(arm.mean_accepted, 2),
        plain(arm.facts_per_token, 2),
        plain(arm.steps_per_token, 3),
        f"{plain(arm.link_up, 0)} / {plain(arm.link_down, 0)}",
        f"{plain(arm.message_up, 0)} / {plain(arm.message_down, 0)}",
        prediction(arm),
        "-"
        if arm.ideal_ms is None or arm.ideal_error is None
        else f"{arm.ideal_ms:.1f} ({arm.ideal_error:+.1%})",
        "yes" if arm.identical else "NO",
    )


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
