from __future__ import annotations

import math

import pytest

from shared.policy.uplink_share import LEAST_NODES, MESSAGE_BYTES, MS, NODE_BYTES, UplinkShare

STEP = 30 * MS


class Path:
    """An uplink with a rate, and a cloud that commits every 30 ms. The edge has nodes without end."""

    def __init__(self, share: UplinkShare, bytes_per_ms: float, rtt_ms: float = 100.0) -> None:
        self.share = share
        self.rate = bytes_per_ms / MS
        self.half = round(rtt_ms * MS / 2)
        self.free = 0.0
        self.now = 0
        self.on_way: list[tuple[float, int]] = []
        self.commits: list[tuple[int, int]] = []
        self.stalled_until = 0
        self.queues: list[float] = []
        self.sent_bytes = 0
        share.opened()

    def run(self, seconds: float, most: int = 40, every: int = 3 * MS) -> None:
        self.queues.clear()
        self.sent_bytes = 0
        end = self.now + round(seconds * 1e9)
        while self.now < end:
            self.now += every
            if self.now % STEP < every:
                knows = sum(nodes for at, nodes in self.on_way if at <= self.now)
                self.on_way = [(at, nodes) for at, nodes in self.on_way if at > self.now]
                self.commits.append((self.now + self.half, knows))
            while self.commits and self.commits[0][0] <= self.now:
                at, knows = self.commits.pop(0)
                self.share.received(knows, at)
            room = min(most, self.share.room(self.now))
            if room:
                self._send(room)

    def _send(self, nodes: int) -> None:
        size = MESSAGE_BYTES + NODE_BYTES * nodes
        self.queues.append(max(0.0, self.free - self.now) / MS)
        self.free = max(self.now, self.free, self.stalled_until) + size / self.rate
        self.on_way.append((self.free + self.half, nodes))
        self.share.sent(nodes, self.now, math.inf)
        self.sent_bytes += size


def test_a_fast_uplink_is_never_bounded():
    share = UplinkShare()
    Path(share, 1e6).run(10)
    assert math.isinf(share.bytes_per_ns)
    assert share.room(0) > 1000


@pytest.mark.parametrize("bytes_per_ms", [6.25, 12.5, 31.25])
def test_a_slow_uplink_is_filled_and_does_not_queue(bytes_per_ms):
    share = UplinkShare()
    path = Path(share, bytes_per_ms)
    path.run(20)  # 310 bytes every 5 ms: ten times and more what goes through
    path.run(20)
    used = path.sent_bytes / (20_000 * bytes_per_ms)
    assert 0.7 < used < 1.1
    path.queues.sort()
    assert path.queues[len(path.queues) // 2] < 40
    assert path.queues[len(path.queues) * 95 // 100] < 120


def test_the_bound_follows_a_rate_that_rises():
    share = UplinkShare()
    path = Path(share, 6.25)
    path.run(10)
    slow = share.bytes_per_ns
    path.rate *= 4
    path.run(30)
    assert share.bytes_per_ns > 2.5 * slow


def test_a_path_that_gets_longer_for_good_is_not_taken_for_a_queue_for_ever():
    share = UplinkShare()
    path = Path(share, 12.5)
    path.run(10)
    before = share.bytes_per_ns
    path.half *= 2
    path.run(40)
    assert share.bytes_per_ns > 0.5 * before


def test_a_stall_that_ends_is_no_slow_uplink():
    """A lost packet: nothing arrives for 300 ms, then everything does."""
    share = UplinkShare()
    path = Path(share, 1e5)
    for _ in range(10):
        path.run(1)
        path.stalled_until = path.now + 300 * MS
        path.run(1)
    assert share.bytes_per_ns > 50 / MS, (
        "what is sent (62 bytes a ms) hardly feels the bound, if there is one"
    )


@pytest.mark.parametrize("bytes_per_ms", [31.25, 1e5])
def test_a_silence_of_both_directions_does_not_ruin_the_rate(bytes_per_ms):
    """A window of nodes bounds what is sent meanwhile; afterwards the commits come in a burst."""
    share = UplinkShare()
    path = Path(share, bytes_per_ms)
    path.run(10)
    before = share.bytes_per_ns
    end = path.now + 3_000 * MS
    path.stalled_until = end
    for _ in range(20):
        path.now += 3 * MS
        if room := min(40, share.room(path.now)):
            path._send(room)
    path.commits = [(end, knows) for _, knows in path.commits] + [(end, 0)] * 100
    path.now = end
    path.run(3)
    assert share.free_at - path.now < 300 * MS
    assert share.bytes_per_ns > 0.4 * before or share.bytes_per_ns > 50 / MS


def test_a_message_has_room_for_some_nodes_whatever_the_rate():
    share = UplinkShare(bytes_per_ns=1e-9)
    share.sent(1, 0, math.inf)
    share.received(1, 1)
    assert share.room(share.free_at) == LEAST_NODES


def test_a_new_stream_has_nothing_on_its_way_and_keeps_the_rate():
    share = UplinkShare()
    path = Path(share, 6.25)
    path.run(5)
    rate = share.bytes_per_ns
    share.opened()
    assert LEAST_NODES <= share.room(path.now) < 1000
    assert share.bytes_per_ns == rate
    share.received(0, path.now + STEP)  # nothing of the old stream is counted on the new one
