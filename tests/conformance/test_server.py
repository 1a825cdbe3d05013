"""Every rule for servers: on our own server, or on the one that --server names."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.conformance.dial import Access
from scripts.conformance.rules import SkippedError, run
from scripts.conformance.server import RULES, Server
from tests.conformance.own import guarded

NOT_OURS = {"attaching-is-offered"}
"""Rules about what our server does not do: it takes attached streams."""


@pytest.mark.parametrize("name", [rule.name for rule in RULES if not rule.last])
def test_server(name: str, server: Server, foreign: Access | None) -> None:
    check(name, server, foreign)


@pytest.mark.parametrize("name", [rule.name for rule in RULES if rule.last])
def test_server_that_goes_away(
    name: str, request: pytest.FixtureRequest, foreign: Access | None, tmp_path: Path
) -> None:
    if foreign is not None:
        check(name, request.getfixturevalue("server"), foreign)
        return
    with guarded(tmp_path) as server:
        check(name, server, foreign)


def check(name: str, server: Server, foreign: Access | None) -> None:
    try:
        run(RULES[name], server)
    except SkippedError as why:
        if foreign is None and name not in NOT_OURS:
            pytest.fail(f"not checked on our own server: {why}")
        pytest.skip(str(why))
