"""Acceptance processes: how a synthetic drafter's luck is spread along a text.

One target, many drafters: what the target draws never depends on the process (law 2), only the drafter's candidates
do. Everything is a function of the prefix (laws 3 and 6): what a process has to remember (its mood, its place in a
recording) is carried in the prefix's state, above the target's own state, and follows from the tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from shared.drafter_trace import DrafterTrace, read_trace
from shared.errors import UserError
from shared.policy.expansion import Candidate
from shared.profiled import Profile, ProfiledPair, mix, parse_profile, unit

_TARGET_BITS: Final = 128
"""The target's own state lies in the lower bits of a prefix's state, what the process remembers above them."""
_TARGET: Final = (1 << _TARGET_BITS) - 1
_MOOD, _PLACE, _TEXT = 0x4D, 0x91, 0x92
"""Salts: what is drawn of a state is drawn apart from the pair's own draws."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """The profile's own: from acceptance 0.6 on half of the contexts are easy, each by itself."""


@dataclass(frozen=True, slots=True)
class Iid:
    """Every context alike, at the profile's acceptance."""


@dataclass(frozen=True, slots=True)
class Markov:
    """Two moods that last: runs of easy contexts and runs of hard ones. Takes the place of the profile's acceptance.

    The first token of a prompt is in either mood with the stationary share; each later token keeps its predecessor's
    with the mood's probability to stay. Whatever the drafter proposes, it knows the mood that it is in.
    """

    easy: float = 0.98
    """Acceptance in the easy mood; 0..1."""
    hard: float = 0.62
    """Acceptance in the hard mood; 0..`easy`."""
    stay_easy: float = 0.9
    """Probability that an easy context is followed by an easy one; 0..1."""
    stay_hard: float = 0.9
    """The same of a hard one; at most one of the two is 1."""

    def __post_init__(self) -> None:
        for name in ("easy", "hard", "stay_easy", "stay_hard"):
            value: float = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} {value} is outside 0..1")
        if self.hard > self.easy:
            raise ValueError(f"hard {self.hard} is above easy {self.easy}")
        if self.stay_easy + self.stay_hard >= 2.0:
            raise ValueError("stay_easy and stay_hard are both 1: the mood would never change")

    @property
    def easy_share(self) -> float:
        """Stationary share of easy contexts."""
        return (1.0 - self.stay_hard) / (2.0 - self.stay_easy - self.stay_hard)

    @property
    def acceptance(self) -> float:
        """Share of contexts in which the first candidate is right."""
        return self.easy_share * self.easy + (1.0 - self.easy_share) * self.hard

    @property
    def autocorrelation(self) -> float:
        """Of the mood, from one token to the next; after n tokens it is the n-th power."""
        return self.stay_easy + self.stay_hard - 1.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A real drafter's luck and estimates, as they were recorded. Takes the place of the profile's acceptance.

    Along the target's own text the recording is replayed in its order; at the end of a recorded text another one
    begins. A token that is not the target's (a prompt's, a wrong draft's) leads to a place in the recording that
    follows from the prefix: so each prompt starts somewhere else, and wherever nothing was recorded, candidates have
    the recording's marginal statistics.
    """

    trace: DrafterTrace


Process = Profiled | Iid | Markov | Recorded


def make_pair(profile: Profile, process: Process, target: ProfiledPair | None = None) -> ProfiledPair:
    """The target of a profile with the drafter of a process.

    Args:
        profile: of both; where a process has an acceptance of its own, the pair's profile states that one.
        process: where the drafter is right.
        target: whose text is drafted, if not the profile's own; made for the same vocabulary.

    Raises:
        ValueError: the target's vocabulary is another one.
    """
    if target is not None and target.profile.vocabulary_size != profile.vocabulary_size:
        raise ValueError(
            f"a target of {target.profile.vocabulary_size} tokens, and a drafter of {profile.vocabulary_size}"
        )
    match process:
        case Profiled():
            return ProfiledPair(profile) if target is None else _Drafting(profile, target)
        case Iid():
            alike = replace(profile, iid=True)
            return ProfiledPair(alike) if target is None else _Drafting(alike, target)
        case Markov():
            return _Moody(profile, process, target)
        case Recorded():
            return _Replaying(profile, process.trace, target)


def parse_pair(text: str) -> ProfiledPair:
    """A pair from `profiled:name=value,...`: everything that `parse_profile` reads, and a process.

    `process=markov` takes `easy`, `hard`, `stay_easy` and `stay_hard`; `process=trace` takes `trace=FILE`, a file of
    `scripts.record_trace`; `process=iid` and `process=profiled` take nothing.

    Raises:
        UserError: an unknown name, a value out of range, a name that the process does not take, or a file that cannot
            be read.
    """
    kind, _, given = text.partition(":")
    parts = [part.partition("=") for part in filter(None, given.split(","))]
    own = {name: value for name, _, value in parts if name in _PROCESS_NAMES}
    rest = ",".join("".join(part) for part in parts if part[0] not in _PROCESS_NAMES)
    profile = parse_profile(f"{kind}:{rest}")
    try:
        return make_pair(profile, _parse_process(own))
    except ValueError as error:
        raise UserError(f"profiled model: {error}") from error


_MOODS: Final = tuple(field.name for field in fields(Markov))
_PROCESSES: Final[dict[str, tuple[str, ...]]] = {
    "profiled": (),
    "iid": (),
    "markov": _MOODS,
    "trace": ("trace",),
}
"""Names of processes, and what each takes."""
_PROCESS_NAMES: Final = frozenset({"process", "trace", *_MOODS})


def _parse_process(own: dict[str, str]) -> Process:
    name = own.pop("process", "profiled")
    if name not in _PROCESSES:
        raise ValueError(f"process {name!r} is not one of {', '.join(_PROCESSES)}")
    if stray := [one for one in own if one not in _PROCESSES[name]]:
        raise ValueError(f"{stray[0]} is not taken by process={name}")
    match name:
        case "iid":
            return Iid()
        case "markov":
            return Markov(**{one: _number(one, value) for one, value in own.items()})
        case "trace":
            if "trace" not in own:
                raise ValueError("process=trace needs trace=FILE")
            return Recorded(read_trace(Path(own["trace"])))
        case _:
            return Profiled()


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name}={text!r} is not a number") from error


class _Drafting(ProfiledPair):
    """Facts of a given target, guesses of a profile; without a memory of its own."""

    def __init__(self, profile: Profile, target: ProfiledPair | None) -> None:
        super().__init__(profile)
        self._own = target if target is not None else ProfiledPair(profile)

    def state(self, prefix: Sequence[int]) -> int:
        own = self._own.state(())
        state = own | self._first(own) << _TARGET_BITS
        for token in prefix:
            state = self.follow(state, token)
        return state

    def follow(self, state: int, token: int) -> int:
        own = self._own.follow(state & _TARGET, token)
        return own | self._then(state, token, own) << _TARGET_BITS

    def target(self, state: int) -> int:
        return self._own.target(state & _TARGET)

    def _first(self, own: int) -> int:
        """What is remembered at the empty prefix; `own` is the target's state there."""
        return 0

    def _then(self, state: int, token: int, own: int) -> int:
        """What is remembered after `token`; `own` is the target's state then."""
        return 0


