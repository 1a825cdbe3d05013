"""One link model for the simulator and the WAN emulator: what happens to what enters a link, and when it comes out.

One direction each: delay, jitter, rate with a queue, loss, outages, a path that is longer for a while (a satellite
handover), and a hold. Pure: time (integer ns) and draws (0..1) are arguments.

Two views of the same link:

- `LinkClock.packet`, for what sees packets: one is lost or arrives. Loss is independent per packet; a *burst* of loss
  is an outage, an interval of time. (A two-state chain that is stepped by packets does not do: a thin stream steps it
  so slowly that one bad state lasts for minutes.)
- `LinkClock.arrival`, for what carries a reliable stream and has no packets to lose (the simulator's links, a TCP
  proxy): what TCP would do about the loss appears as a wait, from the retransmission timing of Linux (RFC 8985, RFC
  6298). An approximation: it knows no congestion window, so loss never lowers the rate; it takes the next message's
  distance to be the last one's; a lost acknowledgement costs nothing.

In both, what enters first comes out first: jitter makes a burst late, never reorders it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Final

NANOSECONDS_PER_MS: Final = 1_000_000
SEGMENT_BYTES: Final = 1448
"""What an Ethernet frame carries of a TCP stream."""
PACKET_BYTES: Final = 1500
RTO_MIN_MS: Final = 200.0
"""Linux waits for this long beyond the round trip before it takes silence for a loss (net.ipv4.tcp_rto_min_us)."""
REORDERING: Final = 0.25
"""Of a round trip: how long RACK lets a segment be late before it takes it for lost (RFC 8985, 6.2)."""
RETRIES: Final = 15
"""Linux gives up after so many timeouts (net.ipv4.tcp_retries2); here the data arrives then."""
QUEUE_PACKETS: Final = 100
QUEUE_MS: Final = 200.0
PARETO_SHAPE: Final = 3.0
PARETO_MOST: Final = 20.0
"""In standard deviations; the draws beyond it, about 1 in 20,000, are cut there."""
_NORMAL: Final = NormalDist()
_LEAST_DRAW: Final = 2.0**-54


class Jitter(StrEnum):
    """How delays spread around `LinkProfile.delay_ms`, which is their mean in each."""

    UNIFORM = "uniform"
    """-jitter_ms..+jitter_ms."""
    NORMAL = "normal"
    """jitter_ms is the standard deviation."""
    PARETO = "pareto"
    """Long-tailed, shape 3; jitter_ms is the standard deviation, a few per cent more than it is with the farthest draws
    cut (`PARETO_MOST`). Never below the mean by more than 0.58 of it."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Intervals of time that come again and again."""

    every_s: float
    lasts_ms: float
    offset_s: float = 0.0
    """When the first one begins, from the link's own beginning."""

    def __post_init__(self) -> None:
        if not 0.0 < self.every_s <= 1e6:
            raise ValueError(f"every_s {self.every_s} is outside 0..1e6 (0 excluded)")
        if not 0.0 <= self.lasts_ms < self.every_s * 1000:
            raise ValueError(
                f"lasts_ms {self.lasts_ms} is outside 0..{self.every_s * 1000:g} (every_s, excluded)"
            )
        if not 0.0 <= self.offset_s <= 1e6:
            raise ValueError(f"offset_s {self.offset_s} is outside 0..1e6")

    def ends(self, age: int) -> int | None:
        """When the interval that `age` (ns since the link began) lies in ends; None: it lies in none."""
        since = age - round(self.offset_s * 1e9)
        if since < 0:
            return None
        begun = age - since % round(self.every_s * 1e9)
        end = begun + round(self.lasts_ms * NANOSECONDS_PER_MS)
        return end if age < end else None


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """One direction of a link."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Spread of the delay, as `jitter` says; a delay is never below zero."""
    kbit_per_s: float = 0.0
    """Rate; 0: unlimited."""
    jitter: Jitter = Jitter.UNIFORM
    loss: float = 0.0
    """Share of packets, each on its own; 0..1."""
    outage: Schedule | None = None
    """Everything that enters the link meanwhile is lost."""
    handover: Schedule | None = None
    """The path is longer meanwhile, by `handover_ms`."""
    handover_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("delay_ms", "jitter_ms", "kbit_per_s", "handover_ms"):
            value: float = getattr(self, name)
            if not 0.0 <= value < 1e9:
                raise ValueError(f"{name} {value} is outside 0..1e9")
        if not 0.0 <= self.loss < 1.0:
            raise ValueError(f"loss {self.loss} is outside 0..1 (1 excluded)")

    @property
    def queue_ms(self) -> float:
        """How long a packet may wait for the rate before the queue's tail drops it; 0: there is no rate to wait for."""
        if not self.kbit_per_s:
            return 0.0
        return max(QUEUE_MS, QUEUE_PACKETS * PACKET_BYTES * 8 / self.kbit_per_s)

    @property
    def queue_bytes(self) -> int:
        """The same in bytes: 100 packets or 200 ms at the rate, whichever is more."""
        return round(self.queue_ms * self.kbit_per_s / 8)

    @property
    def nothing(self) -> bool:
        """Whether what enters comes out at once, always."""
        acts = (self.delay_ms, self.jitter_ms, self.kbit_per_s, self.loss, self.outage, self.handover)
        return not any(acts)

    def delay(self, draw: float) -> int:
        """Delay in ns for a draw in 0..1."""
        return round(
            max(0.0, self.delay_ms + self.jitter_ms * _deviation(self.jitter, draw)) * NANOSECONDS_PER_MS
        )


