"""Co-located speculation on the product's own server: the verifier's device drafts for all its sessions, then verifies.

The drafter takes the place of prompt lookup as the source of the cloud's own guesses: a chain below the end of each
log. Before each step it runs `lookahead` forwards one after the other, each for all the step's sessions together, and
the step verifies all their nodes at once. What a forward for several sessions costs is told in two ways: `Batching`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

from scripts.bench_capacity.setting import Batching
from shared.hardware import StepLoad
from shared.policy.batching import FlatBudget
from shared.policy.lookup import Guess, LookupCounts, PromptLookup
from shared.profiled import PrefixStates, Profile, ProfiledPair
from shared.session.front import CloudPolicies

LONGEST = 8
"""Lookaheads beyond it are worth nothing at these acceptances."""
ANY = 1 << 20


@dataclass(frozen=True, slots=True)
class ColocatedProfile(Profile):
    """A verifier that drafts first."""

    lookahead: int = 0
    batching: Batching = Batching.FREE

    def duration_ms(self, load: StepLoad) -> float:
        """Of the drafting and of the step."""
        sequences = load.sessions if self.batching is Batching.PAID else 1
        return self.lookahead * self.forward_ms(sequences) + Profile.duration_ms(self, load)


class OwnDrafter(PromptLookup):
    """The guesses of one session: a chain of the pair's drafter."""

    def __init__(self, pair: ProfiledPair, lookahead: int, counts: LookupCounts | None = None) -> None:
        super().__init__(counts)
        self._pair = pair
        self._lookahead = lookahead
        self._states = PrefixStates(pair)

    def read(self, log: Sequence[int], length: int) -> None:
        """See `PromptLookup.read`."""
        self._states.at(log, length)

    def guess(self, log: Sequence[int], length: int) -> list[Guess]:
        """See `PromptLookup.guess`."""
        state = self._states.at(log, length)
        guesses: list[Guess] = []
        for _ in range(self._lookahead):
            (candidate,) = self._pair.candidates(state, 1)
            guesses.append(Guess(candidate.token, self._pair.profile.acceptance))
            state = self._pair.follow(state, candidate.token)
        return guesses


def colocated(pair: Profile, lookahead: int, batching: Batching) -> ColocatedProfile:
    """The verifier of `pair` with the drafter on its device."""
    values = {one.name: getattr(pair, one.name) for one in fields(pair)}
    return ColocatedProfile(**values, lookahead=lookahead, batching=batching)


def budget(lookahead: int) -> FlatBudget:
    """Every step takes the whole block of every session."""
    return FlatBudget(nodes=ANY, per_session=lookahead)


def policies(pair: Profile, lookahead: int) -> CloudPolicies:
    """Of its server: sessions guess with the pair's drafter."""
    return CloudPolicies(
        prompt_lookup=True,
        guesses=partial(OwnDrafter, ProfiledPair(pair), lookahead),
        adaptive_patience=False,
    )


def tokens_per_s(pair: Profile, lookahead: int, clients: int, batching: Batching) -> float:
    """Expected aggregate rate, all sessions in each step.

    Contexts are drawn easy or hard one by one, so that a chain comes true as if every one had the mean acceptance.
    """
    tokens = sum(pair.acceptance**drafts for drafts in range(lookahead + 1))
    return clients * tokens / round_ms(pair, lookahead, clients, batching) * 1000


def round_ms(pair: Profile, lookahead: int, clients: int, batching: Batching) -> float:
    """Of drafting and step, all sessions in it: what lies between the commits of each."""
    load = StepLoad(clients * (lookahead + 1), clients, 0.0)
    return colocated(pair, lookahead, batching).duration_ms(load)


def best_lookahead(pair: Profile, clients: int, batching: Batching) -> int:
    """The block length with the highest aggregate rate."""
    return max(range(1, LONGEST + 1), key=lambda length: tokens_per_s(pair, length, clients, batching))


def best_within(pair: Profile, clients: int, batching: Batching, limit_ms: float) -> int | None:
    """The same among those that keep the time between commits within a limit; None: none does."""
    short = [
        length for length in range(1, LONGEST + 1) if round_ms(pair, length, clients, batching) <= limit_ms
    ]
    return max(short, key=lambda length: tokens_per_s(pair, length, clients, batching), default=None)
