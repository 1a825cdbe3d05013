"""The streams of one generation, and the servers that they go to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edge_client.connections import Connections
from edge_client.stats import Traffic
from edge_client.transport import Ended, Stream, StreamFact
from shared.messages import Attached, CloudMessage, Commit, Drain, EdgeMessage, Limits, Opened
from shared.policy.servers import Balance
from shared.session.edge import Connect

HASHED_TOKENS: Final = 32
"""Of a prompt: enough to tell one instruction from another, few enough that all who share it share these."""


@dataclass(slots=True)
class _Way:
    """A stream and where it goes."""

    stream: Stream
    server: str
    opened: bool = False


class Route:
    """Used by one driver, on the event loop of the connections."""

    def __init__(self, connections: Connections, key: bytes) -> None:
        """`key`: see `Servers.choose`."""
        self._connections = connections
        self._key = key
        self._ways: dict[int, _Way] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self.traffic = Traffic()
        self.servers: list[str] = []
        """Where the session was opened, in this order."""
        self.waits_ns: dict[str, int | None] = {}
        """Servers that had no room since the session was open last, and when they said to come again."""

    def dial(self, connect: Connect, now: int, post: Callable[[StreamFact], None]) -> str | None:
        """Begin a stream, in the place of the others unless it is to go elsewhere; its server, None: there is none."""
        avoid = {way.server for way in self._ways.values()} if connect.elsewhere else set()
        way = self._connections.choose(now, self._key, avoid, connect.target)
        if not connect.elsewhere:
            self._leave_all()
        if way is None or (connect.elsewhere and way[0].at > now):
            return None
        choice, transport = way
        stream = transport.decode(connect.stream, self.traffic, post)
        self._ways[connect.stream] = _Way(stream, choice.server)
        self._connections.policy.taken(choice.server)
        return choice.server

    def limits(self, server: str) -> Limits:
        """What it accepts."""
        return self._connections.limits(server)

    def unknown(self, connect: Connect) -> bool:
        """Whether it is to go to a server that was never heard of."""
        return bool(connect.target) and not self._connections.knows(connect.target)

    async def learn(self, server: str) -> None:
        """See `Connections.learn`."""
        await self._connections.learn(server)

    def send(self, stream: int, message: EdgeMessage) -> bool:
        """Put a message on a stream; False: it has been replaced."""
        way = self._ways.get(stream)
        if way is None:
            return False
        way.stream.send(message)
        return True

    def received(self, stream: int, message: CloudMessage, now: int) -> None:
        """What came down a stream says how its server is."""
        way = self._ways.get(stream)
        if way is None:
            return
        match message:
            case Opened() | Attached():
                way.opened = True
                self.waits_ns.clear()
                self.servers.append(way.server)
            case Commit():
                self._connections.policy.progressed(way.server)
            case Drain():
                self._connections.draining(way.server, now)
            case _:
                pass

    def ended(self, ending: Ended, now: int) -> int | None:
        """A stream is over; when a server may be asked again, see `moving.Ending`."""
        way = self._ways.get(ending.stream)
        if way is not None:
            if not way.opened:
                self.waits_ns[way.server] = ending.wait_ns
            self._connections.ended(way.server, ending, now, opened=way.opened)
            self.leave(ending.stream)
        return self._connections.retry_at(now, {way.server for way in self._ways.values()})

    def leave(self, stream: int) -> None:
        """End it; what was sent on it before is still written."""
        way = self._ways.pop(stream, None)
        if way is not None:
            self._connections.policy.left(way.server)
            self._leaving.add(asyncio.create_task(way.stream.end()))

    async def close(self) -> None:
        """End all of them."""
        self._leave_all()
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _leave_all(self) -> None:
        for stream in list(self._ways):
            self.leave(stream)


def key_for(balance: Balance, prompt: Sequence[int]) -> bytes:
    """What decides where a generation goes: with `Balance.HASH` how its prompt begins, else chance."""
    if balance is Balance.HASH:
        return b"".join(token.to_bytes(4) for token in prompt[:HASHED_TOKENS])
    return secrets.token_bytes(8)
