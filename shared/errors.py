"""Errors that cross the boundary between parts, and the status codes that the contract names."""

from __future__ import annotations

import enum


class Status(enum.Enum):
    """The gRPC status codes that this protocol uses; values are the codes' names."""

    OK = "OK"
    CANCELLED = "CANCELLED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    UNKNOWN = "UNKNOWN"

    @property
    def transient(self) -> bool:
        """Whether opening again, with the same log, can succeed without anybody changing anything."""
        return self in (Status.UNAVAILABLE, Status.ABORTED)


class SlipstreamError(Exception):
    """Base of every error that this product raises on purpose."""


class ContractViolation(SlipstreamError):
    """The peer broke a rule of the contract (proto/README.md). Nothing has been changed by the message."""

    def __init__(self, status: Status, message: str, *, retry_ms: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_ms = retry_ms
        """For want of room only: in how many milliseconds there is probably some."""


class UserError(SlipstreamError):
    """Something the user can mend: one line that says what is wrong and what to do next. Exit code 2."""
