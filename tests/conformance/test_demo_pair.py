"""Every rule once more where the target is a model: the demo pair's, in float32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloud_server.model import load_model
from cloud_server.verifier import Verifier
from scripts.conformance.rules import SkippedError, run
from scripts.conformance.server import RULES, Server
from tests.conformance.own import guarded
from tests.e2e.reference import TARGET

NOT_HERE = {"attaching-is-offered"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with guarded(tmp_path_factory.mktemp("demo"), Verifier(load_model(TARGET, "cpu", "float32"))) as server:
        yield server


@pytest.mark.parametrize("name", [rule.name for rule in RULES if not rule.last])
def test_demo(name: str, demo: Server) -> None:
    try:
        run(RULES[name], demo)
    except SkippedError as why:
        if name not in NOT_HERE:
            pytest.fail(f"not checked with the demo pair: {why}")
        pytest.skip(str(why))
