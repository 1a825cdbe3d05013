"""Synthetic models: a worker that states facts and drafters that behave well or badly."""

from __future__ import annotations

from enum import Enum

from shared.policy.expansion import Candidate
from shared.profiled import PrefixStates, Profile, ProfiledPair
from shared.profiled_facts import ProfiledFacts
from shared.session.edge import Forward
from shared.sim.random import Keyed
from shared.step import Step, StepOutcome


class SyntheticWorker:
    """Establishes the facts of a profiled pair in no time. What it computes follows from the item alone (law 6)."""

    def __init__(self, pair: ProfiledPair, profile: Profile | None = None) -> None:
        """`profile`: what its steps cost, where that is not the pair's own."""
        self._profile = pair.profile if profile is None else profile
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
        self._paths: dict[tuple[int, ...], int] = {}
        """States at the ends of the paths that were asked for, as long as the log's end stays where it is."""

    @property
    def profile(self) -> Profile:
        """What the pair looks like from outside."""
        return self._pair.profile

    @property
    def perfect(self) -> bool:
        """Whether it proposes nothing but the target's tokens."""
        return self._temper is Temper.PERFECT

    def forward(self, request: Forward) -> list[list[Candidate]]:
        """One list of candidates per path."""
        end = self._prefix.at(request.log, request.log_length)
        if self._paths.get(()) != end:
            self._paths = {(): end}
        return [self._children(self._at(path), request.width) for path in request.paths]

    def _at(self, path: tuple[int, ...]) -> int:
        state = self._paths.get(path)
        if state is None:
            above = self._paths.get(path[:-1])  # as a rule, since a node is forwarded after its parent
            state, left = (self._paths[()], path) if above is None else (above, path[-1:])
            for token in left:
                state = self._pair.follow(state, token)
            self._paths[path] = state
        return state

    def _children(self, state: int, width: int) -> list[Candidate]:
        if self._temper is Temper.GOOD:
            return self._pair.candidates(state, width)
        target, size = self._pair.target(state), self._pair.profile.vocabulary_size
        match self._temper:
            case Temper.PERFECT:
                return [Candidate(target, 0.01)]
            case Temper.WRONG:
                return [Candidate((target + 1 + i) % size, 0.01 * i) for i in range(width)]
            case Temper.RANDOM:
                return [
                    Candidate(self._random.integer(0, size - 1), self._random.uniform(0.0, 3.0))
                    for _ in range(width)
                ]
