"""The near end of a measurement: `python -m scripts.wan.verify.edge PLAN`, where PLAN and what it prints are JSON."""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

from scripts.wan.addresses import parse_address
from scripts.wan.select_loop import be_punctual
from scripts.wan.verify.peer import FLOOD, HEADERS, PROBE, Tally, flood, receive, send_for
from scripts.wan.verify.trace import GREETING, Pattern, Probe

PATIENCE_S: Final = 8.0
"""How long the last probe may take: the time-outs of a stalled stream included."""
OVERLOAD: Final = 1.25
"""A rate is measured by offering so much more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    tcp: str
    """HOST:PORT over the link."""
    udp: str | None
    """HOST:PORT over the link; None: it carries streams only, and probes are messages of one."""
    pattern: Pattern
    slowest_ms: float
    """A round trip, generously."""
    loss_probes: int = 0
    loss_interval_ms: float = 1.0
    up_kbit: float = 0.0
    down_kbit: float = 0.0
    bulk_s: float = 0.0
    """How long streams and floods last; 0: none."""
    connects: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """Probes sent, arrived, come back."""

    sent: int
    arrived: int
    returned: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found; kbit/s, None: not measured."""

    probes: tuple[Probe, ...]
    counted: Counted | None
    up_kbit: float | None
    down_kbit: float | None
    tcp_up_kbit: float | None
    tcp_down_kbit: float | None
    connect_ms: float | None

    @classmethod
    def from_json(cls, text: str) -> Measured:
        """What `main` printed."""
        fields = json.loads(text)
        fields["probes"] = tuple(Probe(**one) for one in fields["probes"])
        fields["counted"] = None if fields["counted"] is None else Counted(**fields["counted"])
        return cls(**fields)


def measure(plan: Plan) -> Measured:
    """One thing after the other: none may disturb another."""
    # First the probes: the model replays them as the first packets, or the first stream, of a link.
    probes = _probe_packets(plan, plan.udp) if plan.udp is not None else _probe_stream(plan)
    connect_ms = median(_connect_ms(plan.tcp) for _ in range(plan.connects)) if plan.connects else None
    counted = _count(plan, plan.udp) if plan.udp is not None and plan.loss_probes else None
    packets, bulk = plan.udp, plan.bulk_s > 0
    return Measured(
        probes=tuple(probes),
        counted=counted,
        up_kbit=_flood_up(plan, packets) if packets is not None and bulk else None,
        down_kbit=_flood_down(plan, packets) if packets is not None and bulk else None,
        tcp_up_kbit=_stream_up(plan) if bulk else None,
        tcp_down_kbit=_stream_down(plan) if bulk else None,
        connect_ms=connect_ms,
    )


