"""Several servers that die, freeze and go away: real processes, real signals, every text the target's own."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import socket
from pathlib import Path

import pytest

from cloud_server.app import ServeOptions, serving
from cloud_server.profiled import ProfiledWorker
from cloud_server.security import ServerSecurity
from edge_client.app import Client, ClientOptions, ClientSecurity, GenerateOptions
from scripts.server_faults.__main__ import table
from scripts.server_faults.trial import Fault, Settings, run
from shared.errors import UserError
from shared.policy.servers import Balance
from shared.profiled import Profile

CERTIFICATES = Path(__file__).parent / "certificates"
PROFILE = Profile(step_ms=1.0, vocabulary_size=1000)
DRAFTER = "profiled:draft_ms=0.2,vocabulary_size=1000"
NEAR = Settings(rtt_ms=0.0, step_ms=20.0, tokens=200)
KEEPALIVE_MS = 4_000
"""An edge pings after 2 s of silence and waits 2 s for the answer."""
SLACK_MS = 1_500
"""What a busy machine may add."""


def test_a_server_is_killed_under_sixteen_generations() -> None:
    outcome = run(Fault.KILL, NEAR)
    assert (outcome.sessions, outcome.right) == (16, 16)
    assert outcome.left == outcome.hit > 0
    assert outcome.hit < 16, "the others were elsewhere from the start"
    assert len(outcome.pause_ms) == outcome.hit
    assert max(outcome.pause_ms) < SLACK_MS
    assert any("lost (the connection broke), trying the other servers" in line for line in outcome.notices)


def test_a_frozen_server_is_left_within_the_keepalive_deadline() -> None:
    outcome = run(Fault.FREEZE, dataclasses.replace(NEAR, sessions=4, servers=2, tokens=500))
    assert (outcome.sessions, outcome.right) == (4, 4)
    assert outcome.left == outcome.hit > 0
    assert all(1_500 < pause < KEEPALIVE_MS + SLACK_MS for pause in outcome.pause_ms), outcome.pause_ms
    assert max(outcome.others_ms) < SLACK_MS, "nobody else waits"
    assert any("lost (it stopped answering)" in line for line in outcome.notices)


def test_a_server_that_drains_is_left_at_once() -> None:
    settings = dataclasses.replace(NEAR, sessions=6, rtt_ms=60.0)
    outcome = run(Fault.DRAIN, settings)
    assert (outcome.sessions, outcome.right) == (6, 6)
    assert outcome.left == outcome.hit > 0
    # A round trip to open elsewhere, the step that runs there and the one that is the session's own.
    assert min(outcome.pause_ms) < 60 + 5 * 20 + SLACK_MS / 5
    assert all("is going away: the generation goes on at" in line for line in outcome.notices)


def test_figures_for_people() -> None:
    outcome = run(Fault.DRAIN, Settings(servers=1, sessions=1, tokens=60, rtt_ms=0.0, step_ms=5.0, after=10))
    assert (outcome.right, outcome.hit, outcome.left) == (1, 1, 0), (
        "with one server it is as it was: served to the end"
    )
    assert outcome.notices == ()
    lines = table([outcome], NEAR)
    assert "drained (SIGTERM)" in lines[3]
    assert "1 of 1" in lines[3]
    assert not any("nan" in line for line in lines)
    assert math.isfinite(outcome.pause_ms[0])


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("drafts", [False, True])
def test_far_away_and_crowded(fault: Fault, drafts: bool) -> None:
    tokens = 900 if fault is Fault.FREEZE else 300
    outcome = run(fault, Settings(sessions=24, tokens=tokens, rtt_ms=120.0, drafts=drafts))
    assert outcome.right == outcome.sessions
    assert outcome.left == outcome.hit


# ---- a name with several addresses, with TLS ----


def records(monkeypatch: pytest.MonkeyPatch, name: str, hosts: list[str]) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **more):
        if host != name:
            return real(host, port, *args, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(("name", "fits"), [("cloud.test", True), ("elsewhere.test", False)])
async def test_the_certificates_are_for_the_name_wherever_it_leads(
    name: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ["127.0.0.2", "127.0.0.3"]
    records(monkeypatch, name, hosts)
    security = ServerSecurity(tls_cert=CERTIFICATES / "server.crt", tls_key=CERTIFICATES / "server.key")
    async with contextlib.AsyncExitStack() as stack:
        port = 0
        for host in hosts:
            options = ServeOptions(listen=f"{host}:{port}", security=security)
            up = await stack.enter_async_context(serving(ProfiledWorker(PROFILE), options))
            port = int(up.address.rpartition(":")[2])
        trusting = ClientSecurity(tls_ca=CERTIFICATES / "authority.crt")
        options = ClientOptions(f"{name}:{port}", DRAFTER, security=trusting, balance=Balance.HASH)
        if not fits:
            with pytest.raises(UserError, match=r"is not for elsewhere\.test"):
                await Client(options).__aenter__()
            return
        async with Client(options) as client:
            results = [await client.generate(GenerateOptions((number,), 5)) for number in range(12)]
    assert {result.stats.servers for result in results} == {(f"{host}:{port}",) for host in hosts}
