"""The rules are sharp: a server that breaks one of them is caught, by that one."""

from __future__ import annotations

import pytest

from scripts.conformance.rules import BrokenError, run
from scripts.conformance.server import RULES
from tests.conformance.broken_servers import BROKEN
from tests.conformance.own import looked_at, running


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_server_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, rule, words = BROKEN[name]
    patch(monkeypatch)
    with running() as own, looked_at(own) as server:
        server.deadline_s = 3.0  # for what a broken one never says
        with pytest.raises(BrokenError) as caught:
            run(RULES[rule], server)
        assert words in str(caught.value)
