"""What an EdgeSession asks of its driver: values, to be performed in the order in which they are returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import Status
from shared.messages import EdgeMessage, FinishReason


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a stream at time `at` (ns); answered with `connected` or `lost`."""

    stream: int
    at: int
    elsewhere: bool = False
    """At another server than the one that serves now, which goes on until `Leave`. `lost` if there is no other."""
    target: str = ""
    """Where that one said to go; empty: it named none."""


@dataclass(frozen=True, slots=True)
class Leave:
    """End this stream: what was sent on it before is still written, what it says is not read any more."""

    stream: int


@dataclass(frozen=True, slots=True)
class SendUp:
    """Put a message on the stream."""

    stream: int
    message: EdgeMessage


@dataclass(frozen=True, slots=True)
class Forward:
    """One drafter forward: candidates for the children of each node; answered with `drafted`."""

    keys: tuple[int, ...]
    log: Sequence[int]
    """By reference: append-only."""
    log_length: int
    paths: tuple[tuple[int, ...], ...]
    """For each node the tokens from the end of `log[:log_length]` down to it; empty for the end itself."""
    width: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Tokens that are now final, for the user."""

    position: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The generation is complete. Nothing follows."""

    reason: FinishReason
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The generation cannot go on. Nothing follows."""

    status: Status
    message: str


EdgeEffect = Connect | Leave | SendUp | Forward | Emit | Done | Failed
