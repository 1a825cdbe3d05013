"""The seam between the pool and whatever establishes facts: a real target, or a profiled synthetic one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from shared.errors import SlipstreamError
from shared.messages import ModelInfo
from shared.step import Step, StepOutcome


class StateError(SlipstreamError):
    """A session's state cannot be taken over: damaged, or of another format, model or log. Nothing has changed."""


@runtime_checkable
class Worker(Protocol):
    """Establishes facts. Driven from one thread of its own; calls never overlap."""

    @property
    def info(self) -> ModelInfo:
        """Which model states the facts."""
        ...

    @property
    def kv_tokens(self) -> int | None:
        """Tokens of all sessions that its cache can hold; None: as many as there are."""
        ...

    def step(self, step: Step) -> StepOutcome:
        """Perform a step, blocking the calling thread. After an exception the worker holds no KV and can go on."""
        ...

    def close(self) -> None:
        """Give back memory; no call may follow. Closing twice is fine."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A worker whose sessions can take their KV along. Called like `Worker.step`; a worker need not be one."""

    def export_state(self, session: int) -> bytes | None:
        """What it holds of a session, versioned and checksummed; None: nothing."""
        ...

    def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        """Hold what another worker exported of a session with this log; returns how many tokens of it are held now.

        Raises:
            StateError: it cannot be used.
        """
        ...
