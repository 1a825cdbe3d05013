"""Laws of a deployment, looked at now and then: after every event, as in a small world, costs too much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.sim import fleet_laws
from shared.sim.clock import SECOND
from shared.sim.server import Server
from shared.sim.setting import LawBroken

QUIET: Final = 15 * SECOND
"""So long after its last generation nothing is left in a server: the grace of any owner is over."""


def look(servers: Sequence[Server]) -> int:
    """Law 4 in every server that is up, now. Returns what it has cost, in pairs of a session and a worker.

    Raises:
        LawBroken: a session that is due is in no worker's step though it could be, or a fact is in flight nowhere.
    """
    for server in servers:
        server.check_progress()
    return sum(len(server.links) * len(server.fleet.workers) for server in servers)


def check_quiet(servers: Sequence[Server]) -> None:
    """Nobody has asked for anything for `QUIET`: no session, stream or fact is left anywhere.

    Raises:
        LawBroken: something is.
    """
    for server in servers:
        if not server.up:
            continue
        if server.front.sessions or server.links:
            raise LawBroken(
                f"{server.front.sessions} sessions and {len(server.links)} streams left in a server"
            )
        if server.front.pool.disagreements:
            raise LawBroken(f"facts disagree: {server.front.pool.disagreements[0]}")
        fleet_laws.check_time(server.fleet)
