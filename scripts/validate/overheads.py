"""What the runtime adds to what a profile and a link say, measured once on this machine and told to every simulation.

Three constants in real milliseconds, the same for all rows: they are not stretched, and no row has any of its own.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scripts.bench_latency.arms import CLOUD
from scripts.bench_latency.cell_run import CellRun
from scripts.bench_latency.deployment import Deployment
from scripts.bench_latency.plan import Cell, Pair
from scripts.bench_latency.records import CellFacts, Record
from scripts.bench_latency.stations import open_stations
from scripts.wan.link import Enforcer
from scripts.wan.profiles import WanProfile
from shared.profiled import parse_profile

SOURCE: Final = "profiled:acceptance=0.8,step_ms=30,draft_ms=3"
RTT_MS: Final = 14.0
PROBES: Final = 3


@dataclass(frozen=True, slots=True)
class Overheads:
    """See `measure`."""

    step_ms: float = 0.0
    """Between two steps of the server, beside the step: its event loop, its thread, the granularity of its timer."""
    forward_ms: float = 0.0
    """From the wish for a drafter's forward to its answer, beside the forward."""
    message_ms: float = 0.0
    """Of a message's way through gRPC, each direction, beside the link."""


NONE: Final = Overheads()


def measure(enforcer: Enforcer | None) -> Overheads:
    """By the probes of the latency benchmark: one client, plain decoding, chains and trees, unstretched.

    The median of several: one hiccup of the machine in one of them would be believed of every row.

    Raises:
        UserError: the enforcer is not possible here.
        ChildError: something does not come up, or breaks.
    """
    profile = parse_profile(SOURCE)
    cell = Cell("probe", Pair(SOURCE, SOURCE, profile), WanProfile(RTT_MS), (CLOUD,), (), tokens=1)
    found: list[Record] = []
    with contextlib.ExitStack() as stack:
        stations = open_stations(cell, Deployment(enforcer=enforcer), 0, stack)
        for _ in range(PROBES):
            CellRun(cell, stations, found.append, threading.Event()).run()
    facts = [one for one in found if isinstance(one, CellFacts)]
    return Overheads(
        step_ms=_beyond(profile.step_ms, [one.overheads.step_ms for one in facts]),
        forward_ms=_beyond(profile.draft_ms, [one.believed.draft_ms for one in facts]),
        message_ms=_beyond(RTT_MS / 2, [one.overheads.rtt_ms / 2 for one in facts]),
    )


def _beyond(said_ms: float, felt_ms: Sequence[float]) -> float:
    return round(max(0.0, statistics.median(felt_ms) - said_ms), 4)
