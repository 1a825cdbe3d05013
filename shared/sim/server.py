"""The cloud side of a world: a CloudFront and its workers, driven as `cloud_server` drives them.

Steps fail, caches are evicted, workers come and go, the whole server crashes and comes back with nothing in its memory.
After every event it checks law 4, and that memory is bounded by the live tree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from shared.messages import EdgeMessage, ModelInfo, SessionNotice
from shared.policy.lookup import MOST_GUESSES
from shared.pool import PoolScheduler
from shared.profiled import ProfiledPair
from shared.session.cloud import CloudEffect, CloudSession, EndStream, Send
from shared.session.cloud_effects import Announce
from shared.session.front import CloudFront, CloudPolicies, Ticket
from shared.session.guesses import MOST_LIVE
from shared.sim import fleet_laws
from shared.sim.fleet import Fleet, Usage
from shared.sim.link import Link
from shared.sim.random import Keyed
from shared.sim.setting import LawBroken, Setting
from shared.sim.workers import LONE, FleetPlan

WORKERS_PER_SERVER = 10_000
WATCHER = -1
"""The stream of who watches all sessions."""


class Server:
    """The cloud side: a CloudFront and its workers."""

    def __init__(
        self,
        setting: Setting,
        pair: ProfiledPair,
        info: ModelInfo,
        make_pool: Callable[[], PoolScheduler],
        policies: CloudPolicies | None = None,
        poisonous: frozenset[int] = frozenset(),
        fleet: FleetPlan | None = None,
        *,
        index: int = 0,
    ) -> None:
        """`poisonous`: edges whose sessions break the worker in every step that asks for their facts. `fleet`: who is
        to join the pools that are made; None: a worker 0 has joined them, and nothing befalls it.
        """
        self._setting = setting
        self.info = info
        """How it introduces itself."""
        self._make_pool = make_pool
        self._policies = policies
        self._poisonous = poisonous
        self._pair = pair
        self._plan = fleet
        # Whoever was alone in a world before there were several keeps its draws.
        self._random = Keyed(setting.seed, *("server", index)[: 1 + (index > 0)])
        self._numbers = itertools.count(index * WORKERS_PER_SERVER)
        self._past_steps = 0
        self._past_facts = 0
        self._past_losses = 0
        self._past_usages: list[Usage] = []
        self._on_notice: Callable[[SessionNotice], None] | None = None
        self._shared: set[int] = set()
        """Sessions that have had more than one stream."""
        self.links: dict[int, Link] = {}
        self.up = True
        self.front, self.fleet = self._begin()

    def _begin(self) -> tuple[CloudFront, Fleet]:
        """A life of the server, with nothing in its memory."""
        front = CloudFront(self.info, self._make_pool(), self._policies)
        plan = LONE if self._plan is None else self._plan
        fleet = Fleet(self._setting, self._pair, plan, front, self._perform, self._numbers, self._poisonous)
        if self._plan is None:
            fleet.adopt(0, LONE.workers[0], self._random)
        else:
            fleet.start()
        return front, fleet

    @property
    def steps(self) -> int:
        """Steps begun so far that asked for something."""
        return self._past_steps + self.fleet.steps

    @property
    def facts(self) -> int:
        """Facts stated so far."""
        return self._past_facts + self.fleet.facts

    @property
    def losses(self) -> int:
        """Workers that have died so far."""
        return self._past_losses + self.fleet.losses

    @property
    def usages(self) -> list[Usage]:
        """Of every worker that ever joined, in each life of the server."""
        return self._past_usages + self.fleet.usages

    def drain(self) -> None:
        """It is told to stop: whoever is there moves on."""
        if self.up:
            self._setting.note("server drains")
            self._perform(self.front.drain())

    def crash(self) -> None:
        """Everything the server knew is gone, and every stream with it."""
        if not self.up:
            return
        self._setting.note("server crash")
        self.up = False
        self._past_steps, self._past_facts, self._past_losses = self.steps, self.facts, self.losses
        self.fleet.stop()
        self._past_usages += self.fleet.usages
        for link in list(self.links.values()):
            link.break_off()
        self.links.clear()

    def restart(self) -> None:
        """The server is back, with nothing in its memory."""
        if self.up:
            return
        self._setting.note("server restart")
        self.up = True
        self.front, self.fleet = self._begin()
        if self._on_notice is not None:
            self._perform(self.front.watch(WATCHER))

    def connect(self, number: int, link: Link) -> None:
        """A stream has arrived."""
        self.links[number] = link
        self._perform(self.front.connect(number, Ticket(f"s{number}", "secret")))

    def receive(self, number: int, message: EdgeMessage) -> None:
        """A message has arrived."""
        if number in self.links:
            self._perform(self.front.receive(number, message, self._setting.clock.now))
            if self._setting.check_every == 1:
                self.check_bounds(number)

    def lost(self, number: int) -> None:
        """The transport has noticed that a stream is gone."""
        if self.links.pop(number, None) is not None:
            self.front.lost(number, self._setting.clock.now)
            self._perform([])

    def check_progress(self) -> None:
        """Law 4: if anything is due, a step is out (the fact at an end never waits for nothing)."""
        if self.up:
            fleet_laws.check_time(self.fleet)
        if self.up and self.fleet.changed:
            # Several streams may belong to one session.
            found = (self.front.session_of(number) for number in self.links)
            sessions = {one.key: one for one in found if one is not None}
            fleet_laws.check_progress(
                self.fleet, [*sessions.values()], longest=self.info.limits.max_patience_us * 1000
            )
            self._check_run_ahead([*sessions.values()])

    def _check_run_ahead(self, sessions: Sequence[CloudSession]) -> None:
        """Nobody burns the budget of an edge that has stopped reading: past what it has seen there is `run_ahead`, what
        its own live drafts may add to that, and a token that it may have asked for.
        """
        limits = self.info.limits
        most = limits.run_ahead + limits.max_live_nodes + 1
        for session in sessions:
            unseen = len(session.log) - session.drafts.seen
            if unseen > most and session.key not in self._shared and session.streams == (session.key,):
                raise LawBroken(f"{unseen} tokens past what the edge has seen, at most {most}")

    def check_bounds(self, number: int) -> None:
        """Memory is bounded by the live tree and the log past the stream's root position."""
        session = self.front.session_of(number)
        if session is None:
            return
        most = self.info.limits.max_live_nodes
        drafted = session.tree.live - session.tree.looked_up
        for one in session.streams:
            stream = session.drafts_of(one)
            if stream.remembered > most:
                raise LawBroken(f"{stream.remembered} ids remembered for {stream.live} live nodes")
            # Those that have gone leave nodes behind, which are nobody's.
            if session.streams != (session.key,):
                self._shared.add(session.key)
            if stream.live > drafted or (session.key not in self._shared and stream.live < drafted):
                raise LawBroken(f"{stream.live} live nodes of a stream, {drafted} live drafts")
        # Of those that stand, and of those that have gone as many as do not yet keep others out.
        if drafted > (3 + 2 * self.info.limits.max_attached) * most:
            raise LawBroken(
                f"{drafted} live drafts of {len(session.streams)} streams, each of at most {most}"
            )
        if session.tree.looked_up > MOST_LIVE + MOST_GUESSES:
            raise LawBroken(f"{session.tree.looked_up} guesses of the cloud's own are alive")

    def check_empty(self) -> None:
        """Nothing is left behind."""
        if not self.up:
            return
        self.front.lost(WATCHER, self._setting.clock.now)
        if self.front.streams or self.front.sessions:
            raise LawBroken(
                f"{self.front.streams} streams and {self.front.sessions} sessions left in the server"
            )
        fleet_laws.check_empty(self.fleet)

    def _perform(self, effects: list[CloudEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Announce) and self._on_notice is not None:
                self._on_notice(effect.notice)
            link = self.links.get(effect.stream)
            if link is None:
                continue
            if isinstance(effect, EndStream):
                del self.links[effect.stream]
                link.end(effect.status, effect.detail, effect.retry_ms)
            elif isinstance(effect, Send):
                link.down(effect.message)
        self.fleet.work()

    def watch(self, on_notice: Callable[[SessionNotice], None]) -> None:
        """Somebody is told of every session, in this life of the server and in those that follow."""
        self._on_notice = on_notice
        self._perform(self.front.watch(WATCHER))
