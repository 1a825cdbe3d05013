"""The plainest of clients: opens, reads, says what it has seen. It never drafts."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import pairwise

import grpc

from shared import wire
from shared.messages import Commit, Draft, EdgeMessage, Open
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.sampling import SamplingParams

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
    call = pb_grpc.SlipstreamStub(channel).Decode()
    heard, seen = Heard(), 0
    length = len(prompt)

    async def say(message: EdgeMessage) -> None:
        # `call.write` into a stream that is just ending would replace its status; see `edge_client.transport`.
        body = wire.edge_message_to_wire(message).SerializeToString()
        await call._cython_call.send_serialized_message(body)  # type: ignore[attr-defined]  # noqa: SLF001

    try:
        await call.wait_for_connection()
        await say(Open(prompt, length, length + new, SamplingParams()))
        while isinstance(body := await call.read(), pb.CloudMessage):
            message = wire.cloud_message_from_wire(body)
            if isinstance(message, Commit):
                heard.tokens += message.tokens
                heard.times += [time.perf_counter()] * len(message.tokens)
                if len(heard.tokens) - seen >= SEEN_EVERY:
                    seen = len(heard.tokens)
                    await say(Draft(0, length + seen, (), (), (), length + seen))
            if drop_after is not None and len(heard.tokens) >= drop_after:
                call.cancel()
                return heard
    except (grpc.aio.AioRpcError, grpc.aio.InternalError):
        pass  # the status says it
    except asyncio.CancelledError:
        call.cancel()
        raise
    heard.status, heard.detail = await call.code(), await call.details() or ""
    hints = [value for key, value in await call.trailing_metadata() or () if key == PUSHBACK]
    heard.retry_ms = int(hints[0]) if hints else None
    return heard
