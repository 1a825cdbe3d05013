"""How long the cloud waits for a draft before it decodes on its own (cloud).

A wait never changes the text, only when a step begins. Law 4: every wait is finite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

KNOWN = 3
"""Measurements before a delay is believed."""
MARGIN = 1.3
"""A wait must be worth that much more than it costs."""
PREDICTABLE = 0.5
"""Part of a step by which an answer may be late: who cannot tell when it comes does not wait for it."""
CREDIT_STEPS = 16
"""Saved time is remembered up to that many steps: what drafts once were good for does not pay for ever."""
FEWEST_MISSES = 0.02
"""Share of tokens that drafts are believed to have wrong at least."""
MOST_MESSAGES = 32
"""Messages ahead of which a wait is planned."""


class Patience(Protocol):
    """Fed with what happens at the end of one session's log; asked when its next step is due. Times are in ns."""

    @property
    def adaptive(self) -> bool:
        """Whether it listens to what it is fed, and whether a step that begins anyway ends a wait."""
        ...

    def due_at(self, missing_since: int, bare_since: int | None) -> int:
        """When the end is to be asked for. It is wanted from `missing_since` on; `bare_since`: from when on no live
        draft hung below it (None: one does).
        """
        ...

    def moved(self, now: int, length: int, *, bare: bool, missed: bool, mass: float) -> None:
        """A commit leaves: the log has `length` tokens. `missed`: its last one is not what the drafts had. `mass`: the
        chances, added up, of what is left of the newest drafts to lie on the true path.
        """
        ...

    def arrived(self, now: int, root_position: int, *, bare: bool, mass: float) -> None:
        """A message brought nodes, drafted when the edge's log had `root_position` tokens. `bare`: no live draft hung
        below the end before it. `mass`: the chances of its live nodes, added up.
        """
        ...

    def stepped(self, duration: int, *, judged: int, accepted: int, saved: int) -> None:
        """A step ended. `saved`: how many further steps its tokens would have taken without drafts."""
        ...

    def waited(self, duration: int) -> None:
        """The end was kept waiting for so long, and goes into a step now."""
        ...


@dataclass(frozen=True, slots=True)
class FixedPatience:
    """What the edge asked for: from when the end is bare, whatever is known about its drafts."""

    duration: int
    """ns."""

    @property
    def adaptive(self) -> bool:
        """See `Patience.adaptive`."""
        return False

    def due_at(self, missing_since: int, bare_since: int | None) -> int:
        """See `Patience.due_at`."""
        return missing_since if bare_since is None else bare_since + self.duration

    def moved(self, now: int, length: int, *, bare: bool, missed: bool, mass: float) -> None:
        """See `Patience.moved`."""

    def arrived(self, now: int, root_position: int, *, bare: bool, mass: float) -> None:
        """See `Patience.arrived`."""

    def stepped(self, duration: int, *, judged: int, accepted: int, saved: int) -> None:
        """See `Patience.stepped`."""

    def waited(self, duration: int) -> None:
        """See `Patience.waited`."""


@dataclass(slots=True)
class Delay:
    """Mean and mean deviation of a duration, smoothed as a round trip is in TCP (Jacobson 1988). ns."""

    samples: int = 0
    mean: float = 0.0
    deviation: float = 0.0

    @property
    def known(self) -> bool:
        """Whether there is enough to go by."""
        return self.samples >= KNOWN

    @property
    def late(self) -> float:
        """When it is later than usual."""
        return self.mean + max(2.0 * self.deviation, 0.25 * self.mean)

    def learn(self, duration: int) -> None:
        """One more."""
        if not self.samples:
            self.mean, self.deviation = float(duration), duration / 2.0
        else:
            error = duration - self.mean
            self.mean += error / 8.0
            self.deviation += (abs(error) - self.deviation) / 4.0
        self.samples += 1


@dataclass(slots=True)
class Share:
    """A share in 0..1, smoothed."""

    value: float

    def learn(self, value: float) -> None:
        """One more."""
        self.value += (min(value, 1.0) - self.value) / 8.0


@dataclass(frozen=True, slots=True)
class _Bare:
    """Since when an edge has been owing a draft."""

    at: int
    length: int
    missed: bool


