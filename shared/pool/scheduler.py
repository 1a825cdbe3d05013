"""PoolScheduler: which facts of which sessions go into which worker's next step.

Each session has a home, the worker that its end is asked of. A worker without sessions of its own helps: it is asked
for drafts of a session whose end is already in flight elsewhere, and for an end whose home is busy (speculation
parallelism, DSI: Timor et al. 2024, arXiv 2405.14105). Steps of one session begin evenly spread over the time that one
takes, so that some worker is always about to be free.

Law 4 is kept here together with CloudSession: every end that is due enters its home's next step before any draft does,
oldest first; what a failed step owed is missing again; a step that is overdue is given up on and asked of another
worker; a session whose worker is gone has a new home at once, if any worker serves. Long prompts are prefilled in
chunks beside other sessions' nodes, so that nobody waits for them. Pure: time is an argument (ns).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from shared.policy.admission import PoolLoad, retry_ms
from shared.policy.batching import NodeBudget
from shared.pool.books import Out, Place, WorkerBooks, keys_of
from shared.pool.checks import MOST_TOKENS, Checks, Disagreement
from shared.pool.helping import Helping
from shared.pool.packing import Packing
from shared.pool.placement import Placement, Transfer
from shared.pool.places import Places
from shared.pool.policies import PoolPolicies, PrefillLimits
from shared.pool.suspects import Suspects
from shared.session.cloud import CloudEffect, CloudSession
from shared.step import Step, StepItem, StepOutcome

__all__ = ["PoolCounts", "PoolScheduler", "Transfer", "one_worker"]

FATAL_LOSSES = 3
"""Workers that a session may lose in a row, alone in their steps, before it is held to be the reason."""
SMOOTHING = 0.1


@dataclass(slots=True)
class PoolCounts:
    """What happened, for metrics."""

    hedged: int = 0
    """Steps that were given up on and asked of another worker."""
    lost_steps: int = 0
    """Steps that were out on a worker that left."""
    helped: int = 0
    """Steps with a session whose end was in flight on, or belonged to, another worker."""


class PoolScheduler:
    """Sessions' missing facts in, steps out, outcomes back in."""

    def __init__(
        self,
        make_budget: Callable[[], NodeBudget],
        prefill: PrefillLimits | None = None,
        policies: PoolPolicies | None = None,
    ) -> None:
        """`make_budget`: a node budget for each worker, since each has costs of its own."""
        self.policies = policies if policies is not None else PoolPolicies()
        self.counts = PoolCounts()
        self._make_budget = make_budget
        self._workers: dict[int, WorkerBooks] = {}
        self._places = Places()
        self._suspects = Suspects()
        self._checks = Checks(self.policies.check_share)
        self._packing = Packing(prefill if prefill is not None else PrefillLimits(), self.policies)
        self._placement = Placement(self._workers, self._places, self.policies)
        self._helping = Helping(self._workers, self._places, self.policies, self._suspects)
        self._free: set[int] = set()
        """Workers with no step out."""
        self._loose: set[int] = set()
        """Workers that may have something to do without sessions of their own: to let go of some, or a trial."""
        self._timed: set[int] = set()
        """Workers whose step is given up on one day."""
        self._numbers = count(1)
        self._newest = 0
        """The number of the last step that was handed out."""
        self._arrivals = count()
        self._life_ms = 0.0
        self._now = 0
        """The latest time that was told (ns)."""

    # ---- what drivers and metrics look at ----

    @property
    def sessions(self) -> int:
        """Sessions that are being served, or wait for a worker."""
        return len(self._places)

    @property
    def workers(self) -> tuple[int, ...]:
        """Numbers of the workers that are here, draining ones too."""
        return tuple(self._workers)

    @property
    def sp_degree(self) -> int:
        """Steps of one session that may be out at once."""
        return self.policies.sp_degree

    @property
    def checked(self) -> int:
        """Facts that were established twice on purpose."""
        return self._checks.made

    @property
    def disagreements(self) -> tuple[Disagreement, ...]:
        """The latest facts that came out differently when they were checked, oldest first."""
        return tuple(self._checks.found)

    @property
    def near_ties(self) -> int:
        """Checked facts that came out differently within rounding."""
        return self._checks.near_ties

    @property
    def incidents(self) -> int:
        """Checked facts that came out differently for no such reason."""
        return self._checks.incidents

    @property
    def load(self) -> PoolLoad:
        """See `PoolLoad`."""
        serving = [worker for worker in self._workers.values() if worker.serves]
        known = [worker for worker in serving if worker.step_us]
        each = len(self._places) // max(len(serving), 1)
        return PoolLoad(
            len(self._places),
            len(serving),
            sum(worker.step_us for worker in known) / len(known) if known else 0.0,
            sum(worker.cost.hinge.next_us(each) for worker in known) / len(known) if known else 0.0,
            self._life_ms,
        )

    def home_of(self, key: int) -> int | None:
        """The worker that a session is given to."""
        place = self._places.get(key)
        return None if place is None else place.home

    def log_of(self, key: int) -> list[int] | None:
        """A session's log, by reference; None: it has ended."""
        place = self._places.get(key)
        return None if place is None else place.session.log.tokens

    def worker_idle(self, worker: int) -> bool:
        """Whether a draining worker has nothing left to do: it may be stopped."""
        books = self._workers[worker]
        return books.draining and books.idle and worker not in self._places.homes

    # ---- workers come and go ----

    def worker_joined(self, worker: int, kv_tokens: int | None = None, step_us: float = 0.0) -> None:
        """A worker is ready, with empty caches. Its number was never used before.

        `kv_tokens`: tokens of all sessions that it can hold; None: as many as there are. `step_us`: what a step of it
        takes by its own word, until that has been measured here; 0: it does not know.
        """
        if worker in self._workers:
            raise ValueError(f"worker {worker} is here already")
        self._workers[worker] = WorkerBooks(worker, kv_tokens, self._make_budget(), step_us)
        self._free.add(worker)
        self._placement.joined(worker)

    def worker_draining(self, worker: int) -> None:
        """It takes no more sessions, and those that it has move away; see `worker_idle`."""
        books = self._workers.get(worker)
        if books is not None and not books.draining:
            books.draining = True
            self._placement.vacate(books)

    def worker_left(self, worker: int) -> int | None:
        """It is gone, with whatever it held: its step's facts are missing again and its sessions go elsewhere.

        Returns a session that has lost so many workers in a row that it is held to be the reason, if there is one.
        """
        books = self._workers.pop(worker, None)
        if books is None:
            return None
        for numbers in (self._free, self._loose, self._timed):
            numbers.discard(worker)
        culprit = self._lost(books) if books.out is not None else None
        if books.trial is not None:
            self._suspects.put_back(books.trial)
        self._placement.left(worker)
        return culprit

    def _lost(self, books: WorkerBooks) -> int | None:
        assert books.out is not None  # noqa: S101 - the caller's condition
        asked = [key for key, keys in books.out.owed.items() if keys and key in self._places]
        self.counts.lost_steps += 1
        self._take_back(books)
        for key in asked:
            place = self._places[key]
            if books.out.step.number > place.lost_before:
                place.losses += 1
                place.lost_before = self._newest
        worst = [key for key in asked if self._places[key].losses >= 2]
        if len(asked) == 1 and self._places[asked[0]].losses >= FATAL_LOSSES:
            return asked[0]
        if worst and len(asked) > 1:
            # A single one too: in ever new company it would never be told from the others.
            self._suspects.accuse(worst)
        return None

    # ---- sessions come and go ----

    def join(self, session: CloudSession) -> None:
        """Serve a session from the next step on."""
        place = Place(session, next(self._arrivals))
        self._places.enter(place)
        self._placement.place(place)

    def leave(self, key: int) -> None:
        """Stop serving a session; its KV is released with the next step of whoever holds any."""
        place = self._places.remove(key)
        if place is None:
            return
        if place.first_begun is not None:
            life = (self._now - place.first_begun) / 1e6
            self._life_ms += SMOOTHING * (life - self._life_ms) if self._life_ms else life
        for books in self._workers.values():
            out = books.out is not None and any(item.session == key for item in books.out.step.items)
            if books.cached.pop(key, None) is not None or out:
                books.released.append(key)
                self._loose.add(books.number)

    def refused(self, most: int) -> int | None:
        """None: there is room for one more session, of which at most `most` are allowed. Else in how many milliseconds
        there probably will be.
        """
        load = self.load
        if load.sessions >= most:
            return retry_ms(load)
        return None if self.policies.admission is None else self.policies.admission.refused(load)

    # ---- steps ----

    def wake_at(self) -> int | None:
        """When something becomes due, if nothing happens before; None: nothing to wait for."""
        due = [
            at
            for books in self._idle()
            if (at := self._packing.ready_at(books, *self._helping.about(books))) is not None
        ]
        due += [
            at
            for number in self._timed
            if (at := self._overdue_at(number)) is not None and self._replaceable(self._workers[number])
        ]
        return min(due, default=None)

    def next_step(self, now: int) -> Step | None:
        """What some worker is to do now; None: nothing is due on any that is idle. To be called until it is None.

        The step is out until `complete`, `failed`, `broken` or `worker_left`.
        """
        self._now = now
        if self._timed:
            self._give_up_on_overdue(now)
        for books in self._askable():
            items = self._items(books, now)
            if items or books.released:
                return self._begin(books, items, now)
            if books.trial is None:
                self._loose.discard(books.number)
        return None

    def complete(self, outcome: StepOutcome, now: int, worker: int = 0) -> list[CloudEffect]:
        """Apply the facts of a worker's step; sessions that ended meanwhile are skipped.

        Raises:
            ValueError: no step is out there, or the outcome answers another one (a fact that is owed must not be lost).
        """
        books, out = self._out_of(worker)
        _check_answers(out.step, outcome)
        prefills_only = all(item.session >= 0 for item in out.step.items)
        if prefills_only:  # a check may have prefilled anything
            books.measured(out.step, sum(item.computed for item in outcome.items), outcome.duration_us)
        late = self._freed(books)
        if books.together is not None:  # it went well: a little more, until everybody is in again
            books.together = books.together + 1 if books.together < len(self._places) else None
        effects: list[CloudEffect] = []
        for asked, item in zip(out.step.items, outcome.items, strict=True):
            if item.session < 0:
                self._checks.answered(item.session, item.facts[0][1], worker)
                books.released.append(item.session)
                continue
            place = self._places.get(item.session)
            if place is None:
                continue
            books.cached[item.session] = item.cached_length
            self._placement.cached(books, place, asked, item.cached_length)
            if item.session in out.owed:
                place.outs.discard(worker)
            if item.facts:
                place.losses = 0
                self._checks.consider(asked, item.facts, worker)
                effects += place.session.learn(item.facts, verify_us=outcome.duration_us, now=now)
            if place.session.over:
                self.leave(item.session)
        if late:
            self._placement.joined(worker)
        return effects

    def failed(self, worker: int = 0) -> list[int]:
        """A worker's step will not come back, but the worker goes on: its facts are missing again.

        Returns the step's sessions.
        """
        books, out = self._out_of(worker)
        left = [item.session for item in out.step.items if item.session in self._places]
        self._take_back(books)
        late = self._freed(books)
        checks = [item.session for item in out.step.items if item.session < 0]
        books.released = [*out.step.released, *books.released, *checks]
        # Whatever the worker held, it may hold no more; and what it does hold is still to be released one day.
        books.cached = dict.fromkeys([*books.cached, *left], 0)
        self._placement.emptied(worker)
        if late:
            self._placement.joined(worker)
        return left

    def broken(self, worker: int = 0) -> int | None:
        """A worker's step broke it, and it goes on. Returns the session whose fault it was, if one can be told: it must
        not be asked for again. Else the step's sessions are asked for again apart.
        """
        books, out = self._out_of(worker)
        sessions = {item.session for item in out.step.items if item.session >= 0}
        alone, trial = len(sessions) == 1, books.trial
        left = self.failed(worker)
        if trial is not None and sessions <= trial:
            books.trial = None  # it broke while it was still being given its prompts, or in the trial itself
        if not left:
            return None
        if alone:
            books.together = None  # it was this one's fault, not their number's
            return left[0]
        books.together = self._suspects.accuse(left)  # perhaps they are too much only together
        return None

    # ---- transfers ----

    def next_transfer(self, now: int) -> Transfer | None:
        """A session's KV that is to be brought from one worker to another; answered with `transferred`."""
        return self._placement.next_transfer(now)

    def transferred(self, session: int, target: int, tokens: int | None, now: int) -> None:
        """What came of a transfer: the tokens that `target` now holds; None: it did not work."""
        self._placement.transferred(session, target, tokens, now)
        if target in self._workers:
            self._loose.add(target)  # perhaps what came is to go again

    # ---- inside ----

    def _idle(self) -> list[WorkerBooks]:
        """Workers that can be given a step, those with sessions of their own first; the others where they may help."""
        own = self._places.homes & self._free
        others = sorted(self._free - own) if self.policies.sp_degree > 1 else ()
        return [self._workers[number] for number in (*sorted(own), *others)]

    def _askable(self) -> list[WorkerBooks]:
        """The idle that may have something to do."""
        if self.policies.sp_degree > 1:
            return self._idle()
        others = self._free
        if not self._suspects and not self._checks:  # nobody is to be tried, and nothing to be checked
            others = others & self._loose
        return [*self._idle(), *(self._workers[number] for number in sorted(others - self._places.homes))]

    def _freed(self, books: WorkerBooks) -> bool:
        """A worker's step is out no more. Returns whether it had been given up on."""
        late, books.late, books.out = books.late, False, None
        self._free.add(books.number)
        self._loose.add(books.number)  # if its session went to another, or it has made a check
        self._timed.discard(books.number)
        return late

    def _overdue_at(self, worker: int) -> int | None:
        out = self._workers[worker].out
        return None if out is None else out.overdue_at

    def _items(self, books: WorkerBooks, now: int) -> list[StepItem]:
        """What a worker's step that begins now asks for."""
        if self._suspects and books.trial is None and (books.serves or not self._replaceable(books)):
            books.trial = self._suspects.next_trial(self._places)
            self._loose.add(books.number)
        if books.trial is not None:
            items = self._trial(books, books.trial, now)
            if items:
                return items
        own, helped, gap = self._helping.about(books)
        items = self._packing.pack(books, own, now, self._helping.degree)
        if not items and helped:
            items = self._packing.help(books, helped, now, gap)
        if (items or not own) and self._checks and books.serves:
            # A long log is looked at again where nobody waits for it.
            most = MOST_TOKENS if not items else self._packing.prefill.chunk
            if (check := self._checks.take(books.number, most)) is not None:
                items.append(check)
        return items

    def _trial(self, books: WorkerBooks, suspects: frozenset[int], now: int) -> list[StepItem]:
        places = [place for key, place in self._places.items() if key in suspects]
        items = self._packing.pack(books, places, now, self._helping.degree)
        # Its trial is a step that asks for facts; a worker that lacks their prompts has to be given them first.
        if not any(item.prefill_only for item in items):
            books.trial = None
        return items

    def _begin(self, books: WorkerBooks, items: list[StepItem], now: int) -> Step:
        released, books.released = tuple(books.released), []
        self._newest = next(self._numbers)
        step = Step(self._newest, tuple(items), released, books.number)
        owed: dict[int, list[int]] = {}
        prefills = 0
        helps = False
        for item in items:
            place = self._places.get(item.session)
            if place is None:
                continue
            prefills += max(0, item.length - 1 - books.cached.get(item.session, 0))
            if not item.prefill_only:
                owed[item.session] = keys_of(item)
                place.outs.add(books.number)
                place.begun = now
                if place.first_begun is None:
                    place.first_begun = now
                helps |= place.home != books.number
        self.counts.helped += helps
        after = self.policies.hedging.overdue_after(books.expected_us(prefills)) if owed else None
        self._free.discard(books.number)
        if after is not None:
            self._timed.add(books.number)
        books.out = Out(step, now, None if after is None else now + after, owed, prefills)
        return step

    def _out_of(self, worker: int) -> tuple[WorkerBooks, Out]:
        books = self._workers.get(worker)
        if books is None or books.out is None:
            raise ValueError(f"no step is out on worker {worker}")
        return books, books.out

    def _take_back(self, books: WorkerBooks) -> None:
        """The facts that a step owes are missing again."""
        out = books.out
        if out is None:
            return
        for key, keys in out.owed.items():
            place = self._places.get(key)
            if place is not None:
                place.session.give_back(keys)
                place.outs.discard(books.number)
        out.owed = {}
        for item in out.step.items:
            if item.session < 0:
                self._checks.lost(item.session)

    def _replaceable(self, books: WorkerBooks) -> bool:
        return any(other.serves for other in self._workers.values() if other is not books)

    def _give_up_on_overdue(self, now: int) -> None:
        for books in self._workers.values():
            out = books.out
            if out is None or out.overdue_at is None or out.overdue_at > now:
                continue
            if not self._replaceable(books):
                continue  # nobody else could be asked: it is waited for
            self.counts.hedged += 1
            self._take_back(books)
            out.overdue_at = None
            books.late = True
            if books.trial is not None:
                self._suspects.put_back(books.trial)
                books.trial = None
            self._placement.vacate(books)


def one_worker(
    budget: NodeBudget, prefill: PrefillLimits | None = None, kv_tokens: int | None = None
) -> PoolScheduler:
    """A pool with worker 0 in it, and nothing else."""
    pool = PoolScheduler(lambda: budget, prefill)
    pool.worker_joined(0, kv_tokens)
    return pool


def _check_answers(step: Step, outcome: StepOutcome) -> None:
    asked = [(item.session, sorted(keys_of(item))) for item in step.items]
    if asked != [(item.session, sorted(key for key, _ in item.facts)) for item in outcome.items]:
        raise ValueError(f"step {step.number} asked for facts that its outcome does not state")
