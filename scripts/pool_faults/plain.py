"""The plainest of clients: opens, reads, says what it has seen. It never drafts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from itertools import pairwise

import grpc

from shared import wire
from shared.messages import Commit, Draft, EdgeMessage, Open
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.sampling import SamplingParams

Call = grpc.aio.StreamStreamCall[pb.EdgeMessage, pb.CloudMessage]

PUSHBACK = "grpc-retry-pushback-ms"
SEEN_EVERY = 64
"""Tokens between two reports of what was seen."""


@dataclass(slots=True)
class Heard:
    """What came of one stream."""

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Of each token's arrival, by the performance counter in seconds."""
    status: grpc.StatusCode = grpc.StatusCode.OK
    detail: str = ""
    retry_ms: int | None = None
    """The hint of a refusal."""

    @property
    def gaps_ms(self) -> list[float]:
        """Between one message with tokens and the next, per token of the later one."""
        moments = sorted(set(self.times))
        counts = {moment: self.times.count(moment) for moment in moments}
        return [1000.0 * (later - earlier) / counts[later] for earlier, later in pairwise(moments)]


async def generate(
    channel: grpc.aio.Channel, prompt: tuple[int, ...], new: int, *, drop_after: int | None = None
) -> Heard:
    """Have `new` tokens written; `drop_after`: vanish without a word after so many."""
    call: Call = pb_grpc.SlipstreamStub(channel).Decode()
    length = len(prompt)
    outgoing: asyncio.Queue[EdgeMessage] = asyncio.Queue()
    outgoing.put_nowait(Open(prompt, length, length + new, SamplingParams()))
    # A write into a stream that is just ending may wait for ever: it must not keep the reader from the end.
    writer = asyncio.create_task(_write(call, outgoing))
    try:
        return await _read(call, outgoing, length, drop_after)
    finally:
        call.cancel()  # does nothing to one that is over
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _read(
    call: Call, outgoing: asyncio.Queue[EdgeMessage], length: int, drop_after: int | None
) -> Heard:
    heard, seen = Heard(), 0
    with contextlib.suppress(grpc.aio.AioRpcError):  # the status says it
        while isinstance(body := await call.read(), pb.CloudMessage):
            message = wire.cloud_message_from_wire(body)
            if isinstance(message, Commit):
                heard.tokens += message.tokens
                heard.times += [time.perf_counter()] * len(message.tokens)
            if drop_after is not None and len(heard.tokens) >= drop_after:
                return heard
            if len(heard.tokens) - seen >= SEEN_EVERY:
                seen = len(heard.tokens)
                outgoing.put_nowait(Draft(0, length + seen, (), (), (), length + seen))
    heard.status, heard.detail = await call.code(), await call.details() or ""
    hints = [value for key, value in await call.trailing_metadata() or () if key == PUSHBACK]
    heard.retry_ms = int(hints[0]) if hints else None
    return heard


async def _write(call: Call, outgoing: asyncio.Queue[EdgeMessage]) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.InternalError):  # the reader sees the end
        await call.wait_for_connection()
        while True:
            # `call.write` into a stream that is just ending would replace its status; see `edge_client.transport`.
            body = wire.edge_message_to_wire(await outgoing.get()).SerializeToString()
            await call._cython_call.send_serialized_message(body)  # type: ignore[attr-defined]  # noqa: SLF001
