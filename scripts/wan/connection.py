"""One proxied connection: two sockets, and a lane each way between them.

Laws: what comes out is what went in, in order; nothing comes out before its lane says so; a half-close travels behind
the bytes before it and leaves the other direction open; a reset travels likewise and ends both. A lane that is full
stops the reading of its sender, a receiver that does not read stops its lane: memory is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, cast

from scripts.wan.lane import End, Item, Lane
from scripts.wan.traffic import Traffic

LINGER_NONE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""
READ_BYTES: Final = 64 << 10
"""What the kernel may take from a sender while its lane is full: megabytes there would hide a rate from it."""
WRITE_BYTES: Final = 64 << 10
"""What may wait in this process for a receiver that does not read."""


class Connection:
    """Lives from the edge's connecting until both sockets are closed; then calls `over` once."""

    def __init__(
        self,
        target: tuple[str, int],
        up: Lane,
        down: Lane,
        traffic: Traffic,
        over: Callable[[Connection], None],
    ) -> None:
        self._target = target
        self._over = over
        self._connecting: asyncio.Task[None] | None = None
        self._ended = False
        self.edge, self.cloud = Side(self), Side(self)
        self._up = Pipe(up, self.edge, self.cloud, self, traffic.up)
        self._down = Pipe(down, self.cloud, self.edge, self, traffic.down)
        self.edge.wire(out=self._up, into=self._down)
        self.cloud.wire(out=self._down, into=self._up)

    def hold(self, until: int) -> None:
        """Nothing comes out before `until` (ns, monotonic)."""
        self._up.hold(until)
        self._down.hold(until)

    def abort(self) -> None:
        """Reset both ends now; what is on its way is lost."""
        self._ended = True
        if self._connecting is not None:
            self._connecting.cancel()
        for pipe in (self._up, self._down):
            pipe.stop()
        for side in (self.edge, self.cloud):
            side.reset()
        self._over(self)

    def made(self, side: Side) -> None:
        """A socket stands. The edge's is read only when there is somewhere to write."""
        if self._ended:  # cut while it was connecting
            side.reset()
        elif side is self.edge:
            side.pause()
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:
            self._connecting = None
            self.edge.resume()
            # Old event loops ignore a pause before the first read: what came by then is on the lane already.
            self._up.deliver()

    def lost(self, side: Side) -> None:
        """A socket broke: the other end learns it at the far end of the link."""
        (self._down if side is self.edge else self._up).stop()
        (self._up if side is self.edge else self._down).feed(End.RESET)

    def closed(self) -> None:
        """One direction has delivered its end."""
        if self._up.done and self._down.done:
            self._ended = True
            for side in (self.edge, self.cloud):
                side.close()
            self._over(self)

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.cloud, *self._target)
        except OSError:  # nobody listens there: whoever connected to the proxy is refused in the one way left
            self._connecting = None
            self.abort()


class Pipe:
    """Drives a lane: takes what its source reads, gives its sink what has arrived."""

    def __init__(
        self, lane: Lane, source: Side, sink: Side, connection: Connection, count: Callable[[int], None]
    ) -> None:
        self._lane = lane
        self._source, self._sink = source, sink
        self._connection = connection
        self._count = count
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.done = False
        """The end of this direction has been delivered."""

    def feed(self, item: Item) -> None:
        """Something was read."""
        if self._stopped:
            return
        self._lane.push(time.monotonic_ns(), item)
        if self._lane.full:
            self._source.pause()
        self._schedule()

    def deliver(self) -> None:
        """Write what has arrived, unless the sink does not read."""
        self._cancel()
        while not self._stopped and not self._sink.blocked:
            item = self._lane.pop(time.monotonic_ns())
            if item is None:
                break
            self._write(item)
        if not self._stopped and not self._lane.full:
            self._source.resume()
        self._schedule()

    def hold(self, until: int) -> None:
        """Nothing comes out before `until`; a timer that is set for earlier finds that out itself."""
        self._lane.hold(until)

    def stop(self) -> None:
        """Nobody is there to receive."""
        self._stopped = True
        self._cancel()

    def _write(self, item: Item) -> None:
        if item is End.RESET:
            self._connection.abort()
        elif item is End.CLOSED:
            self.done = True
            self._sink.write_end()
            self._connection.closed()
        else:
            self._count(len(item))
            self._sink.transport.write(item)

    def _schedule(self) -> None:
        due = self._lane.next_due()
        if self._timer is None and due is not None and not self._stopped and not self._sink.blocked:
            # A negative delay is due at once; a loop that fires early finds nothing to pop and comes back here.
            delay = (due - time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay, self.deliver)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Side(asyncio.Protocol):
    """One of the two sockets."""

    transport: asyncio.Transport
    _out: Pipe
    _into: Pipe

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open = False
        self._ended = False
        self._paused = False
        self.blocked = True
        """Nothing can be written now: it is not connected yet, or does not read."""

    def wire(self, *, out: Pipe, into: Pipe) -> None:
        """Name the pipes: what is read here goes `out`, what is written here comes from `into`."""
        self._out, self._into = out, into

    def pause(self) -> None:
        """Stop reading."""
        if self._open and not self._ended and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._open and not self._ended and self._paused:
            self._paused = False
            self.transport.resume_reading()

    def write_end(self) -> None:
        """Half-close."""
        if self._open:
            with contextlib.suppress(OSError):  # the peer has left in the meantime: there is nobody to tell
                self.transport.write_eof()

    def close(self) -> None:
        """Close after what was written has left."""
        if self._open:
            self._open = False
            self.transport.close()

    def reset(self) -> None:
        """Close with a reset, now."""
        if self._open:
            self._open = False
            sock = cast("socket.socket", self.transport.get_extra_info("socket"))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            self.transport.abort()

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock = cast("socket.socket", self.transport.get_extra_info("socket"))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
        self.transport.set_write_buffer_limits(high=WRITE_BYTES)
        self._open, self.blocked = True, False
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        self._out.feed(data)

    def eof_received(self) -> bool:
        self._ended = True
        self._out.feed(End.CLOSED)
        return True  # the other direction stays open

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self._into.deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._open:  # not by our own closing
            self._open = False
            self._connection.lost(self)
