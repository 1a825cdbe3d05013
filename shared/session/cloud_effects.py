"""What a CloudSession asks of its driver: values, to be performed in the order in which they are returned."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import Status
from shared.messages import CloudMessage, SessionNotice


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message on a stream."""

    stream: int
    message: CloudMessage


@dataclass(frozen=True, slots=True)
class EndStream:
    """End a stream with a status; nothing follows on it."""

    stream: int
    status: Status
    detail: str = ""
    retry_ms: int | None = None
    """With RESOURCE_EXHAUSTED for want of room: when it is worth while to come again, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell a stream that watches of a session."""

    stream: int
    notice: SessionNotice


CloudEffect = Send | EndStream | Announce
