"""What a user is told while a generation goes on: servers that are lost, back, gone elsewhere, or no use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_client.addresses import listed
from edge_client.transport import Dialled, Ended, Received
from shared.messages import Commit, Finish, Opened
from shared.session.edge import Connect, Failed, Leave

if TYPE_CHECKING:
    from edge_client.driver import Event

NANOSECONDS: Final = 1_000_000_000
TRANSPORT_WORDS: Final = (
    ("failed to connect to all addresses", "nobody answers there"),
    ("resolution", "its name cannot be resolved"),
    ("timeout", "it stopped answering"),
    ("Socket closed", "the connection broke"),
    ("recvmsg", "the connection broke"),
    ("Connection reset", "the connection broke"),
    ("Broken pipe", "the connection broke"),
    ("GOAWAY", "the server ended the connection"),
    ("Cancelling all calls", "the server stopped"),
)
"""What gRPC says by itself contains the first; people are told the second. A server's own words are kept."""


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The stream ended before its time; it is opened again until the time is over."""

    why: str
    trying_for_s: float
    server: str = ""
    """Which one of several."""

    def __str__(self) -> str:
        """For people."""
        patience = f"for {math.ceil(self.trying_for_s)} s"
        if not self.server:
            return f"connection lost ({self.why}), trying again {patience}"
        return f"{self.server} lost ({self.why}), trying the other servers {patience}"


@dataclass(frozen=True, slots=True)
class ConnectionBack:
    """Tokens come again. None was lost."""

    after_s: float
    server: str = ""
    """Which one of several."""

    def __str__(self) -> str:
        """For people."""
        at = f" to {self.server}" if self.server else ""
        return f"connected again{at} after {self.after_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Moved:
    """A server goes away, and the generation goes on at another. No token was lost."""

    left: str
    server: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.left} is going away: the generation goes on at {self.server}"


@dataclass(frozen=True, slots=True)
class ServerDown:
    """One of several servers cannot be used now."""

    server: str
    why: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        """For people."""
        return f"{self.server}: {self.why}; going on with {listed(self.others)}"


@dataclass(frozen=True, slots=True)
class ServerUnfit:
    """It holds another model than the first one that answered."""

    server: str
    name: str
    model_fingerprint: str
    first: str

    def __str__(self) -> str:
        """For people."""
        fingerprint = f" {self.model_fingerprint[:16]}" if self.model_fingerprint else ""
        return (
            f"{self.server} holds another model ({self.name}{fingerprint}) than {self.first}: it is not used, "
            "serve one model with the same settings everywhere"
        )


@dataclass(frozen=True, slots=True)
class ServerRefuses:
    """It does not take a session that another server takes."""

    server: str
    why: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.server} does not take the session ({self.why}): it is not used any more"


Notice = ConnectionLost | ConnectionBack | Moved | ServerDown | ServerUnfit | ServerRefuses
OnNotice = Callable[[Notice], None]


class OutageWatch:
    """Sees in a session's events (`driver.Observe`) when its connection is lost and when tokens come again.

    Back is what brings a token, not what merely opens: a server that takes the stream and drops it, over and over, is
    one outage.
    """

    def __init__(
        self, give_up_after_s: float, on_notice: OnNotice | None, several: Callable[[], bool] = bool
    ) -> None:
        """`several`: whether there are several servers, so that it is worth while to name them."""
        self.lost_at: int | None = None
        """ns; None: the connection stands."""
        self.why = ""
        """What ended the stream last, for people."""
        self.failed_at: int | None = None
        self._patience_s = give_up_after_s
        self._on_notice = on_notice
        self._advanced_at: int | None = None
        self._several = several
        self._begun = False
        self._stream = 0
        """The one that counts."""
        self._servers: dict[int, str] = {}
        """Where each stream went."""

    @property
    def lasted_s(self) -> float | None:
        """How long the outage lasted that the session gave up in; None: it did not end like that."""
        if self.lost_at is None or self.failed_at is None:
            return None
        return (self.failed_at - self.lost_at) / NANOSECONDS

    def observe(self, now: int, event: Event) -> None:
        """See `driver.Observe`."""
        match event:
            case Connect(stream, at, elsewhere=False):
                was, self._stream = self._at(self._stream), stream
                # Before the first is open, to ask the next of several is no loss.
                self._connecting(now, was, news=self._begun or at > now or not self._several())
            case Dialled(stream, server):
                self._servers[stream] = server
            case Received(stream, Opened()) if stream >= self._stream:
                self._stream, self._begun = stream, True
            case Leave(stream):
                self._tell(Moved(self._at(stream), self._at(self._stream)))
            case Received(stream, Commit() | Finish()) if stream == self._stream:
                self._advanced(now)
            case Ended(stream, _, detail) if stream == self._stream:
                self.why = in_plain_words(detail)
            case Failed():
                self.failed_at = now
            case _:
                pass

    def _at(self, stream: int) -> str:
        return self._servers.get(stream, "") if self._several() else ""

    def _connecting(self, now: int, was: str, *, news: bool) -> None:
        if self._advanced_at is None:  # the first time, and again until there is progress
            first, self._advanced_at = True, now
        else:
            first = False
        if first or not news or self.lost_at is not None:
            return
        self.lost_at = now
        left = self._patience_s - (now - self._advanced_at) / NANOSECONDS
        self._tell(ConnectionLost(self.why, max(left, 0.0), was))

    def _advanced(self, now: int) -> None:
        self._advanced_at = now
        if self.lost_at is not None:
            after, self.lost_at = (now - self.lost_at) / NANOSECONDS, None
            self._tell(ConnectionBack(after, self._at(self._stream)))

    def _tell(self, notice: Notice) -> None:
        if self._on_notice is not None:
            self._on_notice(notice)


def in_plain_words(detail: str) -> str:
    """Why a stream ended, without the transport's own vocabulary."""
    return (
        next((plain for words, plain in TRANSPORT_WORDS if words in detail), detail) or "no reason was given"
    )
