"""A deployment under the virtual clock: the product's own machines, driven for so long, counted as it goes.

An edge exists only while it generates, and nothing is done here per user or per session at an event that does not
concern it: what a run costs grows with what is written, not with who is idle. Laws are checked by sampling.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Final

from shared.messages import Limits, SessionNotice
from shared.policy.servers import Balance
from shared.sampling import SamplingParams
from shared.session.edge import Done, Request
from shared.sim.assistant import AssistPlan
from shared.sim.clock import MILLISECOND, SECOND
from shared.sim.collecting import seldom_collecting
from shared.sim.deployment import laws
from shared.sim.deployment.generation import Generation
from shared.sim.deployment.meter import Meter
from shared.sim.deployment.plan import AssistantPlan, DeploymentPlan, PoolPlan
from shared.sim.deployment.record import DeploymentRecord, Ending, GenerationRecord
from shared.sim.deployment.trace import HashedSetting
from shared.sim.deployment.users import Asked, User
from shared.sim.edge import EdgePlan
from shared.sim.models import SyntheticDrafter
from shared.sim.predict import model_info
from shared.sim.random import Keyed
from shared.sim.server import Server
from shared.sim.setting import STREAMS_PER_EDGE

EVENTS_PER_LOOK: Final = 2_000
"""Events between two looks at law 4, at least: a look costs as much as there are sessions and workers."""
HASHED_TOKENS: Final = 32
"""Of a prompt, for `Balance.HASH`: as many as a live edge takes."""
UNTOLD_RETRY: Final = SECOND
"""A user that was refused and not told when to come again comes after that."""


class Deployment:
    """Runs once. What it records is equal for equal plans, whatever process runs it."""

    def __init__(self, plan: DeploymentPlan) -> None:
        self._plan = plan
        self._setting = HashedSetting(plan.seed, plan.faults)
        self._clock = self._setting.clock
        self._end = round(plan.duration_ms * MILLISECOND)
        self._measured_from = round(plan.warm_up_ms * MILLISECOND)
        self._over = False
        self._running: dict[int, Generation] = {}
        """By index. A visit that waits to be let in has none."""
        self._asked: dict[tuple[int, int], Asked] = {}
        """Visits that have begun and not ended, by user and number."""
        self._last_ended = 0
        self._records: list[GenerationRecord] = []
        self._checked = 0
        # Before all else, so that what happens at the same moment counts as after the warm-up, or as too late.
        self._clock.at(self._measured_from, self._measure)
        self._clock.at(self._end, self._stop)
        self._servers = [self._server(index, pool) for index, pool in enumerate(plan.servers)]
        self._meter = Meter(self._servers)
        limits = _least([server.info.limits for server in self._servers])
        self._info = replace(self._servers[0].info, limits=limits)
        self._plan_outages()
        for number, one in enumerate(plan.users):
            User(number, one, self._clock, self._ask).start()

    @seldom_collecting()
    def run(self, progress: Callable[[float], None] | None = None) -> DeploymentRecord:
        """Run to the end of the planned time. `progress` is told now and then which share of it has passed.

        Raises:
            LawBroken: a text is not the target's own, or a fact at an end waits for nothing.
        """
        clock, due = self._clock, EVENTS_PER_LOOK
        while not self._over:
            clock.step()
            if clock.events >= due:
                due = clock.events + max(EVENTS_PER_LOOK, laws.look(self._servers))
                if progress is not None:
                    progress(clock.now / self._end)
        for key in sorted(self._asked):
            self._finish(self._asked[key], Ending.CUT)
        if self._end - self._last_ended > laws.QUIET:
            laws.check_quiet(self._servers)
        if progress is not None:
            progress(1.0)
        return self._record()

    def _stop(self) -> None:
        self._over = True

    def _measure(self) -> None:
        """The warm-up is over."""
        self._meter.begin(self._clock.now)
        for generation in self._running.values():
            generation.measure_from_here()
        for asked in self._asked.values():
            asked.forget()

    def _record(self) -> DeploymentRecord:
        return DeploymentRecord(
            duration_ns=self._end,
            warm_up_ns=self._measured_from,
            generations=tuple(self._records),
            workers=self._meter.workers(self._end),
            groups=tuple(dict.fromkeys(user.group for user in self._plan.users)),
            events=self._clock.events,
            checked=self._checked,
            trace_hash=self._setting.trace_hash,
        )

    # ---- the cloud ----

    def _server(self, index: int, pool: PoolPlan) -> Server:
        info = model_info(self._plan.pair.profile, pool.limits)
        server = Server(
            self._setting,
            self._plan.pair,
            replace(info, sp_degree=pool.make_pool().sp_degree),
            pool.make_pool,
            pool.policies,
            fleet=pool.fleet,
            index=index,
        )
        near = self._plan.near
        if near is not None:
            server.watch(lambda notice: self._help(notice, near, server))
        return server

    def _help(self, notice: SessionNotice, near: AssistantPlan, server: Server) -> None:
        """A server says that it has a session."""
        index = int(notice.session_id.removeprefix("s")) // STREAMS_PER_EDGE - 1
        generation = self._running.get(index)
        if generation is not None:
            generation.assist(_assistant(near), (notice.session_id, notice.secret), server)

    def _plan_outages(self) -> None:
        for outage in self._plan.outages:
            server, start = self._servers[outage.server], outage.start_ms
            if outage.notice_ms is not None:
                self._clock.at(round((start - outage.notice_ms) * MILLISECOND), server.drain)
            self._clock.at(round(start * MILLISECOND), server.crash)
            self._clock.at(round((start + outage.length_ms) * MILLISECOND), server.restart)

    # ---- visits ----

    def _ask(self, asked: Asked) -> None:
        self._asked[asked.user.number, asked.number] = asked
        self._attempt(asked)

    def _attempt(self, asked: Asked) -> None:
        index = asked.index
        generation = self._running[index] = Generation(
            self._setting,
            index,
            self._edge_plan(asked),
            self._info,
            self._servers,
            lambda _: self._ended(asked),
            careful=Keyed(self._plan.seed, "check", index).chance(self._plan.check_share),
        )
        generation.start()

    def _edge_plan(self, asked: Asked) -> EdgePlan:
        plan, visit = asked.user.plan, asked.visit
        policies = plan.make_policies()
        policies.moves = len(self._servers) > 1
        drafts = plan.pair is not None and policies.expansion is not None
        return EdgePlan(
            Request(
                visit.prompt,
                visit.output_tokens,
                SamplingParams(),
                stop_tokens=plan.stop_tokens,
                patience_us=plan.patience_us,
                adaptive_patience_us=plan.adaptive_patience_us,
            ),
            policies if drafts else replace(policies, expansion=None),
            SyntheticDrafter(plan.pair) if plan.pair is not None and drafts else None,
            up=plan.up,
            down=plan.down,
            balance=plan.balance,
            key=_key(plan.balance, visit.prompt, Keyed(self._plan.seed, "route", asked.index)),
            assistants=tuple(_assistant(one) for one in plan.assistants),
        )

    def _ended(self, asked: Asked) -> None:
        """An attempt is over: the user comes again where it was refused, if it likes, and goes on otherwise."""
        generation = self._running[asked.index]
        refused = generation.refused
        if refused and asked.attempt < asked.user.plan.retries:
            at = generation.room_at(otherwise=self._clock.now + UNTOLD_RETRY)
            self._close(asked, generation)
            asked.attempt += 1
            self._clock.at(at, lambda: self._attempt(asked))
            return
        failed = Ending.REFUSED if refused else Ending.FAILED
        self._finish(asked, Ending.DONE if isinstance(generation.outcome, Done) else failed)
        asked.user.ended()

    def _finish(self, asked: Asked, ending: Ending) -> None:
        """A visit is over."""
        del self._asked[asked.user.number, asked.number]
        generation = self._running.get(asked.index)
        if generation is not None:
            self._close(asked, generation)
        self._setting.note(f"user {asked.user.number} visit {asked.number} {ending.value}")
        self._records.append(
            GenerationRecord(
                user=asked.user.number,
                visit=asked.number,
                group=asked.user.plan.group,
                started=asked.started,
                ended=self._clock.now,
                ending=ending,
                refusals=asked.refusals,
                times=array("q") if generation is None else generation.times,
                sizes=array("I") if generation is None else generation.sizes,
                counts=asked.spent,
            )
        )

    def _close(self, asked: Asked, generation: Generation) -> None:
        """An edge is not needed any more: what it has counted is the visit's."""
        del self._running[asked.index]
        self._last_ended = self._clock.now
        asked.refusals += generation.refusals
        asked.spent += generation.spent
        if generation.careful:
            self._checked += 1
            generation.check_so_far(self._plan.pair)


def _assistant(plan: AssistantPlan) -> AssistPlan:
    """One device, with a drafter of its own."""
    return AssistPlan(
        plan.make_policies, SyntheticDrafter(plan.pair), plan.up, plan.down, plan.delay_ms, plan.life_ms
    )


def _key(balance: Balance, prompt: Sequence[int], random: Keyed) -> bytes:
    """What decides where a generation goes: with `Balance.HASH` how its prompt begins, else chance."""
    if balance is Balance.HASH:
        return b"".join(token.to_bytes(4) for token in prompt[:HASHED_TOKENS])
    return random.integer(0, (1 << 32) - 1).to_bytes(4)


def _least(several: Sequence[Limits]) -> Limits:
    """Limits that every server grants: what an edge keeps to until the one that it has come to names its own."""
    names = [field.name for field in fields(Limits)]
    return Limits(**{name: min(getattr(limits, name) for limits in several) for name in names})
