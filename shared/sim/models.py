"""Synthetic models: a worker that states facts and drafters that behave well or badly."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from shared.policy.expansion import Candidate
from shared.profiled import PrefixStates, Profile, ProfiledPair
from shared.session.edge import Forward
from shared.sim.random import Keyed
from shared.step import Fact, ItemOutcome, Step, StepItem, StepOutcome


class SyntheticWorker:
    """Establishes the facts of a profiled pair. What it computes follows from the item alone (law 6)."""

    def __init__(self, pair: ProfiledPair) -> None:
        self._pair = pair
        self._states: dict[int, PrefixStates] = {}
        self.nodes = 0
        """Facts evaluated so far."""

    def step(self, step: Step, duration_us: int) -> StepOutcome:
        """The outcome of a step that is said to take `duration_us`."""
        for session in step.released:
            self._states.pop(session, None)
        return StepOutcome(tuple(self._item(item) for item in step.items), duration_us)

    def forget(self, session: int) -> None:
        """Evict a session's cache."""
        self._states.pop(session, None)

    @property
    def held(self) -> int:
        """Sessions in the cache."""
        return len(self._states)

    def _item(self, item: StepItem) -> ItemOutcome:
        prefix = self._states.setdefault(item.session, PrefixStates(self._pair))
        end = prefix.at(item.log, item.length)
        states: list[int] = []
        facts: list[tuple[int, Fact]] = []
        if item.end_key is not None:
            facts.append((item.end_key, Fact(self._pair.target(end))))
        for node in item.nodes:
            state = self._pair.follow(end if node.parent < 0 else states[node.parent], node.token)
            states.append(state)
            if node.wanted:
                facts.append((node.key, Fact(self._pair.target(state))))
        self.nodes += len(facts)
        return ItemOutcome(item.session, tuple(facts), item.length, len(item.nodes) + 1)


class Temper(Enum):
    """How a synthetic drafter behaves."""

    GOOD = "good"
    RANDOM = "random"
    """Tokens and costs out of the air."""
    WRONG = "wrong"
    """Never the target's token, and very sure of it."""
    PERFECT = "perfect"
    """Always the target's token."""


class SyntheticDrafter:
    """Candidates of a profiled pair for one session's log."""

    def __init__(self, pair: ProfiledPair, temper: Temper = Temper.GOOD, seed: int = 0) -> None:
        self._pair = pair
        self._temper = temper
        self._random = Keyed(seed, "drafter")
        self._prefix = PrefixStates(pair)

    @property
    def profile(self) -> Profile:
        """What the pair looks like from outside."""
        return self._pair.profile

    def forward(self, request: Forward) -> list[list[Candidate]]:
        """One list of candidates per path."""
        end = self._prefix.at(request.log, request.log_length)
        return [self._children(end, path, request.width) for path in request.paths]

    def _children(self, end: int, path: Sequence[int], width: int) -> list[Candidate]:
        state = end
        for token in path:
            state = self._pair.follow(state, token)
        target, size = self._pair.target(state), self._pair.profile.vocabulary_size
        match self._temper:
            case Temper.GOOD:
                return self._pair.candidates(state, width)
            case Temper.PERFECT:
                return [Candidate(target, 0.01)]
            case Temper.WRONG:
                return [Candidate((target + 1 + i) % size, 0.01 * i) for i in range(width)]
            case Temper.RANDOM:
                return [
                    Candidate(self._random.integer(0, size - 1), self._random.uniform(0.0, 3.0))
                    for _ in range(width)
                ]
