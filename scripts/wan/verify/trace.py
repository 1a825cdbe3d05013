"""Probes over a link: what a run of them looked like, measured or made by the link model itself.

What a profile asks for is the model's own answer to the very probes that were sent: its lanes are fed with the times
at which they left, and with the same seed they draw the same jitter and the same fate for each. So a measured probe has
one right time of arrival, and chance has no part in the comparison. Where that does not settle every draw, many seeds
take the place of one, and their spread is chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Protocol

from scripts.wan.choose import Enforcer
from scripts.wan.lane import Lane
from scripts.wan.profiles import WanProfile
from scripts.wan.proxy import stream_salt
from scripts.wan.router import PacketLane, packet_salt
from shared.link import NANOSECONDS_PER_MS

UDP_BYTES: Final = 60
"""A probe as an IP packet."""
TCP_BYTES: Final = 32
"""A probe in a stream, without headers: so the proxy counts."""
GREETING: Final = b"e"
"""What goes before the probes on a stream."""
LATE: Final = 0.6
"""Of a round trip: a probe later than that is not jitter."""
PAUSE_MS: Final = 50.0
"""Without a long round trip: a handover is over."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """When probes are sent."""

    count: int
    interval_ms: float


@dataclass(frozen=True, slots=True)
class Probe:
    """One round trip; None: it did not arrive."""

    sent_ms: float
    up_ms: float | None
    rtt_ms: float | None

    @property
    def down_ms(self) -> float | None:
        """The way back."""
        return None if self.rtt_ms is None or self.up_ms is None else self.rtt_ms - self.up_ms


@dataclass(frozen=True, slots=True)
class Figures:
    """What is said about a run of probes."""

    rtt_p50_ms: float
    rtt_p95_ms: float
    jitter_ms: float
    """Half the distance between the 16th and the 84th percentile of the round trips: robust against a stray one."""
    up_p50_ms: float
    down_p50_ms: float
    late_percent: float
    """Round trips that took much longer than most: losses that became waits."""


@dataclass(frozen=True, slots=True)
class Event:
    """What an outage or a handover looked like."""

    lasts_ms: float
    extra_ms: float


class Passage(Protocol):
    """One direction of the model."""

    def arrive(self, sent: int) -> int | None:
        """When the next probe, sent at that time (ns), arrives; None: it is lost."""
        ...


class PacketPassage:
    """Probes as packets."""

    def __init__(self, lane: PacketLane) -> None:
        self._lane = lane

    def arrive(self, sent: int) -> int | None:
        """See `Passage`."""
        self._lane.push(sent, bytes(UDP_BYTES))
        due = self._lane.next_due()
        if due is not None:
            self._lane.pop(due)
        return due


class StreamPassage:
    """Probes as messages of one stream, `before` which something else was sent."""

    def __init__(self, lane: Lane, before: bytes) -> None:
        self._lane = lane
        self._before = before

    def arrive(self, sent: int) -> int | None:
        """See `Passage`."""
        if self._before:
            self._arrive(sent, self._before)
            self._before = b""
        return self._arrive(sent, bytes(TCP_BYTES))

    def _arrive(self, sent: int, data: bytes) -> int | None:
        self._lane.push(sent, data)
        due = self._lane.next_due()
        if due is not None:
            self._lane.pop(due)
        return due


def passages(profile: WanProfile, enforcer: Enforcer, seed: int) -> tuple[Passage, Passage]:
    """Up and down, as the enforcer makes them for the first stream or the first packets of a link."""
    ways = (profile.up, profile.down)
    if enforcer is Enforcer.PROXY:
        lanes = [
            Lane(way, stream_salt(seed, 0, n), round_trip_ms=profile.rtt_ms) for n, way in enumerate(ways)
        ]
        return StreamPassage(lanes[0], GREETING), StreamPassage(lanes[1], b"")
    up, down = (PacketPassage(PacketLane(way, packet_salt(seed, n))) for n, way in enumerate(ways))
    return up, down


def replay(probes: Sequence[Probe], up: Passage, down: Passage) -> list[Probe]:
    """The model's answer to probes that were sent; the way back begins when they were seen at the far end."""
    found = []
    for probe in probes:
        sent = round(probe.sent_ms * NANOSECONDS_PER_MS)
        there = up.arrive(sent)
        seen = there if probe.up_ms is None else round((probe.sent_ms + probe.up_ms) * NANOSECONDS_PER_MS)
        if there is None or seen is None:
            found.append(Probe(probe.sent_ms, None, None))
            continue
        back = down.arrive(seen)
        up_ms = (there - sent) / NANOSECONDS_PER_MS
        rtt_ms = None if back is None else up_ms + (back - seen) / NANOSECONDS_PER_MS
        found.append(Probe(probe.sent_ms, up_ms, rtt_ms))
    return found


