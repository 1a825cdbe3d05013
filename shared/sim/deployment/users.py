"""Who asks for generations, and when: people who think in between, and sources of arrivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from shared.sim.clock import MILLISECOND, VirtualClock
from shared.sim.deployment.plan import MOST_RETRIES, MOST_VISITS, Loop, UserPlan, Visit
from shared.sim.deployment.record import Counts


@dataclass(slots=True, eq=False)
class Asked:
    """A visit that has begun: from the moment at which the user asks until it has its text, or nothing comes of it."""

    user: User
    number: int
    """Of this user's visits, from 0."""
    visit: Visit
    started: int
    """ns."""
    attempt: int = 0
    """How often the user came again, having been refused."""
    refusals: int = 0
    """Of earlier attempts, in the measured time; so the next."""
    spent: Counts = field(default_factory=Counts)

    def forget(self) -> None:
        """What it has counted so far belongs to the warm-up."""
        self.refusals, self.spent = 0, Counts()

    @property
    def index(self) -> int:
        """A number for this attempt that no other has, whatever happens in which order."""
        visits = self.user.number * MOST_VISITS + self.number
        return visits * (MOST_RETRIES + 1) + self.attempt


class User:
    """Makes one visit after the other."""

    def __init__(
        self, number: int, plan: UserPlan, clock: VirtualClock, ask: Callable[[Asked], None]
    ) -> None:
        """`number`: index in the deployment's plan. `ask` begins a visit; in a closed loop `ended` follows."""
        self.number = number
        self.plan = plan
        self._clock = clock
        self._ask = ask
        self._visits: Iterator[Visit] = iter(())
        self._made = 0

    def start(self) -> None:
        """The user's time begins with `start_ms`."""
        self._clock.at(round(self.plan.start_ms * MILLISECOND), self._begin)

    def ended(self) -> None:
        """A visit is over."""
        if self.plan.loop is Loop.CLOSED:
            self._next()

    def _begin(self) -> None:
        self._visits = iter(self.plan.visits())
        self._next()

    def _next(self) -> None:
        visit = next(self._visits, None)
        if visit is None:
            return
        if self._made >= MOST_VISITS:
            raise ValueError(f"user {self.number} makes more than {MOST_VISITS} visits: plan more users")
        asked_in = round(visit.wait_ms * MILLISECOND)
        number, self._made = self._made, self._made + 1
        self._clock.after(asked_in, lambda: self._visit(number, visit))

    def _visit(self, number: int, visit: Visit) -> None:
        self._ask(Asked(self, number, visit, self._clock.now))
        if self.plan.loop is Loop.OPEN:
            self._next()
