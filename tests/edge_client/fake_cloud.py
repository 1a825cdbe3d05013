"""A small cloud on a real socket: the product's own CloudFront over a synthetic worker, and faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc

from shared import wire
from shared.errors import Status
from shared.messages import CloudMessage, Commit, Draft, EdgeMessage, Limits, ModelInfo
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.policy.batching import FlatBudget
from shared.pool import one_worker
from shared.profiled import Profile, ProfiledPair
from shared.session.cloud import CloudEffect, EndStream
from shared.session.front import CloudFront, Ticket
from shared.sim.models import SyntheticWorker

PROFILE = Profile(acceptance=0.8, step_ms=1.0, draft_ms=0.2, vocabulary_size=1000, context_length=2000)


def info(profile: Profile = PROFILE, **fields: object) -> ModelInfo:
    values: dict[str, object] = {
        "name": "fake",
        "model_fingerprint": "model",
        "tokenizer_fingerprint": "",
        "vocabulary_size": profile.vocabulary_size,
        "context_length": profile.context_length,
        "stop_tokens": (),
        "limits": Limits(),
    }
    return ModelInfo(**(values | fields))  # type: ignore[arg-type]


@dataclass
class Faults:
    """What goes wrong; streams count from 1."""

    break_after: dict[int, int] = field(default_factory=dict)
    """Stream -> messages down after which it ends with UNAVAILABLE."""
    end_with: tuple[Status, str] | None = None
    """Every stream ends like this before its first message."""
    pushback_ms: int | None = None
    """And says to come again so much later."""
    say: Callable[[CloudMessage], pb.CloudMessage] = wire.cloud_message_to_wire
    """What goes over the wire in the place of a message."""


class FakeCloud(pb_grpc.SlipstreamServicer):
    def __init__(
        self, profile: Profile = PROFILE, model: ModelInfo | None = None, faults: Faults | None = None
    ) -> None:
        self.model = model if model is not None else info(profile)
        self.faults = faults if faults is not None else Faults()
        self.front = CloudFront(self.model, one_worker(FlatBudget()))
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.received: list[list[EdgeMessage]] = []
        """What each stream brought."""
        self.vanished = 0
        """Streams that ended while their session was open."""
        self.event = asyncio.Condition()
        """Notified after every message."""
        self._worker = SyntheticWorker(ProfiledPair(profile))
        self._step_s = profile.step_ms / 1000
        self._queues: dict[int, asyncio.Queue[CloudMessage | EndStream]] = {}
        self._stepping: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def drafts(self) -> list[Draft]:
        """Every message with nodes in it."""
        return [m for stream in self.received for m in stream if isinstance(m, Draft) and m.tokens]

    def drain(self) -> None:
        self._perform(self.front.drain())

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self.event:
            await self.event.wait_for(done)

    async def GetModel(self, request, context):  # noqa: N802 - the name is the contract's
        return wire.model_info_to_wire(self.model)

    async def Decode(self, request_iterator, context):  # noqa: N802 - the name is the contract's
        self.received.append([])
        number = len(self.received)
        if self.faults.end_with is not None:
            status, detail = self.faults.end_with
            wait = self.faults.pushback_ms
            trailing = () if wait is None else (("grpc-retry-pushback-ms", str(wait)),)
            await context.abort(grpc.StatusCode[status.name], detail, trailing)
        queue = self._queues[number] = asyncio.Queue()
        self._perform(self.front.connect(number, Ticket(f"s{number}-{id(self)}", "secret")))
        reader = asyncio.create_task(self._read(number, request_iterator))
        try:
            await self._write(number, queue, context)
        finally:
            reader.cancel()
            del self._queues[number]
            session = self.front.session_of(number)
            self.vanished += session is not None and not session.over
            self.front.lost(number, time.monotonic_ns())
            await self._tell()

    async def _write(self, number, queue, context):
        sent = 0
        while not isinstance(item := await queue.get(), EndStream):
            await context.write(self.faults.say(item))
            sent += 1
            if sent == self.faults.break_after.get(number):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken by the test")
        if item.status is not Status.OK:
            await context.abort(grpc.StatusCode[item.status.name], item.detail)

    async def _read(self, number, request_iterator):
        async for body in request_iterator:
            message = wire.edge_message_from_wire(body)
            self.received[number - 1].append(message)
            self._perform(self.front.receive(number, message, time.monotonic_ns()))
            await self._tell()

    async def _tell(self) -> None:
        async with self.event:
            self.event.notify_all()

    def _perform(self, effects: list[CloudEffect]) -> None:
        for effect in effects:
            if (queue := self._queues.get(effect.stream)) is not None:
                queue.put_nowait(effect if isinstance(effect, EndStream) else effect.message)
        self._work()

    def _work(self) -> None:
        if self._stepping is not None:
            return
        step = self.front.next_step(time.monotonic_ns())
        if step is not None:
            self._stepping = asyncio.create_task(self._step(step))
            return
        if self._timer is not None:
            self._timer.cancel()
        wake = self.front.wake_at()
        if wake is not None:
            delay = max(0.0005, (wake - time.monotonic_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(delay, self._work)

    async def _step(self, step) -> None:
        await asyncio.sleep(self._step_s if step.items else 0)
        outcome = self._worker.step(step, round(self._step_s * 1e6))
        self._stepping = None
        self._perform(self.front.complete(outcome, time.monotonic_ns()))

    async def shut(self) -> None:
        """Cut every stream off and stop listening."""
        if self._timer is not None:
            self._timer.cancel()
        if self._stepping is not None:
            self._stepping.cancel()
        await self.server.stop(grace=None)


@contextlib.asynccontextmanager
async def serve(cloud: FakeCloud, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The address while the block lasts, or until the cloud is shut."""
    pb_grpc.add_SlipstreamServicer_to_server(cloud, cloud.server)
    port = cloud.server.add_insecure_port(f"{host}:{port}")
    await cloud.server.start()
    try:
        yield f"{host}:{port}"
    finally:
        await cloud.shut()


def replacing(change: Callable[[Commit], CloudMessage]) -> Callable[[CloudMessage], pb.CloudMessage]:
    """A `Faults.say` that lies in every commit."""
    return lambda message: wire.cloud_message_to_wire(
        change(message) if isinstance(message, Commit) else message
    )
