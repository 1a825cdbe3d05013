"""How likely the target is to draw what the drafter proposes: the drafter's own claim, and what such claims were worth.

A cost is a claim, -ln of a probability. A drafter that overstates itself makes the tree deep and narrow where it should
be wide, one that understates itself the reverse. So claims are counted in classes, and each class is scaled by how many
of its claims came true: every committed token judges all children of the node that it follows.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

EDGES: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)
"""Claims are classed by their cost in nats."""
SUREST: Final = 0.999
"""No claim is believed beyond this."""
_LEAST_COST: Final = -math.log(SUREST)


class Agreement(Protocol):
    """Asked for every candidate, fed with every verdict."""

    def cost(self, claim: float) -> float:
        """Nats: the estimate that replaces the drafter's own `claim`."""
        ...

    def costs(self, claims: tuple[float, ...]) -> tuple[float, ...]:
        """The same for several."""
        ...

    def judged(self, claims: Iterable[tuple[float, bool]]) -> None:
        """Claims (nats) for the children of one node, and which of them came true: one at most."""
        ...


@dataclass(frozen=True, slots=True)
class Claimed:
    """The drafter is believed."""

    def cost(self, claim: float) -> float:
        """See `Agreement.cost`."""
        return claim

    def costs(self, claims: tuple[float, ...]) -> tuple[float, ...]:
        """See `Agreement.costs`."""
        return claims

    def judged(self, claims: Iterable[tuple[float, bool]]) -> None:
        """See `Agreement.judged`."""


@dataclass(slots=True)
class Calibrated:
    """The drafter is believed as far as it was right. Within a class the order of its claims is kept."""

    prior: float = 30.0
    """Judged tokens that the drafter's word is worth before anything was judged."""
    memory: float = 0.998
    """Weight of a verdict, one verdict of its class later."""
    _claimed: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES) + 1))
    _true: list[float] = field(default_factory=lambda: [0.0] * (len(EDGES) + 1))
    _costs: dict[tuple[float, ...], tuple[float, ...]] = field(default_factory=dict)
    """By claims, since the last verdict: the candidates of many places claim the same."""

    def cost(self, claim: float) -> float:
        """See `Agreement.cost`."""
        index = bisect_left(EDGES, claim)
        worth = self.prior * math.exp(-claim)
        ratio = (self._true[index] + worth) / (self._claimed[index] + worth)
        return max(_LEAST_COST, claim - math.log(ratio))

    def costs(self, claims: tuple[float, ...]) -> tuple[float, ...]:
        """See `Agreement.costs`."""
        known = self._costs.get(claims)
        if known is None:
            known = self._costs[claims] = tuple(map(self.cost, claims))
        return known

    def judged(self, claims: Iterable[tuple[float, bool]]) -> None:
        """See `Agreement.judged`."""
        self._costs.clear()
        for claim, true in claims:
            index = bisect_left(EDGES, claim)
            self._claimed[index] = self.memory * self._claimed[index] + math.exp(-claim)
            self._true[index] = self.memory * self._true[index] + true
