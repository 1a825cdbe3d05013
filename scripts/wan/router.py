"""Carries packets from one TUN device to the other, each when the link model lets it arrive."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Final

from scripts.wan.traffic import Packets
from shared.link import LinkClock, LinkProfile
from shared.profiled import mix, unit

BATCH: Final = 64
"""Packets read at once: bounds how long one direction keeps the other waiting."""
MOST_WAITING: Final = 100_000
"""Packets on their way in one direction: 150 MB, one second at a gigabit per second."""
PACKET: Final = 65536
LATE_NS: Final = 1_000_000
IPV4: Final = 4


def packet_salt(seed: int, way: int) -> int:
    """What keys jitter and loss of the packets of one direction (0: up, 1: down)."""
    return mix(mix(seed) ^ way)


class PacketLane:
    """One direction: packets on their way, in order, with their times of arrival."""

    __slots__ = ("_clock", "_count", "_fate", "_salt", "_waiting", "counts", "profile")

    def __init__(self, profile: LinkProfile, salt: int, begun: int = 0) -> None:
        """`salt` keys jitter and loss by the packet's number; schedules count from `begun` (ns)."""
        self.profile = profile
        self.counts = Packets()
        self._clock = LinkClock(profile, begun=begun)
        self._salt = mix(salt)
        self._fate = mix(self._salt ^ 1) if profile.loss else None
        self._count = 0
        self._waiting: deque[tuple[int, bytes]] = deque()

    def push(self, now: int, packet: bytes) -> None:
        """A packet enters the link."""
        number = self._count
        self._count += 1
        draw = unit(self._salt, number) if self.profile.jitter_ms else 0.5
        fate = unit(self._fate, number) if self._fate is not None else 1.0
        due = self._clock.packet(now, len(packet), draw, fate)
        if due is None or len(self._waiting) >= MOST_WAITING:
            self.counts.lost += 1
        else:
            self._waiting.append((due, packet))

    def hold(self, until: int) -> None:
        """Nothing comes out before `until`, what is on its way included."""
        self._clock.held_until = max(self._clock.held_until, until)

    def next_due(self) -> int | None:
        """When the next packet comes out; None: none is on its way."""
        return max(self._waiting[0][0], self._clock.held_until) if self._waiting else None

    def pop(self, now: int) -> bytes | None:
        """The next packet if it has arrived by `now`."""
        due = self.next_due()
        if due is None or due > now:
            return None
        packet = self._waiting.popleft()[1]
        counts = self.counts
        counts.delivered += 1
        counts.bytes += len(packet)
        if now - due > LATE_NS:
            counts.late += 1
            counts.latest_ms = max(counts.latest_ms, (now - due) / 1e6)
        return packet


class Router:
    """Both directions between two TUN descriptors."""

    def __init__(self, edge_tun: int, cloud_tun: int, up: PacketLane, down: PacketLane) -> None:
        self._edge_tun, self._cloud_tun = edge_tun, cloud_tun
        self.up, self.down = up, down

    def hold(self, until: int) -> None:
        """See `PacketLane.hold`."""
        self.up.hold(until)
        self.down.hold(until)

    def next_due(self) -> int | None:
        """When the next packet comes out on either side."""
        up, down = self.up.next_due(), self.down.next_due()
        if up is None or down is None:
            return down if up is None else up
        return min(up, down)

    def run_due(self) -> None:
        """Write what has arrived."""
        _write_due(self.up, self._cloud_tun)
        _write_due(self.down, self._edge_tun)

    def read_edge(self) -> None:
        """Take what the edge's end has sent."""
        _read(self._edge_tun, self.up)
        _write_due(self.up, self._cloud_tun)

    def read_cloud(self) -> None:
        """Take what the cloud's end has sent."""
        _read(self._cloud_tun, self.down)
        _write_due(self.down, self._edge_tun)


def _read(tun: int, lane: PacketLane) -> None:
    for _ in range(BATCH):
        try:
            packet = os.read(tun, PACKET)
        except BlockingIOError:
            return
        if packet[0] >> 4 == IPV4:  # IPv6 is off; what the kernel sends nevertheless has nobody to go to
            lane.push(time.monotonic_ns(), packet)


def _write_due(lane: PacketLane, tun: int) -> None:
    while (packet := lane.pop(time.monotonic_ns())) is not None:
        os.write(tun, packet)
