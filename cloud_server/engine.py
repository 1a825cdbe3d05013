"""The asyncio driver of CloudFront: one task owns the machine, one thread owns the model.

Stream handlers and the model's thread post facts to the inbox. The task applies a fact, then performs the effects in
order without awaiting: what goes to a stream is put on that stream's queue, and a writer of its own sends it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cloud_server.metrics import Metrics
from cloud_server.worker import Worker
from shared.errors import ContractViolation, Status
from shared.messages import CloudMessage, Commit, EdgeMessage, ModelInfo
from shared.pool import PoolScheduler
from shared.session.cloud import CloudEffect, EndStream
from shared.session.front import CloudFront, CloudPolicies, Ticket
from shared.step import Step, StepOutcome

log = logging.getLogger(__name__)

MICROSECONDS_PER_SECOND = 1_000_000
NANOSECONDS_PER_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Ending:
    """The last thing on a stream's queue."""

    status: Status
    detail: str


GOING_AWAY = Ending(Status.UNAVAILABLE, "the server is going away: open again with the log")
Outgoing = asyncio.Queue[CloudMessage | Ending]


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


@dataclass(slots=True)
class _Connected:
    outgoing: Outgoing
    timer: asyncio.TimerHandle
    """The next look at whether the edge is doing anything."""
    heard: int = 0
    """Messages so far."""


class Engine:
    """Serves all streams with one worker. Made, used and stopped on one event loop."""

    def __init__(
        self,
        worker: Worker,
        info: ModelInfo,
        pool: PoolScheduler,
        metrics: Metrics,
        limits: StreamLimits | None = None,
        policies: CloudPolicies | None = None,
    ) -> None:
        self._worker = worker
        self._metrics = metrics
        self._limits = limits if limits is not None else StreamLimits()
        self._front = CloudFront(info, pool, policies)
        metrics.lookup = self._front.lookup
        self._inbox: asyncio.Queue[Callable[[], list[CloudEffect]]] = asyncio.Queue()
        self._streams: dict[int, _Connected] = {}
        self._last_stream = 0
        self._handled = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
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
        return self._task

    async def stop(self) -> None:
        """End all streams, wait for the model's thread, free the model."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for stream in list(self._streams):  # there will be no others: `connect` turns them away
            self._perform([EndStream(stream, GOING_AWAY.status, GOING_AWAY.detail)])
        if self._timer is not None:
            self._timer.cancel()
        # The step that is out cannot be interrupted; it is bounded, and the process must not end in its middle.
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._worker.close()

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

    def lost(self, stream: int) -> None:
        """A stream is over, whoever ended it. Its session, if it still has one, is freed at once."""
        self._handled -= 1

        def apply() -> list[CloudEffect]:
            self._forget(stream)
            self._front.lost(stream)
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
                known.outgoing.put_nowait(Ending(effect.status, effect.detail))
                self._metrics.ended(effect.status)
                self._forget(effect.stream)
            elif known.outgoing.qsize() >= self._limits.max_unread:
                self._drop_unread(effect.stream, known.outgoing)
            else:
                if isinstance(effect.message, Commit):
                    self._metrics.committed(effect.message)
                known.outgoing.put_nowait(effect.message)

    def _drop_unread(self, stream: int, outgoing: Outgoing) -> None:
        """Nobody reads, so gRPC holds the writes back: what waits here is given up, and the stream with it."""
        while not outgoing.empty():
            outgoing.get_nowait()
        self._front.lost(stream)  # it may have ended its session in this very moment
        detail = f"{self._limits.max_unread} messages wait to be read: open again with the log, and read"
        self._perform([EndStream(stream, Status.RESOURCE_EXHAUSTED, detail)])

    def _admit(self, stream: int, ticket: Ticket) -> list[CloudEffect]:
        effects = self._front.connect(stream, ticket)
        if self._handled - self._front.sessions > self._limits.max_waiting:
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
        if known is not None:
            known.timer.cancel()
        if not self._streams:
            self._idle.set()

    def _work(self) -> None:
        now = time.monotonic_ns()
        step = self._front.next_step(now)
        self._metrics.sessions(self._front.sessions)
        if step is not None:
            future = self._thread.submit(self._worker.step, step)
            loop = asyncio.get_running_loop()
            future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._stepped, step, done))
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake = self._front.wake_at()
        if wake is not None:
            # A timer may fire a little early (uvloop counts in milliseconds): then it is set again.
            delay = max(wake - now, 1) / NANOSECONDS_PER_SECOND
            self._timer = asyncio.get_running_loop().call_later(delay, self._post, list)

    def _stepped(self, step: Step, done: Future[StepOutcome]) -> None:
        error = done.exception()
        if error is None:
            outcome = done.result()
            self._metrics.stepped(step, outcome)
            self._post(lambda: self._front.complete(outcome, time.monotonic_ns()))
            return
        # A fact that cannot be established ends the session that asked for it, loudly; the others go on.
        log.error("step %d failed", step.number, exc_info=error)
        self._metrics.failed()
        if not step.items:
            # It was to release, and a worker that raised holds nothing: asking again would never end.
            self._post(lambda: self._front.complete(StepOutcome((), 0), time.monotonic_ns()))
            return
        detail = f"the verifier failed ({type(error).__name__}): open again with the log, or ask the operator"
        self._post(lambda: self._front.broken(detail))
