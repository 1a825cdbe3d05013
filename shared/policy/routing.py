"""Which worker of a pool a session is given to (cloud).

Asked once when a session opens, and again when its worker goes. Routing costs or saves time, never a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_GOLDEN = 0x9E3779B97F4A7C15
"""Odd, 2**64 over the golden ratio: multiplying by it spreads numbers that follow each other (Knuth, TAOCP 3, 6.4)."""
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What routing knows of one worker that takes sessions."""

    worker: int
    sessions: int
    """That are given to it now."""
    tokens: int
    """Length of their logs together."""
    step_us: float
    """Its average verify step; 0: nothing was measured yet."""
    token_us: float
    """What it takes to prefill one token; 0: nothing was measured yet."""
    cached: int
    """Tokens at the beginning of the log in question whose KV it holds already, from whichever session."""


class Routing(Protocol):
    """Chooses among workers that take sessions."""

    def choose(self, key: int, length: int, loads: Sequence[WorkerLoad]) -> int:
        """The worker for the session with this key and a log of so many tokens; `loads` is not empty."""
        ...


@dataclass(frozen=True, slots=True)
class RandomRouting:
    """Any worker, by the session's key alone."""

    def choose(self, key: int, length: int, loads: Sequence[WorkerLoad]) -> int:
        """See `Routing.choose`."""
        mixed = key * _GOLDEN & _MASK
        mixed = (mixed ^ mixed >> 29) * _GOLDEN & _MASK
        return loads[(mixed >> 32) * len(loads) >> 32].worker


@dataclass(slots=True)
class RoundRobin:
    """One after another."""

    last: int = -1

    def choose(self, key: int, length: int, loads: Sequence[WorkerLoad]) -> int:
        """See `Routing.choose`."""
        numbers = sorted(load.worker for load in loads)
        self.last = next((number for number in numbers if number > self.last), numbers[0])
        return self.last


@dataclass(frozen=True, slots=True)
class ShortestQueue:
    """The worker with the fewest sessions."""

    def choose(self, key: int, length: int, loads: Sequence[WorkerLoad]) -> int:
        """See `Routing.choose`."""
        return min(loads, key=lambda load: (load.sessions, load.worker)).worker


@dataclass(frozen=True, slots=True)
class LeastWork:
    """The worker on which the session will have to wait least: for its prompt, and for each token.

    A token waits for a step, and a step is as long as the worker is slow: a slow one gets fewer sessions. What a worker
    holds of the prompt already it need not compute. Work that others wait for counts for as long as a text usually is.
    """

    expected_tokens: int = 128
    """Tokens of a completion."""
    unknown_step_us: float = 30_000.0
    unknown_token_us: float = 300.0
    """Of a worker that has measured nothing, if no other has either."""
    crowding: float = 0.05
    """By how much one more session in a step makes it longer."""

    def choose(self, key: int, length: int, loads: Sequence[WorkerLoad]) -> int:
        """See `Routing.choose`."""
        step = _known([load.step_us for load in loads], self.unknown_step_us)
        token = _known([load.token_us for load in loads], self.unknown_token_us)

        def cost(load: WorkerLoad) -> float:
            prompt = max(0, length - load.cached) * (load.token_us or token)
            # The prompt delays everybody who is there already, and this session delays them from then on.
            waits = (load.step_us or step) * self.expected_tokens
            return prompt + waits * (1.0 + self.crowding * load.sessions)

        return min(loads, key=lambda load: (cost(load), load.sessions, load.worker)).worker


def _known(values: Sequence[float], otherwise: float) -> float:
    measured = [value for value in values if value > 0.0]
    return sum(measured) / len(measured) if measured else otherwise
