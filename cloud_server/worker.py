"""The seam between the pool and whatever establishes facts: a real target, or a profiled synthetic one."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from shared.messages import ModelInfo
from shared.step import Step, StepOutcome


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
