"""Which enforcer, and what the user is told about it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from scripts.wan import choose
from scripts.wan.__main__ import app
from scripts.wan.choose import CANNOT_SHOW, Enforcer, choose_enforcer, explain, obstacle
from shared.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """A machine on which only some enforcers work."""

    def allows(**obstacles: str):
        monkeypatch.setattr(choose, "obstacle", obstacles.get)

    return allows


def test_packets_come_first(machine):
    machine()
    choice = choose_enforcer(None)
    assert (choice.enforcer, choice.reason, choice.cannot_show) == (Enforcer.TUN, "", "")


def test_the_second_best_says_why(machine):
    machine(tun="no device")
    choice = choose_enforcer(None)
    assert (choice.enforcer, choice.reason) == (Enforcer.NETEM, "no tun: no device")


def test_the_proxy_says_what_it_cannot_show(machine):
    machine(tun="no device", netem="no module")
    choice = choose_enforcer(None)
    assert choice.enforcer is Enforcer.PROXY
    assert choice.reason == "no tun: no device; no netem: no module"
    assert "handshake" in choice.cannot_show
    assert choice.cannot_show == CANNOT_SHOW[Enforcer.PROXY]


def test_what_is_asked_for_is_given_or_refused(machine):
    machine(tun="no device")
    assert choose_enforcer(Enforcer.PROXY).reason == ""
    with pytest.raises(UserError, match="does not allow the enforcer tun: no device"):
        choose_enforcer(Enforcer.TUN)


def test_the_proxy_works_anywhere():
    assert obstacle(Enforcer.PROXY) is None


@pytest.mark.parametrize(
    ("stdout", "stderr", "words"),
    [
        ("EPERM\t\tunshare: no", "", "may not make network namespaces (run it as root"),
        ("EACCES\t/dev/net/tun\tno", "", "may not use /dev/net/tun"),
        ("ENOENT\t/dev/net/tun\tno", "", "there is no /dev/net/tun"),
        ("ENOENT\ttc\tno", "", "no program tc (package iproute2)"),
        ("ENOSYS\t\t`tc qdisc`: unknown", "", "kernel refuses `tc qdisc`: unknown"),
        ("EIO\t\tbroken", "", "broken"),
        ("", "Traceback: odd", "Traceback: odd"),
        ("", "", "without a word"),
    ],
)
def test_a_failed_trial_becomes_advice(stdout: str, stderr: str, words: str):
    assert words in explain(stdout, stderr)


def test_other_systems_have_no_namespaces(monkeypatch):
    monkeypatch.setattr(choose.sys, "platform", "darwin")
    for enforcer in (Enforcer.TUN, Enforcer.NETEM):
        assert obstacle.__wrapped__(enforcer) == "network namespaces are Linux's own"


def test_the_trial_leaves_nothing_and_agrees_with_the_table():
    printed = CliRunner().invoke(app, ["enforcers"]).output
    for enforcer in Enforcer:
        assert enforcer in printed
        missing = obstacle(enforcer)
        assert missing is None or missing[:20] in " ".join(printed.split())
