"""A client of the wire itself: says exactly what it is told to, right or wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import grpc

from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.profiled import ProfiledWorker
from cloud_server.worker import Worker
from shared import wire
from shared.messages import CloudMessage, Commit, EdgeMessage, Finish, Limits, ModelInfo, Open
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.profiled import Profile
from shared.sampling import SamplingParams

PROFILE = Profile(step_ms=0.0, draft_ms=0.0, context_length=512, vocabulary_size=1000)


@contextlib.asynccontextmanager
async def server(
    worker: Worker | None = None, limits: Limits | None = None, drain_s: float = 5.0
) -> AsyncIterator[Serving]:
    worker = worker if worker is not None else ProfiledWorker(PROFILE)
    options = ServeOptions(listen="127.0.0.1:0", limits=limits or Limits(), drain_s=drain_s)
    async with serving(worker, options) as up:
        yield up


@dataclass
class Stream:
    """One `Decode` stream."""

    call: grpc.aio.StreamStreamCall
    received: list[CloudMessage] = field(default_factory=list)

    async def send(self, message: EdgeMessage) -> None:
        await self.call.write(wire.edge_message_to_wire(message))

    async def read(self) -> CloudMessage | None:
        """The next message; None at the end, however it ended."""
        try:
            message = await self.call.read()
        except grpc.aio.AioRpcError:
            return None
        if message is grpc.aio.EOF:
            return None
        self.received.append(wire.cloud_message_from_wire(message))
        return self.received[-1]

    async def tokens(self, count: int) -> list[int]:
        """Read until `count` tokens were committed in all."""
        while len(self.committed) < count and await self.read() is not None:
            pass
        return self.committed

    async def rest(self) -> tuple[grpc.StatusCode, str]:
        """Read to the end: status and detail."""
        while await self.read() is not None:
            pass
        return await self.call.code(), await self.call.details() or ""

    @property
    def committed(self) -> list[int]:
        return [token for message in self.received if isinstance(message, Commit) for token in message.tokens]

    @property
    def finish(self) -> Finish | None:
        last = self.received[-1] if self.received else None
        return last if isinstance(last, Finish) else None


class RawClient:
    """A channel to a server, and streams on it."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.stub = pb_grpc.SlipstreamStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close(grace=None)

    async def model(self) -> ModelInfo:
        return wire.model_info_from_wire(await self.stub.GetModel(pb.GetModelRequest()))

    def stream(self) -> Stream:
        return Stream(self.stub.Decode())

    async def open(self, opening: Open) -> Stream:
        stream = self.stream()
        await stream.send(opening)
        return stream


def opening(
    tokens: Sequence[int] = (1, 2, 3), *, new: int = 8, prompt_length: int | None = None, **more: object
) -> Open:
    prompt_length = len(tokens) if prompt_length is None else prompt_length
    fields: dict[str, object] = {"max_length": prompt_length + new, "sampling": SamplingParams()} | more
    return Open(tuple(tokens), prompt_length, **fields)  # type: ignore[arg-type]
