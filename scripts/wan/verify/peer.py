"""The far end of a measurement: `python -m scripts.wan.verify.peer HOST`. Says `listening on HOST:PORT`, TCP and UDP.

UDP: a probe comes back with the time of its arrival and the count of probes so far; a flood is counted, or sent on
request. TCP: likewise, one thread per connection. Times are of the one monotonic clock that both ends, on one machine,
read.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from scripts.wan.relay import TCP_NOTSENT_LOWAT
from scripts.wan.select_loop import be_punctual

PROBE: Final = struct.Struct("!cxxxIqqq")
"""Kind, number, sent (ns), arrived (ns), count: 32 bytes."""
FLOOD: Final = struct.Struct("!cxxxIqqq")
"""Kind, duration (ms), kbit/s, first arrival (ns), last arrival (ns)."""
DATAGRAM: Final = 1200
HEADERS: Final = 28
"""IP and UDP."""
CHUNK: Final = 64 << 10


def flood(send: Callable[[bytes], object], kbit_per_s: float, seconds: float) -> None:
    """Datagrams at an even pace, by the rate that they have with their headers."""
    gap = (DATAGRAM + HEADERS) * 8 / kbit_per_s / 1000
    begun = time.monotonic()
    number = 0
    data = b"u" + bytes(DATAGRAM - 1)
    while (ahead := number * gap) < seconds:
        wait = begun + ahead - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        send(data)
        number += 1


class Tally:
    """A flood that arrives."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget."""
        self._bytes, self._first, self._last, self._head = 0, 0, 0, 0

    def add(self, size: int) -> None:
        """A datagram, or a piece of a stream."""
        self._last = time.monotonic_ns()
        if not self._bytes:
            self._first, self._head = self._last, size
        self._bytes += size

    @property
    def kbit_per_s(self) -> float:
        """From the first arrival to the last."""
        return (
            (self._bytes - self._head) * 8e6 / (self._last - self._first) if self._last > self._first else 0.0
        )


def serve_udp(sock: socket.socket, tally: Tally) -> None:
    """Until the process ends."""
    be_punctual()  # each thread for itself
    count = 0
    while True:
        data, sender = sock.recvfrom(2048)
        kind = data[:1]
        if kind == b"p":
            count += 1
            _, number, sent, _, _ = PROBE.unpack(data)
            sock.sendto(PROBE.pack(b"p", number, sent, time.monotonic_ns(), count), sender)
        elif kind == b"z":
            count = 0
            tally.clear()
        elif kind == b"u":
            tally.add(len(data) + HEADERS)
        elif kind == b"d":
            _, milliseconds, kbit, _, _ = FLOOD.unpack(data)
            flood(lambda one, to=sender: sock.sendto(one, to), kbit, milliseconds / 1000)  # type: ignore[misc]


def serve_tcp(sock: socket.socket, tally: Tally) -> None:
    """One connection; its first byte says what it is for."""
    with sock, contextlib.suppress(ConnectionError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        kind = sock.recv(1)
        if kind == b"e":
            be_punctual()
            while data := receive(sock, PROBE.size):
                _, number, sent, _, count = PROBE.unpack(data)
                sock.sendall(PROBE.pack(b"p", number, sent, time.monotonic_ns(), count))
        elif kind == b"s":  # a stream that arrives
            mine = Tally()
            while data := sock.recv(CHUNK):
                mine.add(len(data))
            sock.sendall(struct.pack("!d", mine.kbit_per_s))
        elif kind == b"f":  # a stream that is sent
            (seconds,) = struct.unpack("!d", receive(sock, 8))
            send_for(sock, seconds)
        elif kind == b"r":  # what the UDP flood came to
            sock.sendall(struct.pack("!d", tally.kbit_per_s))


def send_for(sock: socket.socket, seconds: float) -> None:
    """As much as the stream takes in that time, then its end."""
    end = time.monotonic() + seconds
    sock.settimeout(0.2)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, CHUNK)  # else megabytes wait here at its end
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            sock.send(bytes(16 << 10))
    sock.settimeout(None)
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or nothing if the stream ends."""
    found = b""
    while len(found) < size:
        data = sock.recv(size - len(found))
        if not data:
            return b""
        found += data
    return found


def main(host: str) -> None:
    """Serve on a free port until the process is ended."""
    tally = Tally()
    with (
        socket.create_server((host, 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        port = listener.getsockname()[1]
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        datagrams.bind((host, port))
        threading.Thread(target=serve_udp, args=(datagrams, tally), daemon=True).start()
        print(f"listening on {host}:{port}", flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve_tcp, args=(sock, tally), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
