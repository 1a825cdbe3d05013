"""Joins the far end of the link to servers anywhere: a TCP connection from the link, one to the server, bytes between.

The link's own connection is real TCP from the edge's program to this relay. The relay adds a hop without any delay of
its own and as little room as it can: what the link does not take stays with its sender.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final

from scripts.wan.select_loop import SelectLoop
from scripts.wan.traffic import Traffic
from shared.errors import UserError

Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

FD_SETSIZE: Final = 1024
CHUNK: Final = 64 << 10
TCP_NOTSENT_LOWAT: Final = 25
NOT_SENT_BYTES: Final = 32 << 10
"""Beyond what TCP has in flight, this much may wait in the socket towards the edge: the server feels the rate."""
SERVER_BUFFER: Final = 64 << 10
LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


class Relay:
    """All connections that come out of the link."""

    def __init__(self, loop: SelectLoop, listen: Callable[[], socket.socket]) -> None:
        """`listen` makes a listening socket at the far end of the link."""
        self._loop = loop
        self._listen = listen
        self._listeners: dict[str, socket.socket] = {}
        self._joints: set[Joint] = set()
        self.traffic = Traffic()

    def reach(self, server: tuple[str, int]) -> str:
        """HOST:PORT at the far end of the link behind which `server` is.

        Raises:
            UserError: the server's name cannot be resolved.
        """
        key = f"{server[0]}:{server[1]}"
        if key not in self._listeners:
            try:
                family, _, _, _, address = socket.getaddrinfo(*server, type=socket.SOCK_STREAM)[0]
            except OSError as error:
                raise UserError(f"cannot resolve {server[0]}: {error.strerror}") from error
            listener = self._listen()
            listener.setblocking(False)
            self._listeners[key] = listener
            self._loop.read(listener.fileno(), lambda: self._accept(listener, family, address))
        host, port = self._listeners[key].getsockname()
        return f"{host}:{port}"

    def cut(self) -> int:
        """Reset every connection at both ends; returns how many."""
        joints = list(self._joints)
        for joint in joints:
            joint.reset()
        return len(joints)

    def _accept(self, listener: socket.socket, family: int, address: Address) -> None:
        try:
            edge, _ = listener.accept()
        except OSError:  # it was reset before it was accepted
            return
        server = socket.socket(family, socket.SOCK_STREAM)
        if (
            max(edge.fileno(), server.fileno()) >= FD_SETSIZE
        ):  # `select` cannot watch it: refuse, do not fall over
            edge.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            edge.close()
            server.close()
            return
        self.traffic.connections += 1
        edge.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SERVER_BUFFER)
        for sock in (edge, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        joint = Joint(self._loop, edge, server, self.traffic, self._joints.discard)
        self._joints.add(joint)
        joint.connect(address)


class Joint:
    """One connection from the link and one to the server."""

    def __init__(
        self,
        loop: SelectLoop,
        edge: socket.socket,
        server: socket.socket,
        traffic: Traffic,
        over: Callable[[Joint], None],
    ) -> None:
        self._loop = loop
        self._edge, self._server = edge, server
        self._over = over
        self._up = Half(loop, edge, server, traffic.up, self)
        self._down = Half(loop, server, edge, traffic.down, self)

    def connect(self, address: Address) -> None:
        """Begin to connect to the server; the edge is read when that stands."""
        try:
            with contextlib.suppress(BlockingIOError):
                self._server.connect(address)
        except OSError:  # whoever connected to the relay is refused in the one way left
            self.reset()
        else:
            self._loop.write(self._server.fileno(), self._connected)

    def reset(self) -> None:
        """Close both with a reset."""
        for sock in (self._edge, self._server):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self._close()

    def ended(self) -> None:
        """One direction has delivered its end."""
        if self._up.done and self._down.done:
            self._close()

    def _connected(self) -> None:
        self._loop.write(self._server.fileno(), None)
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.reset()
        else:
            self._up.start()
            self._down.start()

    def _close(self) -> None:
        for sock in (self._edge, self._server):
            self._loop.read(sock.fileno(), None)
            self._loop.write(sock.fileno(), None)
            sock.close()
        self._over(self)


class Half:
    """One direction: what is read is written before more is read."""

    def __init__(
        self,
        loop: SelectLoop,
        source: socket.socket,
        sink: socket.socket,
        count: Callable[[int], None],
        joint: Joint,
    ) -> None:
        self._loop = loop
        self._source, self._sink = source, sink
        self._count = count
        self._joint = joint
        self._left = b""
        self.done = False
        """The end of this direction has been delivered."""

    def start(self) -> None:
        """Read."""
        self._loop.read(self._source.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = self._source.recv(CHUNK)
            if data:
                self._send(data)
            else:
                self._loop.read(self._source.fileno(), None)
                self.done = True
                with contextlib.suppress(
                    OSError
                ):  # the sink has left in the meantime: there is nobody to tell
                    self._sink.shutdown(socket.SHUT_WR)
                self._joint.ended()
        except BlockingIOError:
            return
        except OSError:  # reset by either side, or timed out: the other learns it
            self._joint.reset()

    def _write(self) -> None:
        try:
            self._send(self._left)
        except OSError:
            self._joint.reset()

    def _send(self, data: bytes) -> None:
        """Keeps what the sink does not take, and reads no more until it has taken it."""
        try:
            sent = self._sink.send(data)
        except BlockingIOError:
            sent = 0
        self._count(sent)
        waited = bool(self._left)
        self._left = data[sent:]
        if self._left and not waited:
            self._loop.read(self._source.fileno(), None)
            self._loop.write(self._sink.fileno(), self._write)
        elif waited and not self._left:
            self._loop.write(self._sink.fileno(), None)
            self.start()
