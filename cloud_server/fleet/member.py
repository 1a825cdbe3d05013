"""What a worker looks like to the fleet, wherever it runs: values, and the interfaces of places and members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.errors import SlipstreamError
from shared.messages import ModelInfo
from shared.step import Step, StepOutcome


class StartError(SlipstreamError):
    """A place has no worker now; a later attempt may succeed."""


class HopelessError(StartError):
    """A place will not have a worker unless somebody mends something. No further attempt is made, except that somebody
    may mend what runs on another machine while this server serves.
    """


@dataclass(frozen=True, slots=True)
class Description:
    """How a worker introduces itself."""

    info: ModelInfo
    """Which model; its limits mean nothing."""
    kv_tokens: int | None
    """Tokens of all sessions that its cache can hold; None: as many as there are."""
    name: str
    """Where it runs, for people."""


# What a member reports. Nothing follows `Gone`.


@dataclass(frozen=True, slots=True)
class Answered:
    """Its step is done."""

    outcome: StepOutcome


@dataclass(frozen=True, slots=True)
class Raised:
    """Its step raised; it has lost its caches and goes on."""

    error: str
    """Name of the error."""
    message: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """It was asked to go, and serves until its sessions are elsewhere."""


@dataclass(frozen=True, slots=True)
class Gone:
    """It is lost."""

    reason: str


Report = Answered | Raised | Leaving | Gone


class Member(Protocol):
    """A worker that is up. Used on one event loop."""

    @property
    def description(self) -> Description:
        """What it said of itself."""
        ...

    def begin(self, report: Callable[[Report], None]) -> None:
        """From now on what happens is reported, on the event loop. Called once, before any step."""
        ...

    def submit(self, step: Step) -> None:
        """Perform a step: `Answered` or `Raised` follows, or `Gone`. The one before has come back."""
        ...

    async def export_state(self, session: int) -> bytes | None:
        """See `Movable.export_state`; None also where the worker is not one.

        Raises:
            StateError: the worker is lost.
        """
        ...

    async def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        """See `Movable.import_state`.

        Raises:
            StateError: it cannot be used, the worker is not `Movable`, or is lost.
        """
        ...

    async def close(self, *, kill: bool) -> str:
        """Give it back; returns how it ended, in words, or nothing. `kill`: it is lost, do not ask it nicely."""
        ...


class Place(Protocol):
    """Where a worker runs."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def local(self) -> bool:
        """Whether this server starts it: then it is waited for at the start, and failing to start is an error."""
        ...

    async def open(self) -> Member:
        """A worker that is up.

        Raises:
            StartError: there is none now.
        """
        ...

    async def close(self) -> None:
        """No worker is wanted here any more; its member is closed already."""
        ...
