"""Synthetic models: a worker that states facts and drafters that behave well or badly."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from shared.policy.expansion import Candidate
from shared.profiled import PrefixStates, Profile, ProfiledPair
from shared.profiled_facts import ProfiledFacts
from shared.session.edge import Forward
from shared.sim.random import Keyed
from shared.step import Step, StepOutcome


class SyntheticWorker:
    """Establishes the facts of a profiled pair in no time. What it computes follows from the item alone (law 6)."""

    def __init__(self, pair: ProfiledPair) -> None:
        self._profile = pair.profile
        self._facts = ProfiledFacts(pair)

    def duration_ms(self, step: Step) -> float:
        """How long the step is to last, by the profile and by what is held now; 0 if nothing is asked."""
        return self._profile.duration_ms(self._facts.load(step)) if step.items else 0.0

    def step(self, step: Step, duration_us: int) -> StepOutcome:
        """The outcome of a step that is said to take `duration_us`."""
        return StepOutcome(self._facts.establish(step), duration_us)

    def forget(self, session: int) -> None:
        """Evict a session's cache."""
        self._facts.forget(session)

    def length_of(self, session: int) -> int:
        """Trunk tokens in the cache of a session."""
        return self._facts.length_of(session)

    def hold(self, session: int, length: int) -> None:
        """So many trunk tokens of a session have come from another worker."""
        self._facts.hold(session, length)

    @property
    def nodes(self) -> int:
        """Facts evaluated so far."""
        return self._facts.stated

    @property
    def held(self) -> int:
        """Sessions in the cache."""
        return self._facts.sessions


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
