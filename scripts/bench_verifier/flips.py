"""How often a fact depends on its company: the same prefixes evaluated alone and in other steps.

The reference is plain decoding: one session at a time, one token a step, nothing else in the forward. Sums in another
order round differently, so where two tokens are nearly tied the argmax may flip (docs/design.md, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from cloud_server.verifier import Verifier
from scripts.bench_verifier.workload import Sessions
from shared.step import Fact, Step, StepItem

SESSIONS: Final = 16
NODES: Final = 16
"""Facts per session: the end and a chain of drafts below it."""
CONTEXT: Final = 96
QUANTILES: Final = (0.01, 0.1, 0.5, 0.9)

Facts = dict[tuple[int, int], Fact]
"""By session and place in its chain."""


@dataclass(frozen=True, slots=True)
class Flips:
    """What another batch shape did to the argmaxes."""

    company: str
    """What the step held."""
    facts: int
    flipped: int
    margins: tuple[float, ...]
    """Of the flipped facts in plain decoding, nats, ascending."""
    drift: float
    """The greatest change of a margin among the other facts, nats: how much rounding moved."""

    @property
    def share(self) -> float:
        """Of all facts."""
        return self.flipped / self.facts


@dataclass(frozen=True, slots=True)
class FlipReport:
    """All shapes of one model in one dtype."""

    dtype: str
    flips: tuple[Flips, ...]
    quantiles: tuple[tuple[float, float], ...]
    """(share, margin) over all facts of plain decoding: that share of them has no greater margin."""

    @property
    def flipped(self) -> int:
        """Over all shapes."""
        return sum(one.flipped for one in self.flips)

    @property
    def widest(self) -> float:
        """The greatest margin at which an argmax flipped; 0 if none did."""
        return max((margin for one in self.flips for margin in one.margins), default=0.0)


def measure_flips(verifier: Verifier, dtype: str, rounds: int) -> FlipReport:
    """Compare `rounds` times `SESSIONS` times `NODES` facts in each shape with plain decoding."""
    seen: dict[str, list[tuple[Fact, Fact]]] = {name: [] for name in SHAPES_OF_STEPS}
    margins: list[float] = []
    for number in range(rounds):
        plain = _decode_plainly(_fresh(verifier, number))
        margins += [fact.margin for fact in plain.values()]
        for name, evaluate in SHAPES_OF_STEPS.items():
            other = evaluate(_fresh(verifier, number))
            seen[name] += [(fact, other[place]) for place, fact in plain.items()]
    quantiles = np.quantile(margins, QUANTILES)
    return FlipReport(
        dtype,
        tuple(_judge(name, pairs) for name, pairs in seen.items()),
        tuple(zip(QUANTILES, map(float, quantiles), strict=True)),
    )


def _judge(name: str, pairs: list[tuple[Fact, Fact]]) -> Flips:
    flipped = sorted(plain.margin for plain, other in pairs if plain.token != other.token)
    drift = max(abs(plain.margin - other.margin) for plain, other in pairs if plain.token == other.token)
    return Flips(name, len(pairs), len(flipped), tuple(flipped), drift)


def _fresh(verifier: Verifier, number: int) -> Sessions:
    """New sessions, so that no cache holds what another shape computed."""
    verifier.step(Step(0, (), released=tuple(range(SESSIONS))))
    sessions = Sessions(verifier, verifier.info.vocabulary_size, seed=number)
    sessions.resize(SESSIONS, CONTEXT)
    return sessions


def _decode_plainly(sessions: Sessions) -> Facts:
    """One token of one session at a time."""
    facts: Facts = {}
    for item in _items(sessions, NODES):
        for place in range(NODES):
            log = [*item.log[: item.length], *(node.token for node in item.nodes[:place])]
            facts.update(_ask(sessions, [replace(item, log=log, length=len(log), nodes=())], place))
    return facts


def _in_chains(sessions: Sessions) -> Facts:
    """Each session alone with all its drafts."""
    facts: Facts = {}
    for item in _items(sessions, NODES):
        facts |= _ask(sessions, [item])
    return facts


def _together(sessions: Sessions) -> Facts:
    """All sessions with all their drafts."""
    return _ask(sessions, _items(sessions, NODES))


def _half_together(sessions: Sessions) -> Facts:
    """Every other session; then the others, beside ends of the first."""
    items = _items(sessions, NODES)
    facts = _ask(sessions, items[::2])
    beside = [replace(item, nodes=()) for item in items[::2]]
    return facts | {
        place: fact for place, fact in _ask(sessions, [*items[1::2], *beside]).items() if place[0] % 2
    }


SHAPES_OF_STEPS: Final[dict[str, Callable[[Sessions], Facts]]] = {
    f"1 session, {NODES} nodes": _in_chains,
    f"{SESSIONS} sessions, {SESSIONS * NODES} nodes": _together,
    f"{SESSIONS // 2} and {SESSIONS} sessions, uneven": _half_together,
}


def _items(sessions: Sessions, nodes: int) -> list[StepItem]:
    return list(sessions.step(nodes * SESSIONS, SESSIONS).items)


def _ask(sessions: Sessions, items: list[StepItem], place: int = 0) -> Facts:
    """The facts of a step; `place`: of an item's end, where its log has taken in drafts."""
    outcome = sessions.verifier.step(Step(0, tuple(items)))
    return {(answer.session, place + key): fact for answer in outcome.items for key, fact in answer.facts}
