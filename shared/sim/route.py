"""Which server a session's streams go to: the live edge's own policy, told what `edge_client` tells it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shared.errors import Status
from shared.messages import CloudMessage, Commit, Drain
from shared.policy.servers import Balance, Servers
from shared.session.edge import Connect
from shared.session.moving import REFUSALS
from shared.sim.clock import MILLISECOND, SECOND
from shared.sim.link import CloudEnd

DRAINED = 10 * SECOND
"""A server that goes away is left alone for so long."""


class Route:
    """The servers of one edge, by their index. All of them hold the model."""

    def __init__(
        self, servers: Sequence[CloudEnd], balance: Balance = Balance.FIRST, key: bytes = b""
    ) -> None:
        """`key`: see `Servers.choose`."""
        self.servers = servers
        self._key = key
        self._policy = Servers(balance)
        for index in range(len(servers)):
            self._policy.add(str(index))
            self._policy.fit(str(index))
            self._policy.told(str(index), 0, latency=0)

    def told(self, server: int, *, latency: int, open_sessions: int, max_sessions: int) -> None:
        """How busy it is, as it says when it introduces itself. `latency`: ns that this took."""
        self._policy.told(
            str(server), 0, latency=latency, open_sessions=open_sessions, max_sessions=max_sessions
        )

    @property
    def several(self) -> bool:
        """Whether there is another server to go to."""
        return len(self.servers) > 1

    def dial(self, connect: Connect, now: int, used: Collection[int]) -> int | None:
        """The server for a stream, while streams to the `used` stand; None: there is none."""
        avoid = {str(index) for index in used} if connect.elsewhere else set()
        choice = self._policy.choose(now, self._key, avoid, connect.target)
        if choice is None or (connect.elsewhere and choice.at > now):
            return None
        self._policy.taken(choice.server)
        return int(choice.server)

    def received(self, server: int, message: CloudMessage, now: int) -> None:
        """What came down a stream says how its server is."""
        if isinstance(message, Commit):
            self._policy.progressed(str(server))
        elif isinstance(message, Drain) and self.several:
            self._policy.draining(str(server), now, DRAINED)

    def ended(
        self, server: int, status: Status, now: int, *, opened: bool, retry_ms: int | None = None
    ) -> None:
        """A stream to it ended; `opened`: the session had begun on it. `retry_ms`: for how long it is full."""
        if status is Status.RESOURCE_EXHAUSTED and not opened:
            if self.several or retry_ms is not None:
                wait = None if retry_ms is None else retry_ms * MILLISECOND
                self._policy.refused(str(server), now, wait)
        elif not self.several:
            return
        elif status in REFUSALS and not opened:
            self._policy.unfit(str(server))
        elif status.transient or not opened:
            self._policy.failed(str(server), now)

    def left(self, server: int) -> None:
        """A stream to it is not used any more."""
        self._policy.left(str(server))

    def retry_at(self, now: int, used: Collection[int]) -> int | None:
        """When a server may be asked (ns); None: it is not known, or there is none."""
        choice = self._policy.choose(now, b"", {str(index) for index in used})
        if choice is None or (choice.at <= now and not self.several):
            return None
        return choice.at