def _connect(address: str) -> socket.socket:
    sock = socket.create_connection(parse_address(address, "address"), timeout=60.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _connect_ms(address: str) -> float:
    begun = time.perf_counter()
    with _connect(address):
        return (time.perf_counter() - begun) * 1000


def _datagrams(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.connect(parse_address(address, "address"))
    return sock


def _probe_packets(plan: Plan, address: str) -> list[Probe]:
    with _datagrams(address) as sock:
        return _exchange(plan.pattern, plan.slowest_ms, sock, sock.send, lambda: sock.recv(PROBE.size))


def _probe_stream(plan: Plan) -> list[Probe]:
    with _connect(plan.tcp) as sock:
        sock.sendall(GREETING)
        return _exchange(plan.pattern, plan.slowest_ms, sock, sock.sendall, lambda: receive(sock, PROBE.size))


def _exchange(
    pattern: Pattern,
    slowest_ms: float,
    sock: socket.socket,
    send: Callable[[bytes], object],
    take: Callable[[], bytes],
) -> list[Probe]:
    """Send on time, whatever is still on its way, and note what comes back."""
    begun = time.monotonic_ns()
    sent: list[int] = []
    arrived: dict[int, tuple[int, int]] = {}
    gap = round(pattern.interval_ms * 1e6)
    deadline = begun + pattern.count * gap + round((slowest_ms + PATIENCE_S * 1000) * 1e6)
    give_up = begun + pattern.count * gap + round((2 * slowest_ms + 300) * 1e6)
    while len(arrived) < pattern.count:
        now = time.monotonic_ns()
        if len(sent) < pattern.count:
            due = begun + len(sent) * gap
            if now >= due:
                sent.append(time.monotonic_ns())
                send(PROBE.pack(b"p", len(sent) - 1, sent[-1], 0, 0))
                continue
        else:
            # A datagram that is late is lost; a stream delivers everything in the end.
            due = give_up if sock.type == socket.SOCK_DGRAM else deadline
            if now >= due:
                break
        if select.select([sock], [], [], (due - now) / 1e9)[0]:
            data = take()
            now = time.monotonic_ns()
            if not data:
                break
            _, number, _, there, _ = PROBE.unpack(data)
            arrived[number] = (there, now)
    return [_probe(begun, at, arrived.get(number)) for number, at in enumerate(sent)]


def _probe(begun: int, sent: int, arrived: tuple[int, int] | None) -> Probe:
    if arrived is None:
        return Probe((sent - begun) / 1e6, None, None)
    return Probe((sent - begun) / 1e6, (arrived[0] - sent) / 1e6, (arrived[1] - sent) / 1e6)


def _count(plan: Plan, address: str) -> Counted:
    with _datagrams(address) as sock:
        sock.send(b"z")
        time.sleep((plan.slowest_ms + 50) / 1000)  # what forgets the earlier probes travels, too
        seen: list[int] = []

        def take() -> bytes:
            data = sock.recv(PROBE.size)
            seen.append(PROBE.unpack(data)[4])
            return data

        pattern = Pattern(plan.loss_probes, plan.loss_interval_ms)
        probes = _exchange(pattern, plan.slowest_ms, sock, sock.send, take)
    return Counted(len(probes), max(seen, default=0), sum(probe.rtt_ms is not None for probe in probes))


def _flood_up(plan: Plan, address: str) -> float | None:
    if not plan.up_kbit:
        return None
    with _datagrams(address) as sock:
        sock.send(b"z")
        time.sleep((plan.slowest_ms + 50) / 1000)
        flood(sock.send, plan.up_kbit * OVERLOAD, plan.bulk_s)
    time.sleep(plan.slowest_ms / 1000 + 0.5)  # the queue of the link drains
    with _connect(address) as asking:
        asking.sendall(b"r")
        return float(struct.unpack("!d", receive(asking, 8))[0])


def _flood_down(plan: Plan, address: str) -> float | None:
    if not plan.down_kbit:
        return None
    tally = Tally()
    with _datagrams(address) as sock:
        sock.settimeout(plan.slowest_ms / 1000 + 2.0)
        request = FLOOD.pack(b"d", round(plan.bulk_s * 1000), round(plan.down_kbit * OVERLOAD), 0, 0)
        for _ in range(20):  # the request may be lost
            sock.send(request)
            try:
                tally.add(len(sock.recv(2048)) + HEADERS)
                break
            except TimeoutError:
                continue
        sock.settimeout(1.0)
        try:
            while True:
                tally.add(len(sock.recv(2048)) + HEADERS)
        except TimeoutError:
            return tally.kbit_per_s


def _stream_up(plan: Plan) -> float:
    with _connect(plan.tcp) as sock:
        sock.sendall(b"s")
        send_for(sock, plan.bulk_s)
        return float(struct.unpack("!d", receive(sock, 8))[0])


def _stream_down(plan: Plan) -> float:
    tally = Tally()
    with _connect(plan.tcp) as sock:
        sock.sendall(b"f" + struct.pack("!d", plan.bulk_s))
        while data := sock.recv(64 << 10):
            tally.add(len(data))
    return tally.kbit_per_s


def main(text: str) -> None:
    """Measure and print."""
    be_punctual()
    fields = json.loads(text)
    fields["pattern"] = Pattern(**fields["pattern"])
    print(json.dumps(asdict(measure(Plan(**fields)))))


if __name__ == "__main__":
    main(sys.argv[1])
