"""Which enforcer this machine allows: found by trying it in a process that ends at once, never by guessing."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from scripts.processes import ROOT, python
from shared.errors import UserError

TRIAL_S: Final = 20.0


class Enforcer(StrEnum):
    """What makes the link as bad as its profile says; the best first."""

    TUN = "tun"
    """A user-space router between two network namespaces: packets, and the kernel's own TCP above them."""
    NETEM = "netem"
    """The kernel's own emulator on a namespace in the middle."""
    PROXY = "proxy"
    """A TCP proxy: needs no privilege."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which enforcer, and what the user should know about it."""

    enforcer: Enforcer
    reason: str
    """Why not a better one; empty: it is the best."""
    cannot_show: str
    """What a figure measured over it does not contain; empty: nothing."""


CANNOT_SHOW: Final = {
    Enforcer.TUN: "",
    Enforcer.NETEM: "",
    Enforcer.PROXY: (
        "the delay of the TCP handshake, and lost packets with what TCP does about them: here a loss is a wait as long "
        "as TCP's, and never lowers the rate"
    ),
}


def choose_enforcer(asked: Enforcer | None) -> Choice:
    """The best enforcer that this machine allows, or the one asked for.

    Raises:
        UserError: the machine does not allow the one asked for; says what is missing.
    """
    if asked is not None:
        missing = obstacle(asked)
        if missing is not None:
            raise UserError(f"this machine does not allow the enforcer {asked}: {missing}")
        return Choice(asked, "", CANNOT_SHOW[asked])
    reasons: list[str] = []
    for enforcer in Enforcer:
        missing = obstacle(enforcer)
        if missing is None:
            return Choice(enforcer, "; ".join(reasons), CANNOT_SHOW[enforcer])
        reasons.append(f"no {enforcer}: {missing}")
    raise AssertionError("the proxy works anywhere")


@functools.cache
def obstacle(enforcer: Enforcer) -> str | None:
    """What keeps it from working here; None: nothing."""
    if enforcer is Enforcer.PROXY:
        return None
    if sys.platform != "linux":
        return "network namespaces are Linux's own"
    try:
        trial = subprocess.run(
            python("-m", "scripts.wan.trial", enforcer),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"trying it took more than {TRIAL_S:g} s"
    if trial.returncode == 0:
        return None
    return explain(trial.stdout, trial.stderr)


def explain(stdout: str, stderr: str) -> str:
    """A failed trial in words that the user can act on."""
    name, _, rest = stdout.strip().partition("\t")
    path, _, what = rest.partition("\t")
    match name, path:
        case (("EPERM" | "EACCES"), ""):
            return "this user may not make network namespaces (run it as root, or with sudo)"
        case (("EPERM" | "EACCES"), _):
            return f"this user may not use {path} (run it as root, or let this user open it)"
        case (("ENOENT" | "ENODEV" | "ENXIO"), "/dev/net/tun"):
            return "there is no /dev/net/tun (modprobe tun; for a container: --device /dev/net/tun)"
        case "ENOENT", ("ip" | "tc"):
            return f"there is no program {path} (package iproute2)"
        case "ENOSYS", _:
            return f"the kernel refuses {what} (modprobe sch_netem)"
        case _:
            return what or stderr.strip() or "it ends without a word"
