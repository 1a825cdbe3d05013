"""The verdicts in a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.bench_latency.check import Verdict
from scripts.bench_latency.codec import encode


def show_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """PASS, FAIL, or why it cannot be judged."""
    table = Table(title="What must hold", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in ("", "rule", "where", "measured", "must be"):
        table.add_column(name)
    for one in verdicts:
        table.add_row(f"[{_style(one)}]{word(one)}[/]", one.rule, one.place, one.measured, one.limit)
    console.print(table)
    passed, judged = (
        sum(one.passed is True for one in verdicts),
        sum(one.passed is not None for one in verdicts),
    )
    console.print(f"{passed} of {judged} hold; {len(verdicts) - judged} could not be judged.")


def write_verdicts(verdicts: Sequence[Verdict], path: Path) -> None:
    """As a JSON list."""
    path.write_text(json.dumps([encode(one) for one in verdicts], indent=1) + "\n", encoding="utf-8")


def word(verdict: Verdict) -> str:
    """In one word."""
    return {True: "PASS", False: "FAIL", None: "?"}[verdict.passed]


def _style(verdict: Verdict) -> str:
    return {True: "green", False: "bold red", None: "yellow"}[verdict.passed]
