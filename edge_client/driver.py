"""The asyncio driver of one EdgeSession.

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
from edge_client.stats import Traffic
from edge_client.transport import Crashed, Ended, Received, Stream, StreamFact, Transport
from shared.messages import CloudMessage, Commit, Open, Opened
from shared.sampling import SamplingParams
from shared.session.edge import Connect, Done, EdgeEffect, EdgeSession, Emit, Failed, Forward, SendUp

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Due:
    """The time of a `Connect` has come."""

    stream: int


_Fact = StreamFact | Drafted | _Due

Event = StreamFact | Drafted | EdgeEffect
"""What `Observe` is shown: a fact before the machine is told, an effect before it is performed."""

Observe = Callable[[int, Event], None]
"""Takes (monotonic ns, event). It only looks: what it raises ends the generation."""

OnEmit = Callable[[Emit], int | None]
"""Takes final tokens; answers with the log position to close at, from which on tokens do not count, or with None."""


@dataclass(frozen=True, slots=True)
class Brain:
    """A drafter, the thread that it lives in, and what the session samples with."""

    drafter: Drafter
    thread: ModelThread
    sampling: SamplingParams


class EdgeDriver:
    """Runs one session over one transport. `run` is called once, on the transport's event loop."""

    def __init__(
        self,
        session: EdgeSession,
        transport: Transport,
        brain: Brain | None,
        on_emit: OnEmit,
        observe: Observe | None = None,
    ) -> None:
        """`brain`: None for a session whose policies never draft."""
        self._session = session
        self._transport = transport
        self._brain = brain
        self._on_emit = on_emit
        self._observe = observe
        self._inbox: asyncio.Queue[_Fact] = asyncio.Queue()
        self._stream: Stream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._out: Forward | None = None
        self._outcome: Done | Failed | None = None
        self._opening_at: int | None = None
        self._advanced_at = 0
        self.traffic = Traffic()
        self.rtt_ns: int | None = None
        """Shortest time from `Open` to `Opened` on this clock; whatever else the server did first is in it."""
        self.drafter_error: Exception | None = None
        """What the drafter died of. The session goes on without it: the cloud decodes alone."""
        self.longest_alone_ns = 0
        """Longest time to a commit that needed a step without any draft, from the commit or `Opened` before it."""

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
                self._note(message, now)
                return self._session.receive(stream, message, now)
            case Drafted():
                return self._drafted(fact, now)
            case Ended(stream, status, detail):
                return self._session.lost(stream, status, detail, now)
            case _Due(stream):
                return self._connect(stream, now)
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

    def _connect(self, number: int, now: int) -> list[EdgeEffect]:
        if self._session.over:
            return []
        self._leave()
        self._stream = self._transport.decode(number, self.traffic, self._inbox.put_nowait)
        # gRPC queues what is written before the connection stands: waiting for it would cost a round trip.
        return self._session.connected(number, now)

    def _note(self, message: CloudMessage, now: int) -> None:
        if isinstance(message, Opened):
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
                case Connect(stream, at):
                    delay = max(0, at - time.monotonic_ns()) / NANOSECONDS
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(delay, self._inbox.put_nowait, _Due(stream))
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

    def _send(self, effect: SendUp) -> None:
        if self._stream is None or self._stream.number != effect.stream:
            return  # the stream of this message has been replaced
        self._stream.send(effect.message)
        if isinstance(effect.message, Open):
            self._opening_at = time.monotonic_ns()

    def _forward(self, forward: Forward) -> None:
        if self._brain is None:
            raise ValueError("a forward without a drafter")
        self._out = forward
        if self.drafter_error is not None:
            self._inbox.put_nowait(Drafted([()] * len(forward.keys)))
            return
        brain = self._brain
        brain.thread.forward(brain.drafter, forward, brain.sampling, self._inbox.put_nowait)

    # ---- the end ----

    def _leave(self) -> None:
        """End the stream of the moment; what was sent on it before is still written."""
        if self._stream is not None:
            self._leaving.add(asyncio.create_task(self._stream.end()))
            self._stream = None

    async def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._session.over:
            self._perform(self._session.close(time.monotonic_ns()))
        self._leave()
        if self._leaving:
            await asyncio.wait(self._leaving)
