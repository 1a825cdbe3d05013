"""`python -m scripts.conformance`: our own server as anybody starts it, and what is said where nothing can be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.conformance.__main__ import run
from scripts.conformance.server import RULES
from scripts.processes import child, python
from tests.conformance.own import looked_at, running

SKIPPED_THERE = {
    "attaching-is-offered",
    "drain-is-said-once-and-streams-are-served",
    "log-fits-the-context",
    "nothing-comes-before-opened",
    "nothing-is-added-to-the-stop-tokens",
    "the-context-closes-the-log",
    "watching-tells-of-each-session-once",
    "without-a-token-nobody-gets-in",
}
"""Rules that need a token, a hand on the server, a smaller context, or a model with stop tokens."""
TAKES_LONG = {
    "depth-is-limited",
    "laggards-are-ended",
    "messages-in-a-second-are-limited",
    "the-cloud-runs-ahead-of-what-was-seen",
}
"""With the default limits a busy machine may be too slow for these, and says so."""


def test_our_server_with_its_default_limits(capsys: pytest.CaptureFixture[str]) -> None:
    command = python(
        *("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", "profiled:step_ms=0.3")
    )
    with child("server", command) as server:
        assert run([server.address, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["rule"] for row in rows] == [rule.name for rule in RULES]
    skipped = {row["rule"]: row["detail"] for row in rows if row["outcome"] == "skipped"}
    assert set(skipped) - TAKES_LONG == SKIPPED_THERE
    assert all(skipped.values())


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as own, looked_at(own):
        assert run([own.up.address, "--rule", "open-comes-once", "--rule", "sampling-is-valid"]) == 0
    said = capsys.readouterr().out
    assert "sampling-is-valid" in said
    assert "2 kept, 0 broken, 0 skipped" in said


def test_a_broken_rule_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.session.front.CloudSession.continued_by", lambda *_: False)
    with running() as own, looked_at(own):
        assert run([own.up.address, "--rule", "the-owner-comes-back"]) == 1
    assert "Opened names another" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to check"),
        (["127.0.0.1:1", "--edge", "true"], "say what to check"),
        (["127.0.0.1:1", "--cert", "x"], "name the server's authority"),
        (["127.0.0.1:1", "--token-file", "no-such-file"], "cannot be read"),
        (["--edge", "true", "--rule", "nonsense"], "no such rule: nonsense"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_what_the_user_can_mend_is_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert words in capsys.readouterr().err


def test_nobody_there_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.conformance.dial.DEADLINE_S", 0.2)
    assert run(["127.0.0.1:1"]) == 2
    assert "no server answers at 127.0.0.1:1" in capsys.readouterr().err


def test_tls_and_a_token(tmp_path: Path) -> None:
    certificates = Path(__file__).parents[1] / "e2e" / "certificates"
    (tmp_path / "token").write_text("a-token-of-the-command")
    (tmp_path / "token").chmod(0o600)
    command = [
        *("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", "profiled:step_ms=0.3"),
        *("--tls-cert", str(certificates / "server.crt"), "--tls-key", str(certificates / "server.key")),
        *("--tls-client-ca", str(certificates / "authority.crt")),
        *("--token-file", str(tmp_path / "token")),
    ]
    rules = ("without-a-token-nobody-gets-in", "health-stands-beside-it", "right-drafts-are-accepted")
    with child("server", python(*command)) as server:
        port = server.address.rpartition(":")[2]
        access = [
            *("--ca", str(certificates / "authority.crt"), "--cert", str(certificates / "client.crt")),
            *("--key", str(certificates / "client.key"), "--token-file", str(tmp_path / "token")),
        ]
        chosen = [word for rule in rules for word in ("--rule", rule)]
        assert run([f"localhost:{port}", *access, *chosen]) == 0
