"""docs/conformance.md lists the rules that there are, and the scripts need nothing of this project but the contract."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts.conformance.edge import ASSIST_RULES
from scripts.conformance.edge import RULES as EDGE_RULES
from scripts.conformance.page import PAGE, refreshed
from scripts.conformance.server import RULES as SERVER_RULES
from tests.conformance import broken_servers
from tests.conformance.test_edge import BROKEN as BROKEN_EDGES

SCRIPTS = Path(__file__).parents[2] / "scripts" / "conformance"
OUTSIDE = {"__main__.py", "launch.py"}
"""They start processes and print tables: no part of an exchange."""
ALLOWED = ("grpc", "google.protobuf", "scripts.conformance", "shared.pb")


def test_the_page_is_fresh() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert refreshed(page) == page, "run `python -m scripts.conformance.page`"


def test_a_table_without_a_place_is_told() -> None:
    with pytest.raises(ValueError, match="no place for the table 'server'"):
        refreshed("")


def test_the_page_says_how_many_are_broken() -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert (
        f"breaks the server in {len(broken_servers.BROKEN)} ways and the small edge in {len(BROKEN_EDGES)},"
        in page
    )


@pytest.mark.parametrize("rules", [SERVER_RULES, EDGE_RULES, ASSIST_RULES])
def test_every_rule_says_where_it_stands(rules) -> None:
    contract = SCRIPTS.parents[1] / "proto"
    proto = (contract / "slipstream" / "v1" / "slipstream.proto").read_text(encoding="utf-8")
    readme = (contract / "README.md").read_text(encoding="utf-8")
    for rule in rules:
        kind, _, section = rule.where.partition(": ")
        if kind == "README":
            assert f"# {section}\n" in readme or f"**{section}.**" in readme, rule
        elif kind == "slipstream.proto":
            assert section in proto, rule
        else:
            message, _, field = kind.partition(".")
            body = proto.partition(f" {message} {{")[2] or proto.partition(f"rpc {message}(")[2]
            assert body, rule
            assert field in body, rule


def test_the_exchanges_need_the_contract_alone() -> None:
    found = []
    for path in SCRIPTS.rglob("*.py"):
        if path.name in OUTSIDE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            own = [
                name
                for name in names
                if name.partition(".")[0] in ("shared", "scripts", "edge_client", "cloud_server")
            ]
            found += [(path.name, name) for name in own if not name.startswith(ALLOWED)]
    assert found == []