def imagined(pattern: Pattern, begins_ms: float) -> list[Probe]:
    """Probes that nobody has sent, for `replay`."""
    return [Probe(begins_ms + n * pattern.interval_ms, None, None) for n in range(pattern.count)]


def errors(measured: Sequence[Probe], asked: Sequence[Probe]) -> list[float]:
    """How much later than asked each round trip was (ms), sorted."""
    pairs = zip(measured, asked, strict=True)
    return sorted(
        one.rtt_ms - two.rtt_ms for one, two in pairs if one.rtt_ms is not None and two.rtt_ms is not None
    )


def analyse(probes: Sequence[Probe], rtt_ms: float) -> Figures:
    """Figures of those that came back; `rtt_ms` says what is late.

    Raises:
        ValueError: hardly any came back.
    """
    trips = sorted(probe.rtt_ms for probe in probes if probe.rtt_ms is not None)
    if len(trips) < max(len(probes) / 4, 5):
        raise ValueError(f"only {len(trips)} of {len(probes)} probes came back")
    middle = quantile(trips, 0.5)
    limit = middle + max(LATE * rtt_ms, 10.0)
    return Figures(
        rtt_p50_ms=middle,
        rtt_p95_ms=quantile(trips, 0.95),
        jitter_ms=(quantile(trips, 0.84) - quantile(trips, 0.16)) / 2,
        up_p50_ms=median(probe.up_ms for probe in probes if probe.up_ms is not None),
        down_p50_ms=median(probe.down_ms for probe in probes if probe.down_ms is not None),
        late_percent=100 * sum(trip > limit for trip in trips) / len(trips),
    )


def find_outage(probes: Sequence[Probe]) -> Event:
    """The longest time between two arrivals at the far end, less the distance of probes."""
    arrivals = sorted(probe.sent_ms + probe.up_ms for probe in probes if probe.up_ms is not None)
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(arrivals))
    return Event(gaps[-1] - quantile(gaps, 0.5), 0.0)


def find_handover(probes: Sequence[Probe], extra_rtt_ms: float) -> Event:
    """How long round trips were longer by more than half of `extra_rtt_ms`, and by how much in the middle of that."""
    back = [(probe.sent_ms, probe.rtt_ms) for probe in probes if probe.rtt_ms is not None]
    usual = median(rtt for _, rtt in back)
    long = [(sent, rtt) for sent, rtt in back if rtt > usual + extra_rtt_ms / 2]
    if not long:
        return Event(0.0, 0.0)
    # A stray probe elsewhere is no handover: the longest stretch without a pause counts.
    stretches: list[list[tuple[float, float]]] = [[long[0]]]
    for before, one in itertools.pairwise(long):
        if one[0] - before[0] > PAUSE_MS:
            stretches.append([])
        stretches[-1].append(one)
    longest = max(stretches, key=lambda stretch: stretch[-1][0] - stretch[0][0])
    return Event(longest[-1][0] - longest[0][0], median(rtt for _, rtt in longest) - usual)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, interpolated."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
