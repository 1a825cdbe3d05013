"""The sessions of one server by their ids: who may join them, and how long one lives without its owner.

A session is held while its owner's stream stands, and for a grace after that while drafters are attached to it: the
owner may come back, and finds its log, tree and KV as it left them, or further on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared.session.cloud import CloudSession
from shared.session.joining import same_secret

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """What names a session to its edge; drawn by the driver, since machines know no randomness."""

    session_id: str
    secret: str

    def __repr__(self) -> str:
        return f"Ticket({self.session_id})"


@dataclass(slots=True, eq=False)
class Held:
    """A session, and what proves that somebody who names it may."""

    session: CloudSession
    ticket: Ticket
    ends_at: int | None = None
    """ns. When its grace is over; None: its owner's stream stands."""


class HeldSessions:
    """Every session that is served, once."""

    def __init__(self, grace_s: float) -> None:
        self._grace_ns = round(grace_s * NANOSECONDS)
        self._by_id: dict[str, Held] = {}
        self._alone: dict[str, Held] = {}
        """Those that have been without their owner: few, so that nothing has to be searched for."""

    def __iter__(self) -> Iterator[Held]:
        return iter(self._by_id.values())

    def add(self, held: Held) -> None:
        """Serve it from now on."""
        self._by_id[held.ticket.session_id] = held

    def release(self, held: Held) -> None:
        """It is over."""
        self._by_id.pop(held.ticket.session_id, None)
        self._alone.pop(held.ticket.session_id, None)

    def find(self, session_id: str, secret: str) -> Held | None:
        """The session of that name, if the secret is its own."""
        held = self._by_id.get(session_id)
        own = "" if held is None else held.ticket.secret
        return held if same_secret(own, secret) else None

    def with_key(self, key: int) -> Held | None:
        """The session that the pool knows by this key."""
        return next((held for held in self if held.session.key == key), None)

    def without_owner(self, held: Held, now: int) -> None:
        """Its owner's stream is gone: the grace begins, unless the session went with it."""
        if held.ends_at is None and held.ticket.session_id in self._by_id:
            held.ends_at = now + self._grace_ns
            self._alone[held.ticket.session_id] = held

    def ending(self, now: int) -> list[Held]:
        """Those whose grace is over."""
        if not self._alone:
            return []
        return [held for held in self if held.ends_at is not None and held.ends_at <= now]

    def wake_at(self) -> int | None:
        """When the next grace is over; None: no session is without its owner."""
        return min((at for held in self._alone.values() if (at := held.ends_at) is not None), default=None)
