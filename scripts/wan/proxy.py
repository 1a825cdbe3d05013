"""A TCP proxy that makes loopback behave like a wide-area link: delay, jitter, rate, order, outages.

Timing. Python's epoll and poll loops round timers to milliseconds and uvloop's timers have that granularity; `select`
takes microseconds. `run` therefore gives the proxy a select loop of its own, in a process of its own
(`scripts.wan.process`), where an arrival is late by 0.1 to 0.2 ms on an idle machine and never early. Inside another
loop the proxy is correct but as coarse as that loop's timers. `select` takes file descriptors up to 1023, about 500
connections.

What a TCP proxy cannot show: the handshake is not delayed (the kernel on this machine completes it), and no segment is
ever lost, so neither retransmission nor congestion control is felt. Loss on a real link appears as a wait: `hold`.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from scripts.wan.connection import Connection, Traffic
from scripts.wan.lane import Lane
from scripts.wan.profiles import Handover
from shared.errors import UserError
from shared.link import LinkProfile
from shared.profiled import mix


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a loop whose timers are exact to the kernel's timer slack."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(main)


class DelayProxy:
    """Listens while it is entered; every connection to `address` becomes one to `target` over the link."""

    def __init__(
        self,
        target: str,
        up: LinkProfile,
        down: LinkProfile,
        seed: int = 0,
        *,
        listen: str = "127.0.0.1:0",
        handover: Handover | None = None,
    ) -> None:
        """Args:
        target: HOST:PORT.
        up: from whoever connects to the target.
        down: back.
        seed: keys the jitter, with the connection's number, the direction and the place in the stream.
        listen: HOST:PORT; port 0 picks a free one.
        """
        self.target = parse_address(target, "--target")
        self.traffic = Traffic()
        self._listen = parse_address(listen, "--listen")
        self._links = (up, down)
        self._handover = handover
        self._seed = seed
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._held_until = 0

    @property
    def address(self) -> str:
        """HOST:PORT that it listens on."""
        if self._server is None:
            raise RuntimeError("the proxy has not been entered")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            UserError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, *self._listen)
        except OSError as error:
            raise UserError(
                f"cannot listen on {self._listen[0]}:{self._listen[1]}: {error.strerror}"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await asyncio.sleep(0)  # asyncio closes the sockets in its next round

    def hold(self, seconds: float) -> None:
        """An outage: for that long nothing comes out at either end, on present and on new connections."""
        self._held_until = max(self._held_until, time.monotonic_ns() + round(seconds * 1e9))
        for connection in self._connections:
            connection.hold(self._held_until)

    def cut(self) -> int:
        """Reset every connection at both ends now; returns how many. New ones are accepted."""
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        return len(connections)

    def _accept(self) -> asyncio.Protocol:
        number = self.traffic.connections
        self.traffic.connections += 1
        salt = mix(mix(self._seed) ^ number)
        lanes = [Lane(link, mix(salt ^ way), self._handover) for way, link in enumerate(self._links)]
        connection = Connection(self.target, lanes[0], lanes[1], self.traffic, self._connections.discard)
        self._connections.add(connection)
        connection.hold(self._held_until)
        return connection.edge


def parse_address(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT as a pair.

    Raises:
        UserError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{option} {text}: expected HOST:PORT, such as 127.0.0.1:50051")
    return host, int(port)
