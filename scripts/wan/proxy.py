"""A TCP proxy that makes loopback behave like a wide-area link: delay, jitter, rate, order, outages.

Timing. Python's epoll and poll loops round timers to milliseconds and uvloop's timers have that granularity; `select`
takes microseconds. `run_exact` therefore gives the proxy a select loop of its own, in a process of its own
(`scripts.wan.process`), where an arrival is late by 0.1 to 0.2 ms on an idle machine and never early. Inside another
loop the proxy is correct but as coarse as that loop's timers. `select` takes file descriptors up to 1023, about 500
connections.

What a TCP proxy cannot show: the handshake is not delayed (the kernel on this machine completes it), and no segment is
ever lost, so neither retransmission nor congestion control is felt. Loss appears as the wait that TCP's repetition
would take (`shared.link`), an approximation.
"""

from __future__ import annotations

import asyncio
import selectors
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from scripts.wan.connection import Connection
from scripts.wan.lane import Lane
from scripts.wan.select_loop import be_punctual
from scripts.wan.traffic import Traffic
from scripts.wan.verbs import perform
from shared.errors import UserError
from shared.link import Bottleneck, LinkProfile
from shared.profiled import mix


def run_exact(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a loop whose timers are exact to the kernel's timer slack."""
    be_punctual()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main)


def stream_salt(seed: int, connection: int, way: int) -> int:
    """What keys a connection's jitter and loss in one direction (0: up, 1: down)."""
    return mix(mix(mix(seed) ^ connection) ^ way)


class DelayProxy:
    """While it is entered, every connection to an address that `reach` gave becomes one to its target over the link."""

    def __init__(self, up: LinkProfile, down: LinkProfile, seed: int = 0) -> None:
        """Args:
        up: from whoever connects to the target.
        down: back.
        seed: keys the jitter and the loss, with the connection's number, the direction and the place in the stream.
        """
        self.traffic = Traffic()
        self._links = (up, down)
        self._round_trip_ms = up.delay_ms + down.delay_ms
        self._bottlenecks = (Bottleneck(), Bottleneck())
        self._seed = seed
        self._begun = time.monotonic_ns()
        self._connections: set[Connection] = set()
        self._addresses: dict[tuple[str, int], str] = {}
        self._servers: list[asyncio.Task[asyncio.Server]] = []
        self._held_until = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            (await server).close()
        self.cut()
        await asyncio.sleep(0)  # asyncio closes the sockets in its next round

    def reach(self, server: tuple[str, int], listen: tuple[str, int] = ("127.0.0.1", 0)) -> str:
        """HOST:PORT behind which `server` is from now on; `listen` with port 0 picks a free one.

        Raises:
            UserError: the address cannot be listened on.
        """
        if server not in self._addresses:
            family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
            try:
                sock = socket.create_server(listen, family=family)
            except OSError as error:
                raise UserError(f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror}") from error
            # Whoever connects before asyncio accepts waits in the kernel's queue.
            loop = asyncio.get_running_loop()
            serving = loop.create_server(lambda: self._accept(server), sock=sock)
            self._servers.append(loop.create_task(serving))
            host, port = sock.getsockname()[:2]
            self._addresses[server] = f"{host}:{port}"
        return self._addresses[server]

    def hold(self, seconds: float) -> None:
        """For that long nothing comes out at either end, on present and on new connections; nothing is lost."""
        self._held_until = max(self._held_until, time.monotonic_ns() + round(seconds * 1e9))
        for connection in self._connections:
            connection.hold(self._held_until)

    def cut(self) -> int:
        """Reset every connection at both ends now; returns how many. New ones are accepted."""
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        return len(connections)

    def _accept(self, server: tuple[str, int]) -> asyncio.Protocol:
        number = self.traffic.connections
        self.traffic.connections += 1
        up, down = (
            Lane(
                link,
                stream_salt(self._seed, number, way),
                round_trip_ms=self._round_trip_ms,
                begun=self._begun,
                bottleneck=self._bottlenecks[way],
            )
            for way, link in enumerate(self._links)
        )
        connection = Connection(server, up, down, self.traffic, self._connections.discard)
        self._connections.add(connection)
        connection.hold(self._held_until)
        return connection.edge


async def serve_proxy(proxy: DelayProxy, *, control: bool) -> None:
    """Run until SIGINT or SIGTERM; with `control` also obey the verbs on standard input, until it ends."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    if control:
        verbs = asyncio.create_task(_obey(proxy))
        verbs.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
        if verbs.done():
            verbs.result()
        verbs.cancel()
    else:
        await stopped.wait()


async def _obey(proxy: DelayProxy) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(perform(proxy, line.decode()), flush=True)
