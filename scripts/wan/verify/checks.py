"""What is asked of each figure, and how far from it is still right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scripts.wan.choose import Enforcer
from scripts.wan.profiles import WanProfile
from scripts.wan.verify.edge import Counted, Measured
from scripts.wan.verify.trace import (
    Event,
    Pattern,
    Probe,
    analyse,
    errors,
    find_handover,
    find_outage,
    imagined,
    passages,
    quantile,
    replay,
)

RUNS: Final = 30
"""Where the model's draws may not be the emulator's: their mean is asked for, three standard deviations are chance."""
SIGMAS: Final = 3.0
DELAY_MS: Final = 1.0
"""How wrong a delay may be, beyond chance: what the emulator adds on its own account."""
TAIL_MS: Final = 2.0
LATE_PERCENT: Final = 0.5
RATE_SHARE: Final = 0.03
STREAM_SHARE: Final = 0.06
"""Of a rate measured by a stream, whose beginning and end are part of it."""
HANDSHAKE_MS: Final = 3.0
EVENT_MS: Final = 15.0
"""How wrong the length of an event may be: two probes' distance and a machine that is busy."""


BEGINS_MS: Final = 500.0
"""After the link's beginning, about: how long the probing programs take to start."""
FLOORS: Final[Mapping[str, tuple[str, str, float]]] = {
    "rtt_p50_ms": ("RTT p50", "ms", DELAY_MS),
    "rtt_p95_ms": ("RTT p95", "ms", TAIL_MS),
    "jitter_ms": ("jitter", "ms", DELAY_MS),
    "up_p50_ms": ("up p50", "ms", DELAY_MS),
    "down_p50_ms": ("down p50", "ms", DELAY_MS),
    "late_percent": ("late", "%", LATE_PERCENT),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One figure."""

    name: str
    unit: str
    asked: float | None
    """None: nothing is asked, the figure is told."""
    achieved: float | None
    """None: this enforcer cannot show it."""
    tolerance: float = 0.0

    @property
    def passed(self) -> bool | None:
        """None: nothing was asked or nothing can be shown."""
        if self.asked is None or self.achieved is None:
            return None
        return abs(self.achieved - self.asked) <= self.tolerance


def check_delays(profile: WanProfile, enforcer: Enforcer, probes: Sequence[Probe]) -> list[Check]:
    """Round trips, jitter, each way's delay, what loss makes late, and each round trip's own error."""
    runs = [replay(probes, *passages(profile, enforcer, seed)) for seed in seeds(enforcer)]
    asked, seen = [analyse(run, profile.rtt_ms) for run in runs], analyse(probes, profile.rtt_ms)
    found = []
    for figure, (name, unit, floor) in FLOORS.items():
        if figure == "late_percent" and enforcer is not Enforcer.PROXY:
            continue  # a lost packet is lost there, and none waits for it
        achieved = getattr(seen, figure)
        found.append(_against_runs(name, unit, floor, [getattr(run, figure) for run in asked], achieved))
    if enforcer is not Enforcer.NETEM:
        late = errors(probes, runs[0])
        found.append(Check("error p50", "ms", 0.0, quantile(late, 0.5), DELAY_MS))
        if enforcer is Enforcer.TUN:
            found.append(Check("error p95", "ms", 0.0, quantile(late, 0.95), TAIL_MS))
    return found


def seeds(enforcer: Enforcer) -> range:
    """What keys the model's draws: the emulator's own seed, and more where that does not settle every draw.

    The kernel draws for netem. The proxy draws for what it reads at once, and after a wait several probes come at once.
    """
    return range(1 if enforcer is Enforcer.TUN else RUNS)


def check_loss(profile: WanProfile, counted: Counted | None) -> list[Check]:
    """Share of packets, each way; four standard deviations of a binomial draw and one packet are chance."""
    found = []
    ways = (("loss up", profile.up.loss), ("loss down", profile.down.loss))
    sizes = (
        (None, None)
        if counted is None
        else (
            (counted.sent, counted.arrived),
            (counted.arrived, counted.returned),
        )
    )
    for (name, loss), size in zip(ways, sizes, strict=True):
        if size is None:
            found.append(Check(name, "%", loss * 100, None))
            continue
        sent, arrived = size
        chance = 4 * math.sqrt(sent * loss * (1 - loss)) + 1
        found.append(Check(name, "%", loss * 100, 100 * (1 - arrived / sent), 100 * chance / sent))
    return found


def check_rates(profile: WanProfile, measured: Measured, enforcer: Enforcer) -> list[Check]:
    """Rates each way by a flood of packets; what a TCP stream gets out of the link is told beside it."""
    found = []
    for name, kbit, packets, stream in (
        ("rate up", profile.up_kbit, measured.up_kbit, measured.tcp_up_kbit),
        ("rate down", profile.down_kbit, measured.down_kbit, measured.tcp_down_kbit),
    ):
        asked = kbit / 1000 if kbit else None
        if enforcer is Enforcer.PROXY:  # it has no congestion control: the stream's rate is the link's
            found.append(Check(name, "Mbit/s", asked, _mbit(stream), (asked or 0.0) * STREAM_SHARE))
        else:
            found.append(Check(name, "Mbit/s", asked, _mbit(packets), (asked or 0.0) * RATE_SHARE))
            found.append(Check(name.replace("rate", "TCP"), "Mbit/s", None, _mbit(stream)))
    return found


def check_handshake(profile: WanProfile, measured: Measured, enforcer: Enforcer) -> Check:
    """A connection takes a round trip to make. The proxy makes it on this machine."""
    achieved = None if enforcer is Enforcer.PROXY else measured.connect_ms
    return Check("connect", "ms", profile.rtt_ms, achieved, HANDSHAKE_MS + 0.75 * profile.jitter_ms)


def check_events(
    profile: WanProfile, enforcer: Enforcer, pattern: Pattern, probes: Sequence[Probe]
) -> list[Check]:
    """How long an outage and a handover last, and what a handover adds."""
    found = []
    sent = imagined(pattern, BEGINS_MS)
    runs = [replay(sent, *passages(profile, enforcer, seed)) for seed in range(RUNS)]
    if profile.outage is not None:
        found.append(_of_event("outage", "lasts_ms", find_outage, runs, probes))
    if profile.handover is not None:
        extra = profile.handover.extra_rtt_ms

        def find(run: Sequence[Probe]) -> Event:
            return find_handover(run, extra)

        found.append(_of_event("handover lasts", "lasts_ms", find, runs, probes))
        found.append(_of_event("handover adds", "extra_ms", find, runs, probes))
    return found


def _of_event(
    name: str,
    figure: str,
    find: Callable[[Sequence[Probe]], Event],
    runs: Sequence[Sequence[Probe]],
    probes: Sequence[Probe],
) -> Check:
    floor = EVENT_MS if figure == "lasts_ms" else TAIL_MS
    return _against_runs(
        name, "ms", floor, [getattr(find(run), figure) for run in runs], getattr(find(probes), figure)
    )


def _against_runs(name: str, unit: str, floor: float, runs: Sequence[float], achieved: float) -> Check:
    mean = sum(runs) / len(runs)
    spread = math.sqrt(sum((run - mean) ** 2 for run in runs) / max(len(runs) - 1, 1))
    return Check(name, unit, mean, achieved, floor + SIGMAS * spread)


def _mbit(kbit: float | None) -> float | None:
    return None if kbit is None else kbit / 1000
