"""Speculation parallelism: which workers may step for sessions that are not theirs, and how often.

A worker without sessions of its own helps. One that has some would be busy when their ends are due, and no user's
speculation costs another a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.pool.books import Place, WorkerBooks
from shared.pool.places import Places
from shared.pool.policies import PoolPolicies
from shared.pool.suspects import Suspects

LEAST_GAP = 1_000_000
"""ns. Steps of one session begin no closer together, unless its end is due."""


@dataclass(frozen=True, slots=True)
class Helping:
    """Only reads the pool's books."""

    workers: Mapping[int, WorkerBooks]
    places: Places
    policies: PoolPolicies
    suspects: Suspects

    def about(self, books: WorkerBooks) -> tuple[Sequence[Place], Sequence[Place], int]:
        """The sessions of a worker, those that it may help, and how long (ns) after one step of theirs the next begins.

        Suspects are among neither.
        """
        suspects, most = self.suspects, self.policies.helpers
        own = self.places.of(books.number)
        if suspects:
            own = [place for place in own if not suspects.holds(place.session.key)]
        if self.policies.sp_degree == 1 or not books.serves or books.trial is not None:
            return own, [], 0
        if len(own) > 1 or (most is not None and self._busy() >= most):
            return own, [], 0
        helped = [
            place
            for place in (own or self.places.values())
            if self._may_be_helped(place, books) and not (suspects and suspects.holds(place.session.key))
        ]
        return own, helped, self._gap() if helped else 0

    def degree(self) -> int:
        """How many steps of one session can be out at once, as things are."""
        if self.policies.sp_degree == 1:
            return 1
        homes = self.places.homes
        spare = sum(books.serves and books.number not in homes for books in self.workers.values())
        most = spare if self.policies.helpers is None else min(spare, self.policies.helpers)
        return min(self.policies.sp_degree, 1 + most)

    def _may_be_helped(self, place: Place, books: WorkerBooks) -> bool:
        if len(place.outs) >= self.policies.sp_degree or books.number in place.outs:
            return False
        home = self.workers.get(place.home) if place.home is not None else None
        # An end that is due and whose home is idle is the home's business: it is asked in the same round.
        return (
            home is None or home is books or not home.idle or home.late or place.session.end_due_at() is None
        )

    def _busy(self) -> int:
        """Workers that step for sessions of others now."""
        return sum(
            any(
                (place := self.places.get(key)) is not None and place.home != books.number
                for key in books.out.owed
            )
            for books in self.workers.values()
            if books.out is not None
        )

    def _gap(self) -> int:
        """Steps of one session begin that far apart: DSI's rule for how many servers suffice, read backwards."""
        known = [books.cost.mean_us for books in self.workers.values() if books.serves and books.steps]
        step_us = sum(known) / len(known) if known else 0.0
        return max(LEAST_GAP, round(1000.0 * step_us / self.degree()))
