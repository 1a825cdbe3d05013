"""The cloud side of a world: a CloudFront and one worker, driven as `cloud_server` drives them.

Steps fail, caches are evicted, the whole server crashes and comes back with nothing in its memory. It checks law 4
after every event, and that memory is bounded by the live tree.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.messages import EdgeMessage, ModelInfo
from shared.policy.lookup import MOST_GUESSES
from shared.pool import PoolScheduler
from shared.profiled import ProfiledPair
from shared.session.cloud import CloudEffect, EndStream
from shared.session.front import CloudFront, CloudPolicies, Ticket
from shared.session.guesses import MOST_LIVE
from shared.sim.clock import MILLISECOND
from shared.sim.link import Link
from shared.sim.models import SyntheticWorker
from shared.sim.random import Keyed
from shared.sim.setting import STREAMS_PER_EDGE, LawBroken, Setting
from shared.step import Step


class Server:
    """The cloud side: a CloudFront and one worker."""

    def __init__(
        self,
        setting: Setting,
        pair: ProfiledPair,
        info: ModelInfo,
        make_pool: Callable[[], PoolScheduler],
        policies: CloudPolicies | None = None,
        poisonous: frozenset[int] = frozenset(),
    ) -> None:
        """`poisonous`: edges whose sessions break the worker in every step that asks for their facts."""
        self._setting = setting
        self._info = info
        self._make_pool = make_pool
        self._policies = policies
        self._poisonous = poisonous
        self._pair = pair
        self._random = Keyed(setting.seed, "server")
        self._epoch = 0
        self._working = False
        self._timer = -1
        self.links: dict[int, Link] = {}
        self.up = True
        self.front = CloudFront(info, make_pool(), policies)
        self.worker = SyntheticWorker(pair)
        self.steps = 0

    def crash(self) -> None:
        """Everything the server knew is gone, and every stream with it."""
        self._setting.note("server crash")
        self.up = False
        self._epoch += 1
        self._working = False
        for link in list(self.links.values()):
            link.break_off()
        self.links.clear()
        self.front = CloudFront(self._info, self._make_pool(), self._policies)
        self.worker = SyntheticWorker(self._pair)

    def restart(self) -> None:
        """The server is back, with nothing in its memory."""
        self._setting.note("server restart")
        self.up = True

    def connect(self, number: int, link: Link) -> None:
        """A stream has arrived."""
        self.links[number] = link
        self._perform(self.front.connect(number, Ticket(f"s{number}", "secret")))

    def receive(self, number: int, message: EdgeMessage) -> None:
        """A message has arrived."""
        if number in self.links:
            self._perform(self.front.receive(number, message, self._setting.clock.now))
            self.check_bounds(number)

    def lost(self, number: int) -> None:
        """The transport has noticed that a stream is gone."""
        if self.links.pop(number, None) is not None:
            self.front.lost(number)
            self._perform([])

    def check_progress(self) -> None:
        """Law 4: if anything is due, a step is out (the fact at an end never waits for nothing)."""
        wake = self.front.wake_at()
        if wake is not None and wake < self._setting.clock.now and not self._working:
            raise LawBroken("an end is due and no step is out")
        if wake is not None and not self._working and not self._timer >= wake:
            raise LawBroken("a patience runs and no timer is set")
        longest = self._info.limits.max_patience_us * 1000
        if wake is not None and wake > self._setting.clock.now + longest:
            raise LawBroken("a patience runs for longer than any is granted")

    def check_bounds(self, number: int) -> None:
        """Memory is bounded by the live tree and the log past the stream's root position."""
        session = self.front.session_of(number)
        if session is None:
            return
        stream = session.drafts
        if stream.remembered > self._info.limits.max_live_nodes:
            raise LawBroken(f"{stream.remembered} ids remembered for {stream.live} live nodes")
        drafted = session.tree.live - session.tree.looked_up
        if stream.live != drafted:
            raise LawBroken(f"{stream.live} live nodes of the stream, {drafted} live drafts")
        if session.tree.looked_up > MOST_LIVE + MOST_GUESSES:
            raise LawBroken(f"{session.tree.looked_up} guesses of the cloud's own are alive")

    def check_empty(self) -> None:
        """Nothing is left behind."""
        if self.front.streams or self.front.sessions:
            raise LawBroken(
                f"{self.front.streams} streams and {self.front.sessions} sessions left in the server"
            )
        if self.up and self.worker.held:
            raise LawBroken(f"{self.worker.held} sessions left in the worker's cache")

    def _perform(self, effects: list[CloudEffect]) -> None:
        for effect in effects:
            link = self.links.get(effect.stream)
            if link is None:
                continue
            if isinstance(effect, EndStream):
                del self.links[effect.stream]
                link.end(effect.status, effect.detail)
            else:
                link.down(effect.message)
        self._work()

    def _work(self) -> None:
        if self._working:
            return
        clock = self._setting.clock
        step = self.front.next_step(clock.now)
        if step is not None:
            self._begin(step)
            return
        wake = self.front.wake_at()
        if wake is not None:
            self._timer = max(wake, clock.now)
            epoch = self._epoch
            clock.at(wake, lambda: self._work() if epoch == self._epoch else None)

    def _begin(self, step: Step) -> None:
        self._working = True
        self.steps += bool(step.items)
        duration = round(self.worker.duration_ms(step) * MILLISECOND)
        failed = self._random.chance(self._setting.faults.step_failure)
        epoch = self._epoch

        def end() -> None:
            if epoch != self._epoch:
                return
            self._working = False
            if failed:
                self._setting.note(f"step {step.number} failed")
                self._perform(self.front.failed())
                return
            asked = [item.session // STREAMS_PER_EDGE - 1 for item in step.items if not item.prefill_only]
            if not self._poisonous.isdisjoint(asked):
                self._setting.note(f"step {step.number} broke the worker")
                self.worker = SyntheticWorker(self._pair)
                self._perform(self.front.broken("poison"))
                return
            for item in step.items:
                if self._random.chance(self._setting.faults.eviction):
                    self.worker.forget(item.session)
            outcome = self.worker.step(step, duration // 1000)
            self._setting.note(f"step {step.number}")
            self._perform(self.front.complete(outcome, self._setting.clock.now))

        self._setting.clock.after(duration, end)
