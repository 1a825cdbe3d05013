"""How much the edge may put on its way up: bounded only once the uplink is found to be slower than the drafter.

Neither gRPC nor TCP tells an application what queues below it, but every commit says how many nodes the cloud had
received: the time from sending a message to the commit that knows of it is a round trip, a wait for the step's end, and
whatever queued. Once something queues for sure, what arrives is the rate of the bottleneck (the reasoning of BBR,
Cardwell et al. 2016, with commits for acknowledgements): from then on messages leave a little slower than that, and the
rate is probed upwards, the faster the longer nothing queues. Bytes are estimates; they are compared with each other
only, so it is the ratio of a message's cost to a node's that matters.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

MESSAGE_BYTES = 110
"""A message without nodes: TCP/IP, HTTP/2, gRPC, and the acknowledgement that it causes or carries."""
NODE_BYTES = 5
PERSISTS = 0.7
"""A queue of which so much is left after it was let go through was none."""
MOST_AHEAD = 1.4
"""The rate is not grown beyond this share of what arrives: what is not used is not tried."""
FIRST_BYTES = 3000
"""What may be on its way before anything is known to have arrived."""
LEAST_NODES = 2
"""No message is held back to carry fewer."""
MS = 1_000_000
SILENCE = 3
"""So many times the usual time without a commit is a silence: of the path, or of the server."""
LONGEST_PAUSE_NS = 10_000 * MS
"""More than any uplink lets queue."""
SAMPLE_NS = 300 * MS
"""Arrivals are counted over at least so long."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way."""

    nodes: int
    """Cumulative on this stream, this message included."""
    size: int
    """Bytes."""
    at: int
    due: float
    """When the last commit comes that should know of it (ns)."""


