"""Sessions whose logs grow to a context, and steps of a wanted size over them, for the product's own verifier."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from cloud_server.verifier import DRAFT_SLOTS, Verifier
from shared.sampling import SamplingParams
from shared.step import Step, StepItem, StepNode

PREFILL_SESSIONS: Final = 4
"""Sessions whose logs are computed by one step: bounds the memory of its activations."""


@dataclass(slots=True)
class Sessions:
    """Sessions 0..n-1 of one verifier, all with logs of one length."""

    verifier: Verifier
    vocabulary_size: int
    seed: int = 0
    temperature: float = 0.0
    logs: list[list[int]] = field(default_factory=list)
    context: int = 0
    _chains: list[list[int]] = field(default_factory=list)
    _steps: int = 0

    def resize(self, sessions: int, context: int) -> None:
        """So many sessions with logs of `context` tokens (no shorter than now), all but the last one computed."""
        released = tuple(range(sessions, len(self.logs)))
        del self.logs[sessions:], self._chains[sessions:]
        self._do((), released=released)
        for session in range(sessions):
            if session == len(self.logs):
                self.logs.append([])
                self._chains.append(self._text(f"{session} draft", DRAFT_SLOTS))
            self.logs[session] += self._text(f"{session}", context)[len(self.logs[session]) :]
        self.context = context
        for first in range(0, sessions, PREFILL_SESSIONS):
            group = range(first, min(first + PREFILL_SESSIONS, sessions))
            self._do(tuple(self._item(session, context - 1, 0, end=False) for session in group))

    def step(self, nodes: int, sessions: int, number: int = 0) -> Step:
        """A step that forwards `nodes` tokens of the first `sessions` sessions: ends, and a chain below each."""
        self._steps += 1
        each, more = divmod(nodes, sessions)
        items = tuple(
            self._item(session, self.context, each - 1 + (session < more), seed=number)
            for session in range(sessions)
        )
        return Step(self._steps, items)

    def _text(self, name: str, count: int) -> list[int]:
        """Random tokens; a longer text of one name begins with the shorter."""
        return random.Random(f"{self.seed} {name}").choices(range(self.vocabulary_size), k=count)

    def _item(self, session: int, length: int, drafts: int, *, end: bool = True, seed: int = 0) -> StepItem:
        chain = self._chains[session][:drafts]
        nodes = tuple(StepNode(1 + i, token, i - 1, wanted=True) for i, token in enumerate(chain))
        sampling = SamplingParams(temperature=self.temperature, seed=seed << 16 | session)
        return StepItem(session, self.logs[session], length, nodes, 0 if end else None, sampling, length)

    def _do(self, items: tuple[StepItem, ...], released: Sequence[int] = ()) -> None:
        self._steps += 1
        self.verifier.step(Step(self._steps, items, tuple(released)))


@dataclass(frozen=True, slots=True)
class Effort:
    """How long one point is measured."""

    least: int
    """Steps that are timed at least."""
    most: int
    seconds: float
    """Between the two: no further step once the point has taken this long."""
    warm_up: int = 2
    """Steps that do not count."""


def median_ms(sessions: Sessions, nodes: int, count: int, effort: Effort, device: torch.device) -> float:
    """Milliseconds of a step of `nodes` tokens in `count` sessions: the median after a warm-up.

    Raises:
        AssertionError: a step computed another number of tokens, so the figure would be of something else.
    """
    took: list[float] = []
    began = time.perf_counter()
    for number in range(effort.warm_up + effort.most):
        if number >= effort.warm_up + effort.least and time.perf_counter() - began > effort.seconds:
            break
        step = sessions.step(nodes, count, number)
        synchronise(device)
        start = time.perf_counter()
        outcome = sessions.verifier.step(step)
        synchronise(device)
        took.append((time.perf_counter() - start) * 1e3)
        computed = sum(item.computed for item in outcome.items)
        if computed != nodes:
            raise AssertionError(f"a step of {nodes} tokens computed {computed}")
    return statistics.median(took[effort.warm_up :])


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
