"""The asyncio driver of CloudFront: one task owns the machine, the fleet owns the workers.

Stream handlers and the fleet post facts to the inbox. The task applies a fact, then performs the effects in order
without awaiting: what goes to a stream is put on that stream's queue, and a writer of its own sends it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloud_server.fleet.fleet import (
    Deserted,
    Fleet,
    FleetFact,
    Joined,
    Left,
    StepFailed,
    Stepped,
    WantsToLeave,
)
from cloud_server.fleet.moves import Moves
from cloud_server.metrics import Metrics
from shared.errors import ContractViolation, Status
from shared.messages import Attached, CloudMessage, Commit, EdgeMessage, ModelInfo, SessionNotice
from shared.pool import PoolScheduler, Transfer
from shared.session.cloud import CloudEffect, EndStream
from shared.session.cloud_effects import Announce
from shared.session.front import OWNER_GRACE_S, CloudFront, CloudPolicies, Ticket
from shared.step import StepOutcome

log = logging.getLogger(__name__)

MICROSECONDS_PER_SECOND = 1_000_000
NANOSECONDS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Ending:
    """The last thing on a stream's queue."""

    status: Status
    detail: str
    retry_ms: int | None = None
    """See `EndStream.retry_ms`."""


GOING_AWAY = Ending(Status.UNAVAILABLE, "the server is going away: open again with the log")
NO_WORKER = ContractViolation(
    Status.UNAVAILABLE,
    "no worker of this server is up: open again with the log, here later or at another server",
)
Outgoing = asyncio.Queue[CloudMessage | SessionNotice | Ending]


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What a stream may cost beside its session. An edge that is alive and keeps the contract meets none of them."""

    open_within_s: float = 30.0
    """Seconds from the beginning of a stream until its `Open` is complete."""
    max_waiting: int = 256
    """Streams without a session: it is not open yet, or it is over and the edge has not read to the end."""
    max_unread: int = 4096
    """Messages that wait for one edge to read. Above `Limits.run_ahead` and `max_live_nodes` together: an edge that
    reports only what it has read has no more tokens than that outstanding."""
    idle_s: float = 600.0
    """Seconds for which a session may rest at its run-ahead without a word from its edge."""
    owner_grace_s: float = OWNER_GRACE_S
    """Seconds for which a session with attached drafters waits for its owner to come back."""
    no_worker_s: float = 30.0
    """Seconds for which sessions wait for a worker when none is up; then they end with UNAVAILABLE."""
    transfer_s: float = 10.0
    """Seconds that bringing a session's state from one worker to another may take."""


@dataclass(slots=True)
class _Connected:
    outgoing: Outgoing
    timer: asyncio.TimerHandle | None
    """The next look at whether the edge is doing anything; None: it only watches."""
    heard: int = 0
    """Messages so far."""
    attached: bool = False
    """Whether it drafts for a session of another stream."""