@dataclass(slots=True)
class UplinkShare:
    """Fed with what was sent and what had arrived; times are in ns, bytes are estimates."""

    target_ms: float = 10.0
    """Queueing that is let be, beyond what the delay varies by on its own."""
    caution: float = 0.9
    """Part of the measured rate that is used after a queue was seen."""
    growth: float = 0.004
    """The rate grows by this share in the first round trip after a cut, by twice as much in the second, and so on."""
    message_ms: float = 30.0
    """How long one message may occupy a slow uplink."""
    base_s: float = 10.0
    """How long a shortest delay is remembered: paths get longer for good, too."""
    bytes_per_ns: float = math.inf
    free_at: int = 0
    """When the last message has gone through, at that rate."""
    _flight: deque[Sent] = field(default_factory=lambda: deque(maxlen=4096))
    _nodes_sent: int = 0
    _nodes_received: int = 0
    _bytes_sent: int = 0
    _bytes_received: int = 0
    _arrivals: deque[tuple[int, int]] = field(default_factory=deque)
    """(time of a commit, bytes that had arrived then)."""
    _delays: deque[float] = field(default_factory=lambda: deque(maxlen=4))
    _last_commit: int = 0
    _usual: float = 0.0
    """Time between commits, smoothed, silences left out (ns)."""
    _shortest: deque[tuple[int, float]] = field(default_factory=deque)
    """(time, delay) of the shortest delays, increasing: the first is the base."""
    _judged_at: int = 0
    _cut_at: int = 0
    """Messages from here on were sent at the present rate: only they can tell what it does."""
    _before: tuple[float, float] | None = None
    """Queueing (ns) and rate before the last cut."""
    _rounds: int = 0
    """Round trips since the last cut."""
    _held: bool = False
    """Whether something waited for room in this round."""

    @property
    def base_delay(self) -> float:
        """Shortest time from sending a message to the commit that knows of it; 0: none was seen."""
        return self._shortest[0][1] if self._shortest else 0.0

    def opened(self) -> None:
        """A new stream: nothing is on its way. The path is likely the same."""
        self._flight.clear()
        self._arrivals.clear()
        self._nodes_sent = self._nodes_received = self.free_at = 0
        self._bytes_sent = self._bytes_received = self._cut_at = self._last_commit = 0
        self._delays.clear()

    def room(self, now: int) -> int:
        """Nodes that the next message may carry; 0: it has to wait."""
        if self._bytes_received == 0:
            # Nothing is known of this stream: no more than any path takes in its stride, as TCP itself begins.
            room = (FIRST_BYTES - self._bytes_sent - MESSAGE_BYTES) // NODE_BYTES
            return room if room >= LEAST_NODES else 0
        if math.isinf(self.bytes_per_ns):
            return 1 << 30
        if now < self.free_at:
            self._held = True
            return 0
        return max(
            LEAST_NODES, round((self.bytes_per_ns * self.message_ms * MS - MESSAGE_BYTES) / NODE_BYTES)
        )

    def sent(self, nodes: int, now: int, due: float) -> None:
        """A message with so many nodes went out; at least 1, for the cloud counts nodes."""
        size = MESSAGE_BYTES + NODE_BYTES * nodes
        self._nodes_sent += nodes
        self._bytes_sent += size
        self._flight.append(Sent(self._nodes_sent, size, now, due))
        if math.isfinite(self.bytes_per_ns):
            self.free_at = max(now, self.free_at) + round(size / self.bytes_per_ns)

    def received(self, nodes: int, now: int) -> list[Sent]:
        """A commit came that knows of so many nodes more than the one before; returns the messages it knows of."""
        self._nodes_received += nodes
        known: list[Sent] = []
        while self._flight and self._flight[0].nodes <= self._nodes_received:
            known.append(self._flight.popleft())
            self._bytes_received += known[-1].size
        if self._last_commit and now - self._last_commit > max(SAMPLE_NS, SILENCE * self._usual):
            # Nothing came for a while, either way: what it took is no measure of the uplink.
            self._arrivals.clear()
            self._delays.clear()
        elif self._last_commit:
            self._usual += (now - self._last_commit - self._usual) / 8
        self._arrivals.append((now, self._bytes_received))
        while len(self._arrivals) > 2 and now - self._arrivals[1][0] >= SAMPLE_NS:
            self._arrivals.popleft()
        before, self._last_commit = self._last_commit, now
        # A lost packet stops everything for a while and then lets everything through: no advance, no judgement.
        last = known[-1] if known else None
        if last is not None and last.at >= self._cut_at:
            self._judge(now - last.at - last.size / self.bytes_per_ns, now - before, now)
        return known

    def _judge(self, delay: float, wait: int, now: int) -> None:
        """`delay`: from sending a message to the commit that knows of it. Up to `wait` of it, the time since the commit
        before, it may have waited in the cloud: only what is beyond that has queued for sure.
        """
        delays = self._delays
        base = self._base(delay, now)
        delays.append(delay - wait)
        if len(delays) < (delays.maxlen or 0) or now - self._judged_at < base:
            return
        queue = min(delays) - base
        self._judged_at = now
        if queue > self.target_ms * MS:
            self._cut(queue, now)
        elif self._held and self.bytes_per_ns < MOST_AHEAD * self._rate():
            self._rounds += 1
            self.bytes_per_ns *= 1.0 + self.growth * self._rounds
        self._held = False

    def _cut(self, queue: float, now: int) -> None:
        if self._before is not None and self._rounds == 0 and queue > PERSISTS * self._before[0]:
            # All that queued has gone through, and nothing came sooner: the path is longer now, and it was no queue.
            self._shortest.clear()
            self.bytes_per_ns, self._before = self._before[1], None
            return
        rate = self._rate()
        if rate <= 0.0:
            return
        # What is on its way beyond a round trip's worth goes through first.
        queue = max(queue, (self._bytes_sent - self._bytes_received) / rate - self.base_delay)
        self._before = (queue, self.bytes_per_ns)
        self.bytes_per_ns = self.caution * min(rate, self.bytes_per_ns)
        self._rounds = 0
        self._delays.clear()
        self.free_at = self._cut_at = now + round(min(queue, LONGEST_PAUSE_NS))

    def _rate(self) -> float:
        """What arrived of late, in bytes per ns."""
        (since, before), (until, arrived) = self._arrivals[0], self._arrivals[-1]
        return (arrived - before) / max(1, until - since)

    def _base(self, delay: float, now: int) -> float:
        shortest = self._shortest
        while shortest and shortest[-1][1] >= delay:
            shortest.pop()
        shortest.append((now, delay))
        while now - shortest[0][0] > self.base_s * 1e9:
            shortest.popleft()
        return shortest[0][1]