@dataclass(slots=True)
class AdaptivePatience:
    """Waits while what is about to arrive is worth more than the time until then, and pays with time that drafts saved.

    Near the cloud drafts are lost time when a step begins a moment too early: they arrive while it runs, and wait for
    its end. So at a bare end the session waits for the edge's answer to the last commit if that is due soon, and goes
    on waiting while a further message is likely to save more than the time until it is there: a step lasts `S`, drafts
    are wrong in a share `1 - a`, so a node that lies on the true path with chance `c` saves `(1 - a) S c` (the chance
    that it is the one that would have to be found out by a step of its own). Everything here is measured on the cloud's
    own clock, and learnt whether or not the session waits.

    Never slower than the cloud alone: accepted drafts have saved the time of a step each, and a wait is paid out of
    that (`credit`). A session whose drafts are never right has nothing to pay with.
    """

    cap: int
    """The longest wait that the edge grants, ns."""
    credit: float = 0.0
    """Time that drafts have saved and that was not spent on waiting, ns."""
    _step: float = 0.0
    _judged: float = 0.0
    _accepted: float = 0.0
    _answers: dict[bool, Delay] = field(default_factory=lambda: {True: Delay(), False: Delay()})
    """From a commit that leaves the end bare to the draft that it calls for: by whether the drafts had missed."""
    _gap: Delay = field(default_factory=Delay)
    """Between two messages."""
    _came: Share = field(default_factory=lambda: Share(0.5))
    """How often a message was followed by another in time, with something alive in it."""
    _growth: Share = field(default_factory=lambda: Share(0.5))
    """Mass of a message by that of the one before."""
    _bare: _Bare | None = None
    _length: int = 0
    _mass: float = 0.0
    _last: int | None = None
    _fresh: bool = False
    """Whether `_mass` is that of a message, and not what a commit left of it."""
    _until: int | None = None
    _longest: int = 0
    """The longest wait that was asked for at this end."""

    @property
    def adaptive(self) -> bool:
        """See `Patience.adaptive`."""
        return True

    @property
    def acceptance(self) -> float:
        """Share of tokens that drafts had right, lately."""
        return min((self._accepted + 1.0) / (self._judged + 2.0), 1.0 - FEWEST_MISSES)

    def due_at(self, missing_since: int, bare_since: int | None) -> int:
        """See `Patience.due_at`."""
        if self._until is None:
            self._until = round(self._more_at() if bare_since is None else self._answer_at(missing_since))
        wait = max(0, min(self._until - missing_since, self.cap, int(self.credit), int(self._step)))
        self._longest = max(self._longest, wait)
        return missing_since + wait

    def moved(self, now: int, length: int, *, bare: bool, missed: bool, mass: float) -> None:
        """See `Patience.moved`."""
        if self._last is not None and self._expected_by() < now:
            self._came.learn(0.0)
            self._last = None
        if bare and self._bare is None:
            self._bare = _Bare(now, length, missed)
        self._mass, self._fresh = mass, False
        self._length = length
        self._until = None

    def arrived(self, now: int, root_position: int, *, bare: bool, mass: float) -> None:
        """See `Patience.arrived`."""
        owed = self._bare
        if owed is not None and (root_position >= owed.length or (bare and mass > 0.0)):
            self._answers[owed.missed].learn(now - owed.at)
            self._bare = None
        elif self._last is not None:
            self._came.learn(float(mass > 0.0 and now <= self._expected_by()))
            if now - self._last < self._step:  # a longer one is a break, and no wait would last so long
                self._gap.learn(now - self._last)
        if mass > 0.0:
            if self._fresh and self._mass > 0.0:
                self._growth.learn(mass / self._mass)
            self._mass, self._fresh = mass, True
        self._last = now
        self._until = None

    def stepped(self, duration: int, *, judged: int, accepted: int, saved: int) -> None:
        """See `Patience.stepped`."""
        self._step += (duration - self._step) / (8.0 if self._step else 1.0)
        keep = 0.97**judged
        self._judged = keep * self._judged + judged
        self._accepted = keep * self._accepted + accepted
        self.credit = min(self.credit + saved * self._step, CREDIT_STEPS * self._step)

    def waited(self, duration: int) -> None:
        """See `Patience.waited`."""
        self.credit -= min(duration, self._longest)  # what it waited for the worker is not its own choice
        self._longest = 0

    def _expected_by(self) -> float:
        """When the message after the last one is overdue."""
        return (self._last or 0) + self._gap.late

    def _worth(self, mass: float) -> float:
        """Time that nodes with these chances save, ns."""
        return mass * (1.0 - self.acceptance) * self._step

    def _more_at(self) -> float:
        """Until when to wait for another message, although there is something to verify."""
        if self._last is None or not self._gap.known:
            return 0.0
        came = self._came.value
        price = came * self._gap.mean + (1.0 - came) * self._gap.late
        if came * self._worth(self._mass * self._growth.value) < MARGIN * price:
            return 0.0
        return self._expected_by()

    def _answer_at(self, since: int) -> float:
        """Until when to wait for the answer to a commit that left the end bare."""
        if self._bare is None:
            return 0.0
        answer = self._answers[self._bare.missed]
        expected, late = self._bare.at + answer.mean, self._bare.at + answer.late
        if not answer.known or expected < since or late - expected > PREDICTABLE * self._step:
            return 0.0
        acceptance = self.acceptance
        # The answer continues the log as it was; it is alive if it has the tokens that were decoded meanwhile.
        mass = acceptance ** (1 + self._length - self._bare.length)
        gain, price = self._worth(mass), expected - since
        if self._gap.known:
            for _ in range(MOST_MESSAGES):
                mass *= acceptance
                if self._worth(mass) < MARGIN * self._gap.mean:
                    break
                gain += self._worth(mass)
                price += self._gap.mean
        return late if gain > MARGIN * price else 0.0
