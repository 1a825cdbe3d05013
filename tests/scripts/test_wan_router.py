"""Packets under a virtual clock, the loop, and the relay's bytes and ends."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time

import pytest

from scripts.wan.relay import Relay
from scripts.wan.router import PacketLane, Router
from scripts.wan.select_loop import SelectLoop
from shared.errors import UserError
from shared.link import LinkProfile, Schedule

MS = 1_000_000
PACKET = b"\x45" + bytes(99)


def lane(profile: LinkProfile, salt: int = 1) -> PacketLane:
    return PacketLane(profile, salt)


def test_packets_come_out_in_order_and_on_time():
    one = lane(LinkProfile(20.0, 10.0))
    for number in range(50):
        one.push(number * MS, PACKET + bytes([number]))
    out = []
    while (due := one.next_due()) is not None:
        assert one.pop(due - 1) is None
        packet = one.pop(due)
        assert packet is not None
        out.append(packet[-1])
        assert due >= out[-1] * MS + 10 * MS
    assert out == list(range(50))
    assert (one.counts.delivered, one.counts.bytes, one.counts.lost, one.counts.late) == (50, 50 * 101, 0, 0)


def test_losses_are_counted_and_keyed():
    def lost(salt: int) -> list[bool]:
        one = lane(LinkProfile(loss=0.2), salt)
        found = []
        for number in range(1000):
            before = one.counts.lost
            one.push(number, PACKET)
            found.append(one.counts.lost > before)
        return found

    assert 150 < sum(lost(1)) < 250
    assert lost(1) == lost(1) != lost(2)


def test_an_outage_and_a_full_queue_are_losses():
    one = lane(LinkProfile(outage=Schedule(10.0, 100.0)))
    one.push(50 * MS, PACKET)
    one.push(150 * MS, PACKET)
    assert (one.counts.lost, one.next_due()) == (1, 150 * MS)
    slow = lane(LinkProfile(kbit_per_s=800.0))  # a packet a millisecond; the queue takes 150 kB
    for _ in range(2000):
        slow.push(0, PACKET)
    assert slow.counts.lost == 2000 - 1501


def test_a_hold_keeps_what_is_on_its_way():
    one = lane(LinkProfile(5.0))
    one.push(0, PACKET)
    one.hold(100 * MS)
    assert one.next_due() == 100 * MS
    assert one.pop(99 * MS) is None
    assert one.pop(100 * MS) == PACKET


def test_a_busy_machine_is_counted():
    one = lane(LinkProfile(5.0))
    for _ in range(2):
        one.push(0, PACKET)
    one.pop(5 * MS)
    one.pop(8 * MS)
    assert (one.counts.late, one.counts.latest_ms) == (1, 3.0)


def test_only_ipv4_is_carried():
    """Over socket pairs instead of devices: one write is one packet there, too."""
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    try:
        for _, inner in ends:
            inner.setblocking(False)
        (edge, edge_tun), (cloud, cloud_tun) = ends
        router = Router(edge_tun.fileno(), cloud_tun.fileno(), lane(LinkProfile()), lane(LinkProfile()))
        for packet in (b"\x60" + bytes(40), PACKET):
            edge.send(packet)
        router.read_edge()
        cloud.setblocking(False)
        assert cloud.recv(200) == PACKET
        with pytest.raises(BlockingIOError):
            cloud.recv(200)
        cloud.send(PACKET)
        router.read_cloud()
        assert edge.recv(200) == PACKET
        assert router.next_due() is None
    finally:
        for pair in ends:
            for sock in pair:
                sock.close()


class Idle:
    def next_due(self):
        return None

    def run_due(self):
        pass


class Once:
    """Due at one time; notes when it ran, and how often it was asked too early."""

    def __init__(self, due: int) -> None:
        self.due: int | None = due
        self.ran_at = 0
        self.then = lambda: None

    def next_due(self):
        return self.due

    def run_due(self):
        now = time.monotonic_ns()
        if self.due is not None and now >= self.due:
            self.ran_at, self.due = now, None
            self.then()


def test_the_loop_is_never_early():
    due = time.monotonic_ns() + 20 * MS
    once = Once(due)
    loop = SelectLoop(once)
    once.then = loop.stop
    loop.run()
    assert due <= once.ran_at < due + 500 * MS


def test_a_callback_that_was_taken_away_is_not_called():
    """Both are ready in one round; the first closes the second, whose number may be anybody's by then."""
    reads = [os.pipe() for _ in range(2)]
    called = []
    loop = SelectLoop(Idle())

    def call(me: int, other: int):
        called.append(me)
        loop.read(other, None)
        loop.stop()

    (first, first_end), (second, second_end) = reads
    loop.read(first, lambda: call(first, second))
    loop.read(second, lambda: call(second, first))
    for end in (first_end, second_end):
        os.write(end, b"x")
    loop.run()
    assert len(called) == 1
    for pair in reads:
        for fd in pair:
            os.close(fd)


@pytest.fixture
def relay():
    """A relay whose loop runs in a thread; stops with the test."""
    loop = SelectLoop(Idle())
    relay = Relay(loop, lambda: socket.create_server(("127.0.0.1", 0)))
    stop, stopping = os.pipe()
    calls = []

    def obey():
        os.read(stop, 1)
        calls.pop()()

    loop.read(stop, obey)

    def within(call):
        """Run in the loop's thread."""
        done = threading.Event()
        result = []

        def run():
            try:
                result.append(call())
            finally:
                done.set()

        calls.append(run)
        os.write(stopping, b"x")
        assert done.wait(10)
        return result[0]

    thread = threading.Thread(target=loop.run)
    thread.start()
    yield relay, within
    within(relay.cut)
    within(loop.stop)
    thread.join(10)
    for listener in relay._listeners.values():
        listener.close()
    for fd in (stop, stopping):
        os.close(fd)


def dial(address: str) -> socket.socket:
    host, port = address.split(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    sock.settimeout(10)
    return sock


def test_bytes_and_half_closes_pass_and_what_is_not_read_waits_with_its_sender(relay):
    one, within = relay
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        address = within(lambda: one.reach(server.getsockname()))
        assert within(lambda: one.reach(server.getsockname())) == address
        with dial(address) as edge:
            far, _ = server.accept()
            with far:
                far.settimeout(1.0)
                edge.sendall(b"question")
                edge.shutdown(socket.SHUT_WR)
                assert far.recv(100) == b"question"
                assert far.recv(100) == b""
                sent = 0
                with contextlib.suppress(TimeoutError):  # nobody reads: it stays with its sender
                    while sent < 256 << 20:
                        sent += far.send(bytes(1 << 20))
                assert sent < 32 << 20  # kernel buffers take some MiB
                far.settimeout(None)
                got = 0
                while got < sent:
                    got += len(edge.recv(1 << 20))
                far.sendall(b"end")
                far.close()
                assert edge.recv(100) == b"end"
                assert edge.recv(100) == b""
        assert one.traffic.bytes_down == sent + 3
        assert one.traffic.bytes_up == 8


def test_a_reset_passes(relay):
    one, within = relay
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        with dial(within(lambda: one.reach(server.getsockname()))) as edge:
            far, _ = server.accept()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.close()
            with pytest.raises(ConnectionResetError):
                edge.recv(1)


def test_a_name_that_is_nobodys_is_the_users_business():
    relay = Relay(SelectLoop(Idle()), lambda: pytest.fail("nothing to listen for"))
    with pytest.raises(UserError, match="cannot resolve no such host"):
        relay.reach(("no such host", 1))
