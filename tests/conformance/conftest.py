"""Where the scripts go: to our own server and edge, or to those that the command line names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.conformance.dial import Access, dial
from scripts.conformance.server import Server
from tests.conformance.own import guarded


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "what the scripts of tests/conformance look at")
    group.addoption("--server", metavar="HOST:PORT", help="Check this server in the place of our own.")
    group.addoption("--ca", type=Path, help="Its authority, PEM: it speaks TLS.")
    group.addoption("--cert", type=Path, help="The certificate to present to it, PEM.")
    group.addoption("--key", type=Path, help="Its key.")
    group.addoption("--token-file", type=Path, help="The token that it wants.")
    group.addoption("--watch-token-file", type=Path, help="One that it has set aside for WatchSessions.")
    group.addoption("--edge", metavar="COMMAND", help="Check this edge; see docs/conformance.md.")
    group.addoption("--assist", metavar="COMMAND", help="Check this assistant.")


@pytest.fixture(scope="session")
def foreign(request: pytest.FixtureRequest) -> Access | None:
    """The server that the command line names."""
    # Where pytest was not begun in this folder it has not read the options above.
    said = {
        name: request.config.getoption(name, default=None)
        for name in ("server", "ca", "cert", "key", "token_file", "watch_token_file")
    }
    return None if said["server"] is None else Access(**said)


@pytest.fixture(scope="module")
def server(foreign: Access | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What is looked at: in a module of tests always the same one."""
    with contextlib.ExitStack() as stack:
        if foreign is not None:
            yield stack.enter_context(dial(foreign))
        else:
            yield stack.enter_context(guarded(tmp_path_factory.mktemp("server")))