class _Moody(_Drafting):
    """Remembers its mood: 0 before the first token, 1 hard, 2 easy."""

    def __init__(self, profile: Profile, process: Markov, target: ProfiledPair | None) -> None:
        super().__init__(replace(profile, acceptance=process.acceptance), target)
        self._process = process
        self._easy_after = (process.easy_share, 1.0 - process.stay_hard, process.stay_easy)
        self._acceptance = (process.acceptance, process.hard, process.easy)

    def _then(self, state: int, token: int, own: int) -> int:
        # One draw for all moods: texts that part come to the same mood again, and none is drawn twice.
        return 2 if unit(own, _MOOD) < self._easy_after[state >> _TARGET_BITS] else 1

    def confidence(self, state: int) -> float:
        return self._acceptance[state >> _TARGET_BITS]


class _Replaying(_Drafting):
    """Remembers its place in the recording."""

    def __init__(self, profile: Profile, trace: DrafterTrace, target: ProfiledPair | None) -> None:
        super().__init__(replace(profile, acceptance=trace.acceptance), target)
        self._guesses = [guess for text in trace.texts for guess in text]
        self._starts: list[int] = []
        self._after: list[int | None] = []
        """The place that follows; None at the end of a text."""
        for text in trace.texts:
            start = len(self._after)
            self._starts.append(start)
            self._after += [*range(start + 1, start + len(text)), None]

    def _first(self, own: int) -> int:
        return mix(own ^ _PLACE) % len(self._guesses)

    def _then(self, state: int, token: int, own: int) -> int:
        if token != self._own.target(state & _TARGET):
            return self._first(own)
        after = self._after[state >> _TARGET_BITS]
        return after if after is not None else self._starts[mix(own ^ _TEXT) % len(self._starts)]

    def confidence(self, state: int) -> float:
        """What the drafter gave its first candidate here."""
        return math.exp(-self._guesses[state >> _TARGET_BITS].costs[0])

    def candidates(self, state: int, width: int) -> list[Candidate]:
        """As many as were recorded, if more are asked for."""
        guess, target, size = (
            self._guesses[state >> _TARGET_BITS],
            self.target(state),
            self.profile.vocabulary_size,
        )
        stride = 1 + mix(state ^ 0x33) % (size // 64)
        return [
            Candidate(target if rank == guess.rank else (target + (rank + 1) * stride) % size, cost)
            for rank, cost in enumerate(guess.costs[:width])
        ]