class Engine:
    """Serves all streams with a fleet of workers. Made, used and stopped on one event loop."""

    def __init__(
        self,
        fleet: Fleet,
        info: ModelInfo,
        pool: PoolScheduler,
        metrics: Metrics,
        limits: StreamLimits | None = None,
        policies: CloudPolicies | None = None,
        on_workers: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`fleet` is started already, and stopped here. `on_workers` is told whether any worker is up."""
        self._fleet = fleet
        self._on_workers = on_workers
        self._metrics = metrics
        self._limits = limits if limits is not None else StreamLimits()
        self._front = CloudFront(info, pool, policies, self._limits.owner_grace_s)
        metrics.lookup, metrics.pool = self._front.lookup, pool
        self._inbox: asyncio.Queue[Callable[[], list[CloudEffect]]] = asyncio.Queue()
        self._streams: dict[int, _Connected] = {}
        self._last_stream = 0
        self._handled = 0
        self._leaving: set[int] = set()
        """Workers whose sessions are being moved elsewhere."""
        self._moves = Moves(fleet, self._limits.transfer_s, pool.log_of, self._moved)
        self._desertion: asyncio.TimerHandle | None = None
        """While no worker is up: when waiting for one is over."""
        self._deserted = False
        self._told = 0
        """Disagreements that were logged."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def streams(self) -> int:
        """Streams that are connected."""
        return len(self._streams)

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return self._front.sessions

    def start(self) -> asyncio.Task[None]:
        """Begin to serve; the task ends by `stop`, or with the error that makes serving impossible."""
        self._task = asyncio.create_task(self._run(), name="engine")
        self._fleet.listen(lambda fact: self._post(lambda: self._learn(fact)))
        return self._task

    async def stop(self) -> None:
        """End all streams, give the workers back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._moves.stop()
        for stream in list(self._streams):  # there will be no others: `connect` turns them away
            self._perform([EndStream(stream, GOING_AWAY.status, GOING_AWAY.detail)])
        for timer in (self._timer, self._desertion):
            if timer is not None:
                timer.cancel()
        await self._fleet.stop()

    async def drained(self) -> None:
        """Wait until no stream is left."""
        await self._idle.wait()

    # ---- facts ----

    def connect(self) -> tuple[int, Outgoing]:
        """A stream has begun: its number, and the queue of what it is to be sent. `lost` follows, once."""
        self._last_stream += 1
        self._handled += 1
        stream, outgoing = self._last_stream, Outgoing()
        if self._task is None or self._task.done():  # nobody would read the inbox
            outgoing.put_nowait(GOING_AWAY)
            return stream, outgoing
        timer = asyncio.get_running_loop().call_later(self._limits.open_within_s, self._look, stream, 0)
        self._streams[stream] = _Connected(outgoing, timer)
        self._idle.clear()
        ticket = Ticket(session_id=secrets.token_hex(8), secret=secrets.token_urlsafe(24))
        self._post(lambda: self._admit(stream, ticket))
        return stream, outgoing

    def watch(self) -> tuple[int, Outgoing]:
        """Somebody watches, who may: its number, and the queue of notices. `lost` follows, once."""
        self._last_stream += 1
        self._handled += 1
        stream, outgoing = self._last_stream, Outgoing()
        if self._task is None or self._task.done():
            outgoing.put_nowait(GOING_AWAY)
            return stream, outgoing
        self._streams[stream] = _Connected(outgoing, None)
        self._idle.clear()
        self._post(lambda: self._front.watch(stream))
        return stream, outgoing

    def receive(self, stream: int, message: EdgeMessage) -> bool:
        """A stream has brought a message; False: it is over, nothing more is wanted of it."""
        known = self._streams.get(stream)
        if known is None:
            return False
        known.heard += 1
        self._post(lambda: self._front.receive(stream, message, time.monotonic_ns()))
        return True

    def violated(self, stream: int, violation: ContractViolation) -> None:
        """The codec could not read a message."""
        self._post(lambda: self._front.violated(stream, violation))

    def half_closed(self, stream: int) -> None:
        """The edge ended its side; after `Close` the session is over and this changes nothing."""
        self._post(lambda: self._front.half_closed(stream, time.monotonic_ns()))

    def lost(self, stream: int) -> None:
        """A stream is over, whoever ended it. What follows for its session is the machine's to say."""
        self._handled -= 1

        def apply() -> list[CloudEffect]:
            self._forget(stream)
            self._front.lost(stream, time.monotonic_ns())
            return []

        self._post(apply)

    def drain(self) -> None:
        """Ask all streams to move on and take no new ones."""
        self._post(self._front.drain)

    # ---- the loop ----

    def _post(self, fact: Callable[[], list[CloudEffect]]) -> None:
        self._inbox.put_nowait(fact)

    async def _run(self) -> None:
        while True:
            fact = await self._inbox.get()
            self._perform(fact())
            # Everything that is there already goes into the same step.
            while not self._inbox.empty():
                self._perform(self._inbox.get_nowait()())
            self._work()

    def _perform(self, effects: list[CloudEffect]) -> None:
        for effect in effects:
            known = self._streams.get(effect.stream)
            if known is None:
                continue  # the stream was lost while this was decided
            if isinstance(effect, EndStream):
                known.outgoing.put_nowait(Ending(effect.status, effect.detail, effect.retry_ms))
                self._metrics.ended(effect.status, refused=effect.retry_ms is not None)
                self._forget(effect.stream)
            elif known.outgoing.qsize() >= self._limits.max_unread:
                self._drop_unread(effect.stream, known.outgoing)
            elif isinstance(effect, Announce):
                known.outgoing.put_nowait(effect.notice)
            else:
                known.attached |= isinstance(effect.message, Attached)
                if (
                    isinstance(effect.message, Commit) and not known.attached
                ):  # they are told what the owner is
                    self._metrics.committed(effect.message)
                known.outgoing.put_nowait(effect.message)

    def _drop_unread(self, stream: int, outgoing: Outgoing) -> None:
        """Nobody reads, so gRPC holds the writes back: what waits here is given up, and the stream with it."""
        while not outgoing.empty():
            outgoing.get_nowait()
        self._front.lost(stream, time.monotonic_ns())  # it may have ended its session in this very moment
        detail = f"{self._limits.max_unread} messages wait to be read: open again with the log, and read"
        self._perform([EndStream(stream, Status.RESOURCE_EXHAUSTED, detail)])

    def _admit(self, stream: int, ticket: Ticket) -> list[CloudEffect]:
        effects = self._front.connect(stream, ticket)
        if self._deserted:
            effects += self._front.violated(stream, NO_WORKER)
        if self._handled - self._front.busy > self._limits.max_waiting:
            effects += self._front.crowded()
        return effects

    def _look(self, stream: int, heard: int) -> None:
        """By its timer: is the stream's edge doing anything? `heard` counts its messages at the look before."""
        known = self._streams[stream]
        self._post(lambda: self._front.overdue(stream))
        if known.heard == heard:
            self._post(lambda: self._front.silent(stream))
        known.timer = asyncio.get_running_loop().call_later(
            self._limits.idle_s, self._look, stream, known.heard
        )

    def _forget(self, stream: int) -> None:
        known = self._streams.pop(stream, None)
        if known is not None and known.timer is not None:
            known.timer.cancel()
        if not self._streams:
            self._idle.set()

    def _work(self) -> None:
        now = time.monotonic_ns()
        while (step := self._front.next_step(now)) is not None:
            self._fleet.submit(step)
        while (transfer := self._front.next_transfer(now)) is not None:
            self._moves.begin(transfer)
        for worker in [worker for worker in self._leaving if self._front.pool.worker_idle(worker)]:
            self._leaving.discard(worker)
            self._fleet.retire(worker)
        self._metrics.sessions(self._front.sessions)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = self._front.wake_at()
        if wake is not None:
            # A timer may fire a little early (uvloop counts in milliseconds): then it is set again.
            delay = max(wake - now, 1) / NANOSECONDS_PER_SECOND
            self._timer = asyncio.get_running_loop().call_later(delay, self._post, self._tick)

    def _tick(self) -> list[CloudEffect]:
        return self._front.tick(time.monotonic_ns())

    # ---- the workers ----

    def _learn(self, fact: FleetFact) -> list[CloudEffect]:
        now = time.monotonic_ns()
        match fact:
            case Stepped(worker, step, outcome):
                self._metrics.stepped(worker, step, outcome)
                effects = self._front.complete(outcome, now, worker)
                self._tell_of_disagreements()
                return effects
            case StepFailed(worker, step, error):
                self._metrics.failed(worker)
                if not step.items:
                    # It was to release, and a worker that raised holds nothing: asking again would never end.
                    return self._front.complete(StepOutcome((), 0), now, worker)
                # A fact that cannot be established ends the session that asked for it, loudly; the others go on.
                detail = f"the verifier failed ({error}): open again with the log, or ask the operator"
                return self._front.broken(detail, worker)
            case Joined(worker, kv_tokens, name):
                self._metrics.joined(worker, name)
                self._front.worker_joined(worker, kv_tokens)
                self._peopled()
            case WantsToLeave(worker):
                self._front.worker_draining(worker)
                self._leaving.add(worker)
            case Left(worker, _):
                self._metrics.left(worker)
                self._leaving.discard(worker)
                effects = self._front.worker_left(worker)
                if not self._front.pool.workers:
                    self._unpeopled()
                return effects
            case Deserted(error):
                raise error
        return []

    def _tell_of_disagreements(self) -> None:
        """Facts cannot disagree (law 3): where they do all the same, nobody has to look for it."""
        pool = self._front.pool
        told, self._told = self._told, pool.near_ties + pool.incidents
        for one in pool.disagreements[-(self._told - told) :] if self._told > told else ():
            say = log.info if one.near_tie else log.error
            say(
                "workers %d and %d state different tokens for position %d of a session, %s (margin %.3g nats)",
                one.first_worker,
                one.second_worker,
                one.position,
                "a near tie" if one.near_tie else "which must not be: do they run the same software?",
                one.margin,
            )

    def _peopled(self) -> None:
        self._deserted = False
        if self._desertion is not None:
            self._desertion.cancel()
            self._desertion = None
        self._on_workers(True)

    def _unpeopled(self) -> None:
        self._on_workers(False)
        log.error("no worker is up: sessions wait for one for %g s", self._limits.no_worker_s)
        self._desertion = asyncio.get_running_loop().call_later(
            self._limits.no_worker_s, self._post, self._desert
        )

    def _desert(self) -> list[CloudEffect]:
        """Nobody is kept waiting for what does not come."""
        if self._front.pool.workers:
            return []  # one came in this very moment
        self._deserted = True
        return [
            effect for stream in list(self._streams) for effect in self._front.violated(stream, NO_WORKER)
        ]

    def _moved(self, transfer: Transfer, tokens: int | None) -> None:
        self._metrics.moved(tokens)

        def apply() -> list[CloudEffect]:
            self._front.transferred(transfer.session, transfer.target, tokens, time.monotonic_ns())
            return []

        self._post(apply)
