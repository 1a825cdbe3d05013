"""The streams of one generation: the one that counts, one that is left for another server, one that was asked for.

Law 1 and law 6 make moving simple: what the old server decides after the new stream was opened is held back, not
applied. When the new one is open it is thrown away, since the same facts follow there; when the new one comes to
nothing it is applied as if nothing had been tried. So no token is lost and none comes twice.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from shared.errors import Status
from shared.messages import CloudMessage, Commit, Finish, Limits, Opened
from shared.policy.reconnect import Reconnect
from shared.session.edge_effects import Connect
from shared.session.uplink import Uplink

REFUSALS: Final = frozenset(
    {
        Status.RESOURCE_EXHAUSTED,
        Status.FAILED_PRECONDITION,
        Status.UNAUTHENTICATED,
        Status.PERMISSION_DENIED,
        Status.UNIMPLEMENTED,
    }
)
"""Before the session was open: this server does not take it, another may. After that: this edge broke a rule."""


@dataclass(slots=True)
class Leaving:
    """The stream that is being left: it stands, and takes over again if the new one comes to nothing."""

    stream: int
    uplink: Uplink
    limits: Limits
    opened: bool
    """Whether the session had been opened on it."""
    held: list[CloudMessage] = field(default_factory=list)
    """What it said since. Bounded: the cloud runs so far ahead of what was seen here and no further."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the stream that counted ended, and what is known of the servers."""

    status: Status
    opened: bool
    """Whether the session had been opened on it."""
    again: bool
    """Whether a stream was lost before, and none was opened since."""
    retry_at: int | None
    """When a server may be asked (ns; not after now: one is ready); None: nothing is known of that."""

    def worth_another(self, reconnect: Reconnect, now: int) -> bool:
        """Whether to open again with the log."""
        if not reconnect.allows(now if self.retry_at is None else max(now, self.retry_at)):
            return False
        if self.status.transient:
            return True
        if self.opened:
            return False
        if self.retry_at is None:
            # A full server may not have noticed yet that the stream before is gone.
            return self.status is Status.RESOURCE_EXHAUSTED and self.again
        return self.status in REFUSALS and (self.retry_at <= now or self.again)

    def next_attempt(self, reconnect: Reconnect, now: int) -> int:
        """When to make it (ns)."""
        if self.retry_at is None:
            return reconnect.next_attempt(now)
        # Another server is no second attempt: nobody waits for it.
        return now if self.retry_at <= now else max(reconnect.next_attempt(now), self.retry_at)


class Loss(enum.Enum):
    """What a lost stream was."""

    LATE = enum.auto()
    """One that does not count any more."""
    UNMADE = enum.auto()
    """It was asked for beside the one that stands, and could not be made."""
    NEW = enum.auto()
    """It was to take over from the one that stands."""
    CURRENT = enum.auto()
    """The one that counts."""


class Streams:
    """Their numbers, and which of them counts. A number is used once."""

    def __init__(self) -> None:
        self.current = 0
        """The stream that counts; 0: before the first."""
        self.connected = False
        self.opened = False
        """Whether the session is open on it."""
        self.moving = False
        """Another was asked for beside it, and has not been made yet."""
        self.leaving: Leaving | None = None
        self.reopening = False
        """One was lost, and none was opened since."""
        self._asked = 0

    def ask(self, at: int) -> Connect:
        """For a stream that counts from now on."""
        self._asked += 1
        self._begin()
        return Connect(self._asked, at)

    def ask_elsewhere(self, at: int, target: str) -> Connect:
        """For a stream beside the one that counts."""
        self._asked += 1
        self.moving = True
        return Connect(self._asked, at, elsewhere=True, target=target)

    def made(self, stream: int, uplink: Uplink, limits: Limits) -> bool:
        """The stream stands, and counts from now on; `uplink` and `limits` are the last one's. False: it is late."""
        if stream != self._asked or not (self.moving or stream == self.current):
            return False
        if self.moving:
            self.leaving, self.moving = Leaving(self.current, uplink, limits, self.opened), False
        self.current, self.connected, self.opened = stream, True, False
        return True

    def counts(self, stream: int, message: CloudMessage) -> bool:
        """Whether a message is to be applied now."""
        if self.leaving is not None and stream == self.leaving.stream:
            self.leaving.held.append(message)
        return stream == self.current

    def in_order(self, message: CloudMessage) -> bool:
        """Whether the stream that counts may be told this now: `Opened` once, before any token and before the end."""
        return not isinstance(message, Opened | Commit | Finish) or isinstance(message, Opened) != self.opened

    def was_opened(self) -> None:
        """The session is open on the one that counts."""
        self.opened, self.reopening = True, False

    def ending(self, status: Status, retry_at: int | None) -> Ending:
        """How the one that counted ended."""
        return Ending(status, self.opened, self.reopening, retry_at)

    def left(self) -> int | None:
        """The stream that was left is needed no more: its number, if there is one."""
        if self.leaving is None:
            return None
        old, self.leaving = self.leaving.stream, None
        return old

    def lost(self, stream: int) -> Loss:
        """The stream is gone. The caller goes on from there: `ask`, `follow` or `stay`."""
        if self.leaving is not None and stream == self.leaving.stream:
            self.leaving = None  # what it said last is decided again where the log was opened since
        if self.moving and stream == self._asked:
            self.moving = False
            return Loss.UNMADE
        if stream != self.current:
            return Loss.LATE
        if self.leaving is not None:
            return Loss.NEW
        self.connected = False
        return Loss.CURRENT

    def follow(self) -> bool:
        """The one that counted is gone: the one that was asked for beside it counts, if there is one."""
        if not self.moving:
            return False
        self._begin()
        return True

    def stay(self) -> Leaving | None:
        """The one that was being left counts again."""
        old, self.leaving = self.leaving, None
        if old is not None:
            self.current, self.opened = old.stream, old.opened
        return old

    def _begin(self) -> None:
        self.current, self.connected, self.opened, self.moving = self._asked, False, False, False
