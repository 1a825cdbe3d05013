"""The asyncio driver of one EdgeSession, or of one AssistSession.

One task owns the machine. The stream's reader, the connection timer and the model's thread post facts to its inbox;
it applies a fact, then performs the effects in their order without awaiting: what goes up is queued for the stream's
writer. It decides nothing (law 7), and does with each effect what the simulator's edge does with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from edge_client.drafter.interface import Drafter
from edge_client.model_thread import Drafted, ModelThread
from edge_client.route import Route
from edge_client.stats import Traffic
from edge_client.transport import Crashed, Dialled, Ended, Received, StreamFact
from shared.errors import Status
from shared.messages import Attach, Attached, CloudMessage, Commit, Open, Opened
from shared.session.assist import AssistSession
from shared.session.edge import Connect, Done, EdgeEffect, EdgeSession, Emit, Failed, Forward, Leave, SendUp

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Due:
    """The time of a `Connect` has come."""

    connect: Connect


_Fact = StreamFact | Drafted | _Due

Event = StreamFact | Drafted | Dialled | EdgeEffect
"""What `Observe` is shown: a fact before the machine is told, an effect before it is performed."""

Observe = Callable[[int, Event], None]
"""Takes (monotonic ns, event). It only looks: what it raises ends the generation."""

OnEmit = Callable[[Emit], int | None]
"""Takes final tokens; answers with the log position to close at, from which on tokens do not count, or with None."""


@dataclass(frozen=True, slots=True)
class Brain:
    """A drafter and the thread that it lives in."""

    drafter: Drafter
    thread: ModelThread


class EdgeDriver:
    """Runs one session over one route. `run` is called once, on the route's event loop."""

    def __init__(
        self,
        session: EdgeSession | AssistSession,
        route: Route,
        brain: Brain | None,
        on_emit: OnEmit,
        observe: Observe | None = None,
    ) -> None:
        """`brain`: None for a session whose policies never draft."""
        self._session = session
        self._route = route
        self._brain = brain
        self._on_emit = on_emit
        self._observe = observe
        self._inbox: asyncio.Queue[_Fact] = asyncio.Queue()
        self._connect: Connect | None = None
        """The last that was asked for, until its time has come."""
        self._timer: asyncio.TimerHandle | None = None
        self._learning: asyncio.Task[None] | None = None
        self._out: Forward | None = None
        self._outcome: Done | Failed | None = None
        self._opening_at: int | None = None
        self._advanced_at = 0
        self.rtt_ns: int | None = None
        """Shortest time from `Open` to `Opened` (`Attach` to `Attached`) on this clock; whatever else the server did
        first is in it."""
        self.drafter_error: Exception | None = None
        """What the drafter died of. The session goes on without it: the cloud decodes alone."""
        self.longest_alone_ns = 0
        """Longest time to a commit that needed a step without any draft, from the commit or `Opened` before it."""

    @property
    def traffic(self) -> Traffic:
        """What all its streams carried."""
        return self._route.traffic

    async def run(self) -> Done | Failed:
        """Generate to the end. Whatever ends it before, the cloud is told, and nothing of it goes on here.

        Raises:
            Exception: what `on_emit` raises, or a bug in a task of the stream.
        """
        try:
            self._perform(self._session.start(time.monotonic_ns()))
            while self._outcome is None:
                self._perform(self._apply(await self._inbox.get()))
            return self._outcome
        finally:
            await self._finish()

    # ---- facts ----

    def _apply(self, fact: _Fact) -> list[EdgeEffect]:
        now = time.monotonic_ns()
        if self._observe is not None and not isinstance(fact, _Due):
            self._observe(now, fact)
        match fact:
            case Received(stream, message):
                self._route.received(stream, message, now)
                self._note(message, now)
                return self._session.receive(stream, message, now)
            case Drafted():
                return self._drafted(fact, now)
            case Ended(stream, status, detail):
                return self._session.lost(stream, status, detail, now, self._route.ended(fact, now))
            case _Due(connect):
                return self._dial(connect, now)
            case Crashed(error):
                raise error
            case _:
                assert_never(fact)

    def _drafted(self, fact: Drafted, now: int) -> list[EdgeEffect]:
        if self._out is None:
            raise ValueError("a result without a forward")
        forward, self._out = self._out, None
        if isinstance(fact.results, Exception):
            self.drafter_error = fact.results
            return self._session.drafted([()] * len(forward.keys), now)
        return self._session.drafted(fact.results, now)

    def _dial(self, connect: Connect, now: int) -> list[EdgeEffect]:
        if self._session.over or connect is not self._connect:
            return []
        server = self._route.dial(connect, now, self._inbox.put_nowait)
        if server is None:
            return self._session.lost(connect.stream, Status.UNAVAILABLE, "there is no other server", now)
        if self._observe is not None:
            self._observe(now, Dialled(connect.stream, server))
        # gRPC queues what is written before the connection stands: waiting for it would cost a round trip.
        return self._session.connected(connect.stream, now, self._route.limits(server), server)

    def _note(self, message: CloudMessage, now: int) -> None:
        if isinstance(message, Opened | Attached):
            if self._opening_at is not None:
                took, self._opening_at = now - self._opening_at, None
                self.rtt_ns = took if self.rtt_ns is None else min(took, self.rtt_ns)
            self._advanced_at = now
        elif isinstance(message, Commit):
            if message.self_decoded:
                self.longest_alone_ns = max(self.longest_alone_ns, now - self._advanced_at)
            self._advanced_at = now

    # ---- effects ----

    def _perform(self, effects: list[EdgeEffect]) -> None:
        close_at: int | None = None
        for effect in effects:
            if self._observe is not None:
                self._observe(time.monotonic_ns(), effect)
            match effect:
                case Connect():
                    self._schedule(effect)
                case Leave(stream):
                    self._route.leave(stream)
                case SendUp():
                    self._send(effect)
                case Forward():
                    self._forward(effect)
                case Emit():
                    close_at = self._on_emit(effect)
                case Done() | Failed():
                    self._outcome = effect
                case _:
                    assert_never(effect)
        if close_at is not None:
            self._perform(self._session.close(time.monotonic_ns(), close_at))

    def _schedule(self, connect: Connect) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._connect = connect
        if self._route.unknown(connect):
            self._learning = asyncio.create_task(self._learn(connect))
            return
        delay = max(0, connect.at - time.monotonic_ns()) / NANOSECONDS
        self._timer = asyncio.get_running_loop().call_later(delay, self._inbox.put_nowait, _Due(connect))

    async def _learn(self, connect: Connect) -> None:
        try:
            await self._route.learn(connect.target)
        except Exception as error:  # noqa: BLE001 - raised where the inbox is read
            self._inbox.put_nowait(Crashed(error))
        self._inbox.put_nowait(_Due(connect))

    def _send(self, effect: SendUp) -> None:
        if self._route.send(effect.stream, effect.message) and isinstance(effect.message, Open | Attach):
            self._opening_at = time.monotonic_ns()

    def _forward(self, forward: Forward) -> None:
        if self._brain is None:
            raise ValueError("a forward without a drafter")
        self._out = forward
        if self.drafter_error is not None:
            self._inbox.put_nowait(Drafted([()] * len(forward.keys)))
            return
        brain = self._brain
        brain.thread.forward(brain.drafter, forward, self._session.sampling, self._inbox.put_nowait)

    # ---- the end ----

    async def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._session.over:
            self._perform(self._session.close(time.monotonic_ns()))
        if self._learning is not None:
            self._learning.cancel()
        await self._route.close()