def _deviation(jitter: Jitter, draw: float) -> float:
    """Quantile function of the named distribution with mean 0."""
    if jitter is Jitter.UNIFORM:
        return 2 * draw - 1
    draw = min(max(draw, _LEAST_DRAW), 1.0 - _LEAST_DRAW * 2)
    if jitter is Jitter.NORMAL:
        return _NORMAL.inv_cdf(draw)
    # Mean 3/2 and variance 3/4 of a Pareto variable of shape 3 that begins at 1.
    return min((math.pow(1.0 - draw, -1 / PARETO_SHAPE) - 1.5) / math.sqrt(0.75), PARETO_MOST)


class Bottleneck:
    """Where a rate applies: streams that share one share its rate."""

    __slots__ = ("free_at",)

    def __init__(self) -> None:
        self.free_at = 0
        """When everything that has entered has left it (ns)."""

    def leave(self, now: int, size: int, kbit_per_s: float) -> int:
        """When `size` bytes that enter now have left."""
        if not kbit_per_s:
            return now
        self.free_at = max(now, self.free_at) + round(size * 8 * NANOSECONDS_PER_MS / kbit_per_s)
        return self.free_at


class LinkClock:
    """When what is handed to a link now comes out at its far end (ns). Pure: draws and time are arguments."""

    __slots__ = ("_begun", "_bottleneck", "_last", "_previous", "_round_trip", "held_until", "profile")

    def __init__(
        self,
        profile: LinkProfile,
        *,
        round_trip_ms: float | None = None,
        begun: int = 0,
        bottleneck: Bottleneck | None = None,
    ) -> None:
        """Args:
        profile: this direction.
        round_trip_ms: what TCP waits for an acknowledgement; None: twice the delay of this direction.
        begun: the time (ns) from which schedules count.
        bottleneck: shared with other streams of this direction; None: one of its own.
        """
        self.profile = profile
        self.held_until = 0
        """Nothing leaves the link before this time. What waits is not lost, as when a radio link is asleep."""
        delay_ms = 2 * profile.delay_ms if round_trip_ms is None else round_trip_ms
        self._round_trip = round(delay_ms * NANOSECONDS_PER_MS)
        self._begun = begun
        self._bottleneck = bottleneck if bottleneck is not None else Bottleneck()
        self._last = 0
        self._previous: int | None = None

    def packet(self, now: int, size: int, draw: float, fate: float = 1.0) -> int | None:
        """Arrival time of a packet of `size` bytes; None: it is lost.

        Args:
            draw: 0..1, decides the jitter.
            fate: 0..1, decides the loss; 1: it survives.
        """
        profile = self.profile
        if profile.outage is not None and profile.outage.ends(now - self._begun) is not None:
            return None
        wait = self._bottleneck.free_at - now
        if wait > 0 and wait > profile.queue_ms * NANOSECONDS_PER_MS:
            return None
        sent = self._bottleneck.leave(now, size, profile.kbit_per_s)
        return None if fate < profile.loss else self._arrive(sent, 0, draw)

    def arrival(self, now: int, size: int, draw: float, fate: float = 1.0) -> int:
        """Arrival time of `size` bytes of a reliable stream. Draws as for `packet`: a loss is a wait."""
        profile = self.profile
        sent = self._bottleneck.leave(self._through_outage(now), size, profile.kbit_per_s)
        stall = self._stall(now, size, fate) if profile.loss else 0
        self._previous = now
        return self._arrive(sent, stall, draw)

    def _arrive(self, sent: int, stall: int, draw: float) -> int:
        profile = self.profile
        arrival = sent + stall + profile.delay(draw)
        if profile.handover is not None and profile.handover.ends(sent - self._begun) is not None:
            arrival += round(profile.handover_ms * NANOSECONDS_PER_MS)
        self._last = max(arrival, self.held_until, self._last)
        return self._last

    @property
    def _timeout(self) -> int:
        return self._round_trip + round(RTO_MIN_MS * NANOSECONDS_PER_MS)

    def _through_outage(self, now: int) -> int:
        """The first of TCP's attempts that no outage swallows: each waits twice as long as the one before."""
        outage, timeout = self.profile.outage, self._timeout
        for _ in range(RETRIES):
            if outage is None or outage.ends(now - self._begun) is None:
                break
            now += timeout
            timeout *= 2
        return now

    def _stall(self, now: int, size: int, fate: float) -> int:
        """How much later a message comes if TCP loses one of its segments (ns); 0: it loses none.

        Found by what follows: the acknowledgement of a later segment tells the sender after a round trip and a quarter
        (RACK). Found by silence: a probe after two round trips if more than one segment is in flight (TLP), else
        the timeout. The earlier of the two; if the repetition is lost as well, the timeout, doubling.
        """
        loss, segments = self.profile.loss, max(1, math.ceil(size / SEGMENT_BYTES))
        hit = 1.0 - (1.0 - loss) ** segments
        if fate >= hit:
            return 0
        # What is left of the draw is uniform again: which segment, then whether its repetition is lost too.
        place, left = divmod(fate / hit * segments, 1.0)
        gap = None if self._previous is None else now - self._previous
        timeout = self._timeout
        several = segments > 1 or (gap is not None and gap < self._round_trip)
        stall = min(2 * self._round_trip, timeout) if several else timeout
        next_segment = 0 if place < segments - 1 else gap
        if next_segment is not None:
            stall = min(stall, next_segment + round((1 + REORDERING) * self._round_trip))
        for _ in range(RETRIES):
            if left >= loss:
                break
            left /= loss
            stall += timeout
            timeout *= 2
        return stall
