"""The profiled pair: a synthetic target and drafter, for the simulator and for the live runtime alike.

Tokens and agreement are functions of the *prefix* (a running 64-bit hash), never of the position alone: a node that
is verified under the wrong parent gets another token and is found out.

With acceptance a the drafter's first candidate is the target's token in a share a of all contexts. From 0.6 on half
of the contexts are easy (0.98) and half are hard (2a - 0.98), and the drafter knows which; below 0.6, or if asked
for, every context is alike (i.i.d.). Each further rank takes half of what is left, and never more than the rank before
it: candidates come likeliest first, and a drafter of acceptance 0 is always wrong.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shared.errors import UserError
from shared.hardware import HardwareProfile, StepLoad, read_hardware
from shared.policy.expansion import Candidate, candidates

EASY = 0.98
STEP_COST = ("step_ms", "flat_nodes", "node_ms")
"""Fields of a profile that a hardware profile takes the place of."""
_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """A 64-bit finalizer (splitmix64, Steele, Lea and Flood 2014): one bit in changes half of the bits out."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


_EASE, _DRAW = mix(1), mix(2)
"""Salts of `unit`, mixed once."""


def unit(state: int, salt: int) -> float:
    """A number in [0, 1) that depends on (state, salt) alone."""
    return (mix(state ^ mix(salt)) >> 11) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Profile:
    """What a pair of models looks like from outside."""

    acceptance: float = 0.8
    """Share of contexts in which the first candidate is right; 0..1."""
    step_ms: float = 30.0
    """Duration of a verify step of up to `flat_nodes` nodes."""
    draft_ms: float = 3.0
    """Duration of a drafter forward on one node."""
    branch_cost: float = 0.1
    """Each further branch in a forward costs this share of a forward."""
    iid: bool = False
    """Every context alike, also from 0.6 on."""
    vocabulary_size: int = 32_000
    context_length: int = 1 << 20
    seed: int = 0
    """Another seed is another pair of models."""
    flat_nodes: int = 0
    """Up to so many nodes, over all sessions, a step lasts `step_ms`."""
    node_ms: float = 0.0
    """What each further node adds. 0: a step lasts `step_ms` whatever is in it."""
    hardware: HardwareProfile | None = None
    """Measured cost of a step, in place of `step_ms`, `flat_nodes` and `node_ms`."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.acceptance <= 1.0:
            raise ValueError(f"acceptance {self.acceptance} is outside 0..1")
        for name in ("step_ms", "draft_ms", "branch_cost", "node_ms"):
            value: float = getattr(self, name)
            if not (value >= 0.0 and math.isfinite(value)):
                raise ValueError(f"{name} {value} is not a finite number from 0")
        if self.vocabulary_size < 64:
            raise ValueError(f"vocabulary_size {self.vocabulary_size} is below 64")
        if self.flat_nodes < 0:
            raise ValueError(f"flat_nodes {self.flat_nodes} is below 0")

    def forward_ms(self, branches: int) -> float:
        """Duration of one forward on that many nodes."""
        return self.draft_ms * (1.0 + self.branch_cost * (branches - 1))

    def duration_ms(self, load: StepLoad) -> float:
        """Duration of a verify step."""
        if self.hardware is not None:
            return self.hardware.step_ms(load.nodes, load.sessions, load.context)
        return self.step_ms + max(0, load.nodes - self.flat_nodes) * self.node_ms


class ProfiledPair:
    """Facts and guesses of a profile, as functions of a prefix's state."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._start = mix(profile.seed ^ 0x51D3)

    def state(self, prefix: Sequence[int]) -> int:
        """The state of a prefix from its first token."""
        state = self._start
        for token in prefix:
            state = self.follow(state, token)
        return state

    def follow(self, state: int, token: int) -> int:
        """The state one token later."""
        return mix(state ^ (token * 0x2545F4914F6CDD1D & _MASK))

    def target(self, state: int) -> int:
        """The token that the target draws after a prefix."""
        return mix(state ^ 0x7A) % self.profile.vocabulary_size

    def confidence(self, state: int) -> float:
        """Probability that the first candidate is right here; the drafter knows it."""
        acceptance = self.profile.acceptance
        if self.profile.iid or acceptance < 0.6 or acceptance > EASY:
            return acceptance
        return EASY if (mix(state ^ _EASE) >> 11) * 2.0**-53 < 0.5 else 2 * acceptance - EASY

    def candidates(self, state: int, width: int) -> list[Candidate]:
        """The drafter's first `width` candidates, likeliest first."""
        reach, costs = _ladder(self.confidence(state), width)
        target = self.target(state)
        size = self.profile.vocabulary_size
        stride = 1 + mix(state ^ 0x33) % (size // 64)
        tokens = [(target + step * stride) % size for step in range(1, width + 1)]
        right = bisect_right(reach, (mix(state ^ _DRAW) >> 11) * 2.0**-53)
        if right < width:
            tokens[right] = target
        return candidates(tokens, costs)


@lru_cache(maxsize=4096)
def _ladder(confidence: float, width: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By rank: the chance that the right token is there or before, and the cost (nats) of the candidate there."""
    reach: list[float] = []
    costs: list[float] = []
    probability, below = confidence, 0.0
    for _ in range(width):
        below += probability
        reach.append(below)
        costs.append(-math.log(max(probability, 1e-9)))
        probability = min((1.0 - below) / 2, probability)
    return tuple(reach), tuple(costs)


class PrefixStates:
    """States along one append-only log, remembered so that a step costs its new tokens only."""

    def __init__(self, pair: ProfiledPair) -> None:
        self._pair = pair
        self._states = [pair.state(())]

    def at(self, log: Sequence[int], length: int) -> int:
        """The state of `log[:length]`."""
        states = self._states
        for token in log[len(states) - 1 : length]:
            states.append(self._pair.follow(states[-1], token))
        return states[length]

    def between(self, log: Sequence[int], low: int, high: int) -> list[int]:
        """The states of `log[:low]` to `log[:high]`, both included; none if `low` is the greater."""
        self.at(log, high)
        return self._states[low : high + 1]


def decode(
    pair: ProfiledPair, prompt: Sequence[int], tokens: int, stop_tokens: frozenset[int] = frozenset()
) -> list[int]:
    """What the target alone writes after a prompt: the reference of every losslessness check."""
    state = pair.state(prompt)
    written: list[int] = []
    while len(written) < tokens:
        token = pair.target(state)
        written.append(token)
        if token in stop_tokens:
            break
        state = pair.follow(state, token)
    return written


def parse_profile(text: str) -> Profile:
    """A profile from `profiled` or `profiled:name=value,...` with the fields of `Profile`; `hardware` names a file.

    Raises:
        UserError: an unknown name, a value out of range, a hardware profile that cannot be read or that contradicts
            another value.
    """
    kinds: dict[str, Any] = {
        "acceptance": float,
        "step_ms": float,
        "draft_ms": float,
        "branch_cost": float,
        "seed": int,
    }
    kinds |= {"vocabulary_size": int, "context_length": int, "iid": _flag}
    kinds |= {"flat_nodes": int, "node_ms": float, "hardware": read_hardware}
    values: dict[str, Any] = {}
    for part in filter(None, text.partition(":")[2].split(",")):
        name, separator, value = part.partition("=")
        if name not in kinds or not separator:
            raise UserError(
                f"profiled model: {part!r} is not NAME=VALUE with a name of {', '.join(sorted(kinds))}"
            )
        try:
            values[name] = kinds[name](value)
        except ValueError as error:
            raise UserError(
                f"profiled model: {name}={value!r} is not a {kinds[name].__name__.strip('_')}"
            ) from error
    if "hardware" in values and (both := [name for name in STEP_COST if name in values]):
        raise UserError(f"profiled model: hardware says what a step costs, so leave out {', '.join(both)}")
    try:
        return Profile(**values)
    except ValueError as error:
        raise UserError(f"profiled model: {error}") from error


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"
