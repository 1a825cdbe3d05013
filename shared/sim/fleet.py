"""The workers of a world's server, driven as `cloud_server.fleet` drives them: each takes one step at a time.

Workers join, drain, crash, freeze and thaw, are slow, fail single steps and lose caches; one that is gone may be
replaced under a new number. What is asked of a frozen worker comes back when it thaws, or never: after a deadline it is
declared left. Moving a session's KV takes time, fails, or arrives damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from shared.pool import Transfer
from shared.profiled import ProfiledPair
from shared.session.cloud import CloudEffect
from shared.session.front import CloudFront
from shared.sim import fleet_laws as laws
from shared.sim.clock import MILLISECOND
from shared.sim.models import SyntheticWorker
from shared.sim.random import Keyed
from shared.sim.setting import STREAMS_PER_EDGE, LawBroken, Setting
from shared.sim.workers import HICCUP, FleetPlan, Misfortune, WorkerPlan
from shared.step import Step

Perform = Callable[[list[CloudEffect]], None]


@dataclass(slots=True)
class Usage:
    """What a worker has done so far, for figures."""

    number: int
    kind: str
    joined: int
    left: int | None = None
    """None: it is still there, as far as the server knows."""
    busy: int = 0
    """ns with a step out, without the one that is out now."""
    out_since: int | None = None
    """None: no step is out."""
    steps: int = 0
    """That came back and had asked for something."""
    nodes: int = 0
    """Tokens that those forwarded."""
    facts: int = 0

    def ends(self, now: int) -> None:
        """No step is out any more."""
        if self.out_since is not None:
            self.busy, self.out_since = self.busy + now - self.out_since, None


@dataclass(slots=True, eq=False)
class SimWorker:
    """One worker, as its driver sees it."""

    number: int
    plan: WorkerPlan
    model: SyntheticWorker
    random: Keyed
    usage: Usage
    step: Step | None = None
    """What it was asked for and has not answered."""
    thaws_at: int | None = None
    """Frozen until then; None: it is not frozen."""
    dead: bool = False
    """It does nothing any more; the server may not know that yet."""


class Fleet:
    """All workers of one server, from its start until it stops or crashes."""

    def __init__(
        self,
        setting: Setting,
        pair: ProfiledPair,
        plan: FleetPlan,
        front: CloudFront,
        perform: Perform,
        numbers: Iterator[int],
        poisonous: frozenset[int],
    ) -> None:
        """`numbers` are given to workers in the order in which they join; `perform` is called with what a fact gave
        rise to and calls `work` in its turn. `poisonous`: edges whose sessions break any worker.
        """
        self.setting = setting
        self._pair = pair
        self._plan = plan
        self.front = front
        self._perform = perform
        self._numbers = numbers
        self._poisonous = poisonous
        self._coming = 0
        self.stated: dict[int, set[int]] = {}
        """Keys of the facts that the server was told, by session; kept where every step is checked."""
        self.moving: list[Transfer] = []
        """Transfers on their way."""
        self._timer: int | None = None
        """When the front will be asked again in any case."""
        self.wants_at: int | None = None
        """When it wanted to be asked again, when it was asked last."""
        self.changed = False
        """Whether it was asked since the last check."""
        self._over = False
        self.workers: dict[int, SimWorker] = {}
        """That the front believes to be there."""
        self.draining: set[int] = set()
        self.steps = 0
        """Begun so far that asked for something."""
        self.losses = 0
        """Workers that have died so far."""
        self.usages: list[Usage] = []
        """Of every worker that ever joined."""
        self._past_facts = 0

    # ---- coming and going ----

    def start(self) -> None:
        """The workers of the plan join at their times, counted from now."""
        for plan in self._plan.workers:
            self._expect(plan, plan.join_ms)

    def stop(self) -> None:
        """The server is gone: nothing that is under way comes back."""
        self._over = True
        self._past_facts = self.facts
        for worker in self.workers.values():
            self._gone(worker)
        self.workers.clear()

    def adopt(self, number: int, plan: WorkerPlan, random: Keyed) -> None:
        """A worker that the pool has known from the beginning."""
        usage = Usage(number, plan.kind, self.setting.clock.now)
        self.usages.append(usage)
        self.workers[number] = SimWorker(
            number, plan, SyntheticWorker(self._pair, plan.profile), random, usage
        )

    @property
    def facts(self) -> int:
        """Facts stated so far."""
        return self._past_facts + sum(worker.model.nodes for worker in self.workers.values())

    def _expect(self, plan: WorkerPlan, delay_ms: float) -> None:
        self._coming += 1
        self._after(delay_ms, lambda: self._join(plan))

    def _join(self, plan: WorkerPlan) -> None:
        self._coming -= 1
        number = next(self._numbers)
        self.adopt(number, plan, Keyed(self.setting.seed, "worker", number))
        self.setting.note(f"worker {number} joined")
        if plan.misfortune is not None:
            self._after(plan.misfortune_ms, lambda: self._befall(number))
        self.front.worker_joined(number, plan.kv_tokens)
        self._perform([])

    def _befall(self, number: int) -> None:
        worker = self.workers.get(number)
        if worker is None or worker.plan.misfortune is None:
            return
        self.setting.note(f"worker {number}: {worker.plan.misfortune.value}")
        match worker.plan.misfortune:
            case Misfortune.DRAIN:
                self.front.worker_draining(number)
                self.draining.add(number)
                self._replace(worker.plan)
                self._perform([])
            case Misfortune.CRASH:
                self._die(worker)
            case Misfortune.FREEZE:
                self._freeze(worker)

    def _die(self, worker: SimWorker) -> None:
        worker.dead = True
        self._after(worker.random.choice(self._plan.noticed_ms), lambda: self._left(worker.number))

    def _freeze(self, worker: SimWorker) -> None:
        plan, deadline = worker.plan, self._plan.deadline_ms
        if plan.freeze_ms >= deadline:
            worker.dead = True  # it may thaw one day, but is told to stop then
            self._after(deadline, lambda: self._left(worker.number))
            return
        worker.thaws_at = self.setting.clock.now + round(plan.freeze_ms * MILLISECOND)
        self._after(plan.freeze_ms, lambda: setattr(worker, "thaws_at", None))

    def _gone(self, worker: SimWorker) -> None:
        worker.usage.ends(self.setting.clock.now)
        worker.usage.left = self.setting.clock.now

    def _left(self, number: int) -> None:
        """The driver is sure that a worker is gone, and says so."""
        worker = self.workers.pop(number, None)
        if worker is None:
            return
        worker.dead = True
        self._gone(worker)
        self.setting.note(f"worker {number} left")
        self._past_facts += worker.model.nodes
        if number not in self.draining:
            self._replace(worker.plan)
            self.losses += 1
        self.draining.discard(number)
        self._perform(self.front.worker_left(number))

    def _replace(self, plan: WorkerPlan) -> None:
        """Another takes the place of one that goes; the last one is always replaced."""
        healthy = replace(plan, join_ms=0.0, misfortune=None)
        if plan.returns_ms is not None:
            self._expect(healthy, plan.returns_ms)
        elif not self._coming and not self.serving:
            self._expect(healthy, self._plan.deadline_ms)

    @property
    def serving(self) -> list[SimWorker]:
        """Workers that take sessions, as far as the front knows."""
        return [worker for number, worker in self.workers.items() if number not in self.draining]

    # ---- work ----

    def work(self) -> None:
        """Hand out what is to be done now, and see to it that the pool is asked again when it wants to be."""
        clock = self.setting.clock
        while (step := self.front.next_step(clock.now)) is not None:
            self._begin(step)
        while (transfer := self.front.next_transfer(clock.now)) is not None:
            self._move(transfer)
        for number in sorted(self.draining):
            if self.front.pool.worker_idle(number):
                self._left(number)
                return  # which has asked for work again
        self.wants_at = wake = self.front.wake_at()
        if wake is not None and wake != self._timer:
            self._timer = wake
            self._at(wake, lambda: self._wake(wake))
        self.changed = True

    def _wake(self, asked_for: int) -> None:
        if asked_for != self._timer:
            return  # another time was asked for since
        self._timer = None
        self._perform(self.front.tick(self.setting.clock.now))

    def _begin(self, step: Step) -> None:
        worker = self.workers.get(step.worker)
        if worker is None:
            raise LawBroken(f"step {step.number} is for worker {step.worker}, which is not there")
        if worker.step is not None:
            raise LawBroken(f"step {step.number} is for worker {step.worker}, which is busy")
        if step.number % self.setting.check_every == 0:
            laws.check_new(self, step)
        worker.step = step
        worker.usage.out_since = self.setting.clock.now
        self.steps += bool(step.items)
        duration_ms = worker.model.duration_ms(step) * worker.plan.slowness
        if worker.plan.hiccup and worker.random.chance(worker.plan.hiccup):
            duration_ms *= HICCUP
        failed = worker.random.chance(self.setting.faults.step_failure)
        self._after(duration_ms, lambda: self._end(worker, round(duration_ms * 1000), failed=failed))

    def _end(self, worker: SimWorker, duration_us: int, *, failed: bool) -> None:
        step = worker.step
        if worker.dead or step is None:
            return
        if worker.thaws_at is not None:
            self._at(worker.thaws_at, lambda: self._end(worker, duration_us, failed=failed))
            return
        name = f"step {step.number}" + (f" on worker {worker.number}" if self._plan.several else "")
        worker.usage.ends(self.setting.clock.now)
        if failed:
            self.setting.note(f"{name} failed")
            worker.step = None
            self._perform(self.front.failed(worker.number))
            return
        asked = [item.session // STREAMS_PER_EDGE - 1 for item in step.items if not item.prefill_only]
        if not self._poisonous.isdisjoint(asked):
            self.setting.note(f"{name} broke the worker")
            if self._plan.poison_kills:
                self._die(worker)
                return
            worker.step = None
            self._past_facts += worker.model.nodes
            worker.model = SyntheticWorker(self._pair, worker.plan.profile)
            self._perform(self.front.broken("poison", worker.number))
            return
        worker.step = None
        for item in step.items:
            if worker.random.chance(self.setting.faults.eviction):
                worker.model.forget(item.session)
        outcome = worker.model.step(step, duration_us)
        if self.setting.check_every == 1:
            laws.note_stated(self, step)
        usage = worker.usage
        usage.steps += bool(step.items)
        usage.nodes += sum(item.computed for item in outcome.items)
        usage.facts += sum(len(item.facts) for item in outcome.items)
        self.setting.note(name)
        self._perform(self.front.complete(outcome, self.setting.clock.now, worker.number))

    # ---- moving KV ----

    def _move(self, transfer: Transfer) -> None:
        source, target = self.workers.get(transfer.source), self.workers.get(transfer.target)
        if source is None or target is None or source is target:
            raise LawBroken(f"{transfer}: between workers that are not there")
        self.moving.append(transfer)
        self.setting.note(f"{transfer}")
        took_ms = transfer.length * self._plan.transfer_token_ms
        self._after(took_ms, lambda: self._moved(transfer, source, target))

    def _moved(self, transfer: Transfer, source: SimWorker, target: SimWorker) -> None:
        thaws = max(source.thaws_at or 0, target.thaws_at or 0)
        if thaws > self.setting.clock.now:
            self._at(thaws, lambda: self._moved(transfer, source, target))
            return
        gone = self._unreachable(source) or self._unreachable(target)
        if gone is not None:
            # The driver's own call ends with the worker it waits for, a moment before or after it is said to have left.
            self._after(gone, lambda: self._answer(transfer, None))
            return
        held = min(transfer.length, source.model.length_of(transfer.session))
        if held == 0 or target.random.chance(self._plan.transfer_failure):
            self._answer(transfer, None)
            return
        target.model.hold(transfer.session, held)
        self._answer(transfer, held)

    def _unreachable(self, worker: SimWorker) -> float | None:
        """Milliseconds until a call to a dead worker fails; None: it answers."""
        if not worker.dead:
            return None
        return worker.random.uniform(0, self._plan.deadline_ms) if worker.number in self.workers else 0.0

    def _answer(self, transfer: Transfer, tokens: int | None) -> None:
        self.moving.remove(transfer)
        self.setting.note(f"{transfer}: {tokens}")
        self.front.transferred(transfer.session, transfer.target, tokens, self.setting.clock.now)
        self._perform([])

    # ---- time ----

    def _after(self, delay_ms: float, run: Callable[[], None]) -> None:
        self._at(self.setting.clock.now + round(delay_ms * MILLISECOND), run)

    def _at(self, when: int, run: Callable[[], None]) -> None:
        self.setting.clock.at(when, lambda: None if self._over else run())
