"""Results as one self-contained HTML file with its plots, and the plots as PNG files beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jinja2
import yaml

from scripts.simulate.grid import Grid
from scripts.simulate.load import digest
from scripts.simulate.plots import Plot
from scripts.simulate.schema import Scenario

TEMPLATE: Final = Path(__file__).with_name("report.html.j2")
REPORT: Final = "report.html"


def write_report(
    folder: Path,
    *,
    kind: str,
    scenario: Scenario,
    grids: Sequence[Grid],
    plots: Sequence[Plot],
    command: str,
) -> Path:
    """Write `report.html` and a PNG file per plot into a folder, which is made; returns the page's place."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        (folder / f"{plot.name}.png").write_bytes(plot.png)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        kind=kind,
        scenario=scenario,
        digest=digest(scenario),
        grids=grids,
        plots=[(plot, base64.b64encode(plot.png).decode()) for plot in plots],
        command=command,
        resolved=yaml.safe_dump(scenario.model_dump(mode="json", exclude_unset=True), sort_keys=False),
    )
    where = folder / REPORT
    where.write_text(page, encoding="utf-8")
    return where
