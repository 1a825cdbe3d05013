"""Asked against achieved: round trips and rates through the proxy, with an echo server behind it."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.wan.process import wan_process
from scripts.wan.profiles import WanProfile
from scripts.wan.proxy import parse_address

MESSAGE_BYTES: Final = 32
LONGEST_S: Final = 20.0
BULK_S: Final = 1.5
"""How long a bulk transfer takes at the asked rate."""
UNLIMITED_BULK: Final = 64 << 20
CHUNK: Final = 64 << 10
CANNOT = (
    "A TCP proxy cannot show: the delay of the TCP handshake (the kernel of this machine completes it), lost segments "
    "and what TCP does about them (retransmission, congestion control): a loss on a real link is a wait here (`hold`). "
    "Jitter never reorders: on a busy stream a late chunk makes those behind it late."
)


@dataclass(frozen=True, slots=True)
class Verification:
    """Milliseconds and kbit/s; `asked` and what was measured."""

    asked_p50: float
    asked_p95: float
    direct_p50: float
    """Without the proxy."""
    p50: float
    p95: float
    least: float
    asked_up: float
    asked_down: float
    up: float
    down: float
    samples: int


def verify_profile(profile: WanProfile, samples: int) -> Verification:
    """Measure one profile. Takes up to about 25 s."""
    count = max(20, min(samples, round(LONGEST_S * 1000 / max(profile.rtt_ms, 1.0))))
    with _peer() as target:
        direct = sorted(_round_trips(target, 200, 0.0))
        with wan_process(target, profile) as wan:
            achieved = sorted(_round_trips(wan.address, count, profile.jitter_ms / 1000))
            up = _bulk(wan.address, b"s", _bulk_bytes(profile.up_kbit))
            down = _bulk(wan.address, b"f", _bulk_bytes(profile.down_kbit))
    serial = MESSAGE_BYTES * 8 * sum(1 / rate for rate in (profile.up_kbit, profile.down_kbit) if rate)
    # Two uniform draws of half the jitter add up to a triangle over -jitter..+jitter.
    late = profile.jitter_ms * (1 - math.sqrt(0.1))
    return Verification(
        asked_p50=profile.rtt_ms + serial,
        asked_p95=profile.rtt_ms + serial + late,
        direct_p50=direct[len(direct) // 2],
        p50=achieved[count // 2],
        p95=achieved[math.ceil(count * 0.95) - 1],
        least=achieved[0],
        asked_up=profile.up_kbit,
        asked_down=profile.down_kbit,
        up=up,
        down=down,
        samples=count,
    )


def show(results: Sequence[tuple[str, Verification]]) -> None:
    """Print what was asked for above what was achieved, and what it does not say."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("network", ""):
        table.add_column(column, no_wrap=True)
    for column in ("RTT p50 ms", "p95 ms", "least", "up Mbit/s", "down Mbit/s", "trips"):
        table.add_column(column, justify="right")
    for name, one in results:
        rates = [f"{rate / 1000:.2f}" if rate else "-" for rate in (one.asked_up, one.asked_down)]
        table.add_row(name, "asked", f"{one.asked_p50:.2f}", f"{one.asked_p95:.2f}", "", *rates)
        rates = [f"{rate / 1000:.2f}" for rate in (one.up, one.down)]
        figures = (f"{figure:.2f}" for figure in (one.p50, one.p95, one.least))
        table.add_row("", "achieved", *figures, *rates, str(one.samples))
    direct = [one.direct_p50 for _, one in results]
    console = Console()
    console.print(table)
    console.print(
        f"Without the proxy a round trip takes {min(direct):.2f} to {max(direct):.2f} ms (p50). A dash: no limit."
    )
    console.print(CANNOT)


def _bulk_bytes(kbit: float) -> int:
    return round(kbit * 125 * BULK_S) if kbit else UNLIMITED_BULK


def _connect(address: str) -> socket.socket:
    sock = socket.create_connection(parse_address(address, "address"), timeout=60.0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _round_trips(address: str, count: int, pause_s: float) -> list[float]:
    """Milliseconds. The pause keeps a late answer from making the next one late: order is kept on a link."""
    found = []
    with _connect(address) as sock:
        sock.sendall(b"e")
        for number in range(count + 5):
            begun = time.perf_counter()
            sock.sendall(b"x" * MESSAGE_BYTES)
            _receive(sock, MESSAGE_BYTES)
            if number >= 5:  # the first ones warm up caches
                found.append((time.perf_counter() - begun) * 1000)
            time.sleep(pause_s)
    return found


def _bulk(address: str, verb: bytes, size: int) -> float:
    """kbit/s at the receiver, from its first byte to its last; `verb` s: the peer receives, f: it sends."""
    with _connect(address) as sock:
        sock.sendall(verb + size.to_bytes(8, "big"))
        if verb == b"s":
            for offset in range(0, size, CHUNK):
                sock.sendall(bytes(min(CHUNK, size - offset)))
            return int.from_bytes(_receive(sock, 8), "big") / 1000
        return _count(sock, size)


def _count(sock: socket.socket, size: int) -> float:
    first = len(sock.recv(CHUNK))
    begun = time.perf_counter()
    left = size - first
    while left > 0:
        left -= len(_some(sock, min(CHUNK, left)))
    return (size - first) * 8 / 1000 / (time.perf_counter() - begun)


def _receive(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += _some(sock, size - len(found))
    return found


def _some(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    if not data:
        raise ConnectionError("the peer closed the connection in the middle of a measurement")
    return data


@contextlib.contextmanager
def _peer() -> Iterator[str]:
    """A server that echoes (e), sinks and tells the rate (s) or floods (f), one thread per connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener,), daemon=True)
        accepting.start()
        host, port = listener.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread up, closing does not
            accepting.join()


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:  # closed: the measurement is over
            return
        threading.Thread(target=_answer, args=(sock,), daemon=True).start()


def _answer(sock: socket.socket) -> None:
    with sock, contextlib.suppress(ConnectionError):  # the client decides when it has enough
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        verb = _receive(sock, 1)
        if verb == b"e":
            while True:
                sock.sendall(_receive(sock, MESSAGE_BYTES))
        size = int.from_bytes(_receive(sock, 8), "big")
        if verb == b"s":
            sock.sendall(round(_count(sock, size) * 1000).to_bytes(8, "big"))
        else:
            for offset in range(0, size, CHUNK):
                sock.sendall(bytes(min(CHUNK, size - offset)))
            _receive(sock, 1)  # never comes: waits until the client closes
