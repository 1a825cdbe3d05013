"""What a user is told while a generation goes on: that the connection is lost, and that it is back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_client.driver import Event
from edge_client.transport import Ended, Received
from shared.messages import Commit, Finish
from shared.session.edge import Connect, Failed

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

    def __str__(self) -> str:
        """For people."""
        return f"connection lost ({self.why}), trying again for {math.ceil(self.trying_for_s)} s"


@dataclass(frozen=True, slots=True)
class ConnectionBack:
    """Tokens come again. None was lost."""

    after_s: float

    def __str__(self) -> str:
        """For people."""
        return f"connected again after {self.after_s:.1f} s"


Notice = ConnectionLost | ConnectionBack
OnNotice = Callable[[Notice], None]


class OutageWatch:
    """Sees in a session's events (`driver.Observe`) when its connection is lost and when tokens come again.

    Back is what brings a token, not what merely opens: a server that takes the stream and drops it, over and over, is
    one outage.
    """

    def __init__(self, give_up_after_s: float, on_notice: OnNotice | None) -> None:
        self.lost_at: int | None = None
        """ns; None: the connection stands."""
        self.why = ""
        """What ended the stream last, for people."""
        self.failed_at: int | None = None
        self._patience_s = give_up_after_s
        self._on_notice = on_notice
        self._advanced_at: int | None = None
        self._stream = 0

    @property
    def lasted_s(self) -> float | None:
        """How long the outage lasted that the session gave up in; None: it did not end like that."""
        if self.lost_at is None or self.failed_at is None:
            return None
        return (self.failed_at - self.lost_at) / NANOSECONDS

    def observe(self, now: int, event: Event) -> None:
        """See `driver.Observe`."""
        match event:
            case Connect(stream):
                self._stream = stream
                self._connecting(now)
            case Received(stream, Commit() | Finish()) if stream == self._stream:
                self._advanced(now)
            case Ended(stream, _, detail) if stream == self._stream:
                self.why = in_plain_words(detail)
            case Failed():
                self.failed_at = now
            case _:
                pass

    def _connecting(self, now: int) -> None:
        if self._advanced_at is None:  # the first time, and again until there is progress
            first, self._advanced_at = True, now
        else:
            first = False
        if first or self.lost_at is not None:
            return
        self.lost_at = now
        left = self._patience_s - (now - self._advanced_at) / NANOSECONDS
        self._tell(ConnectionLost(self.why, max(left, 0.0)))

    def _advanced(self, now: int) -> None:
        self._advanced_at = now
        if self.lost_at is not None:
            after, self.lost_at = (now - self.lost_at) / NANOSECONDS, None
            self._tell(ConnectionBack(after))

    def _tell(self, notice: Notice) -> None:
        if self._on_notice is not None:
            self._on_notice(notice)


def in_plain_words(detail: str) -> str:
    """Why a stream ended, without the transport's own vocabulary."""
    return (
        next((plain for words, plain in TRANSPORT_WORDS if words in detail), detail) or "no reason was given"
    )
