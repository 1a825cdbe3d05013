"""What podman's bridge networks leave behind on a machine that had none: forwarding, and chains of iptables."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
OURS: Final = "NETAVARK"
"""In the name of every chain of podman's, and in every rule that leads to one."""


@contextlib.contextmanager
def networks_as_before() -> Iterator[None]:
    """Forwarding and podman's iptables rules are afterwards as they were; rules of others are not touched."""
    forwarding, rules = FORWARDING.read_text(encoding="ascii"), _rules()
    try:
        yield
    finally:
        for table, line in undo(rules, _rules()):
            subprocess.run(["iptables", "-w", "-t", table, *line], check=True, capture_output=True)
        if FORWARDING.read_text(encoding="ascii") != forwarding:
            FORWARDING.write_text(forwarding, encoding="ascii")


def undo(before: str, after: str) -> list[tuple[str, list[str]]]:
    """Table and arguments of iptables that take podman's new rules away, then its chains, which must be empty to go."""
    known = set(_entries(before))
    new = [entry for entry in _entries(after) if entry not in known and OURS in entry[1]]
    rules = [(table, ["-D", *shlex.split(line)[1:]]) for table, line in new if line.startswith("-A ")]
    chains = [(table, ["-X", line[1:].split()[0]]) for table, line in new if line.startswith(":")]
    return rules + chains


def _rules() -> str:
    return subprocess.run(["iptables-save"], check=True, capture_output=True, text=True).stdout


def _entries(listing: str) -> list[tuple[str, str]]:
    """Table and line of each rule and chain, without the chains' counters."""
    table, entries = "", []
    for line in listing.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith((":", "-A ")):
            entries.append((table, line.partition(" [")[0]))
    return entries
