"""The tables of docs/conformance.md, from the rules themselves: `python -m scripts.conformance.page` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from scripts.conformance.edge import ASSIST_RULES
from scripts.conformance.edge import RULES as EDGE_RULES
from scripts.conformance.edge.scripts import ASSIST_SCRIPTS, SCRIPTS
from scripts.conformance.rules import RuleBook, Subject
from scripts.conformance.server import RULES as SERVER_RULES

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def refreshed(page: str) -> str:
    """The page with the tables as they are to be.

    Raises:
        ValueError: a table's place is not marked.
    """
    scripts = ["| script | what the cloud does |", "|---|---|"]
    scripts += [f"| `{script.name}` | {script.says} |" for script in (SCRIPTS | ASSIST_SCRIPTS).values()]
    tables = {
        "server": _rules(SERVER_RULES),
        "edge": _rules(EDGE_RULES),
        "assistant": _rules(ASSIST_RULES),
        "scripts": "\n".join(scripts),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
        before, found, rest = page.partition(begin)
        if not found or end not in rest:
            raise ValueError(f"docs/conformance.md has no place for the table {name!r}")
        page = before + begin + table + end + rest.partition(end)[2]
    return page


def _rules(rules: RuleBook[Subject]) -> str:
    rows = [f"| `{rule.name}` | {rule.where} | {rule.says} |" for rule in rules]
    return "\n".join(
        [f"{len(rules)} rules.", "", "| rule | where it stands | what it says |", "|---|---|---|", *rows]
    )


def write() -> None:
    """Bring the page up to date."""
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
