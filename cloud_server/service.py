"""The gRPC service: streams to the engine and back. It decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cloud_server.engine import Ending, Engine, Outgoing
from cloud_server.security import Tokens
from shared import wire
from shared.errors import ContractViolation, Status
from shared.messages import EdgeMessage, ModelInfo, SessionNotice
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

NO_WATCHING = (
    "this server lets nobody watch its sessions: start it with --assistants-token-file FILE, or attach to one session "
    "with its id and secret"
)
PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's own name for when to come again; see proto/README.md."""
CODES = {status: grpc.StatusCode[status.name] for status in Status}


class SlipstreamService(pb_grpc.SlipstreamServicer):
    """See `proto/slipstream/v1/slipstream.proto`."""

    def __init__(self, engine: Engine, info: ModelInfo, watchers: Tokens | None = None) -> None:
        """`watchers`: who may watch all sessions; None: nobody."""
        self._engine = engine
        self._most_bytes = info.limits.max_message_bytes
        self._info = info
        self._watchers = watchers

    async def GetModel(  # noqa: N802 - the name is the contract's
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.Model]
    ) -> pb.Model:
        """What this server serves and what it accepts."""
        return wire.model_info_to_wire(replace(self._info, open_sessions=self._engine.sessions))

    async def WatchSessions(  # type: ignore[override]  # noqa: N802 - as with Decode
        self,
        request: pb.WatchSessionsRequest,
        context: grpc.aio.ServicerContext[pb.WatchSessionsRequest, pb.SessionNotice],
    ) -> None:
        """Notices of all sessions, until the caller has had enough."""
        refusal = NO_WATCHING if self._watchers is None else self._refusal(self._watchers, context)
        if refusal is not None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
        stream, outgoing = self._engine.watch()
        try:
            await context.send_initial_metadata(())  # it is let in, though perhaps nobody comes for long
            while not isinstance(notice := await outgoing.get(), Ending):
                if isinstance(notice, SessionNotice):
                    await context.write(wire.session_notice_to_wire(notice))
            await context.abort(CODES[notice.status], notice.detail)
        finally:
            self._engine.lost(stream)

    async def Decode(  # type: ignore[override]  # noqa: N802 - the name is the contract's; the stub knows no writer
        self,
        request_iterator: AsyncIterator[pb.EdgeMessage],
        context: grpc.aio.ServicerContext[pb.EdgeMessage, pb.CloudMessage],
    ) -> None:
        """One stream, from `Open` to its end."""
        stream, outgoing = self._engine.connect()
        reader = asyncio.create_task(self._read(stream, request_iterator), name=f"read {stream}")
        try:
            ending = await self._write(outgoing, context)
            if ending.status is not Status.OK:
                await context.abort(CODES[ending.status], ending.detail, pushback(ending.retry_ms))
        except grpc.aio.InternalError as error:
            # The transport was first, as it is with a message beyond its limit: to gRPC this is a cancelled call, and
            # worth no traceback for each that a hostile client sends.
            raise asyncio.CancelledError from error
        finally:
            # However the stream ends (also by cancellation, which is how a vanished client shows), it is forgotten.
            self._engine.lost(stream)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    def _refusal(self, watchers: Tokens, context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
        metadata = context.invocation_metadata() or ()
        return watchers.refusal((name, value) for name, value in metadata)

    async def _read(self, stream: int, request_iterator: AsyncIterator[pb.EdgeMessage]) -> None:
        try:
            async for message in request_iterator:
                if not self._engine.receive(stream, self._decode(message)):
                    return  # what follows is not read, and flow control stops who sends it all the same
        except ContractViolation as violation:
            self._engine.violated(stream, violation)
            return
        except DecodeError as error:
            # gRPC's own reader raises it into ours and leaves the stream open.
            self._engine.violated(
                stream, ContractViolation(Status.INVALID_ARGUMENT, f"not an EdgeMessage: {error}")
            )
            return
        # An end without `Close` is a loss; after `Close` the session is over and this changes nothing.
        self._engine.half_closed(stream)

    def _decode(self, message: pb.EdgeMessage) -> EdgeMessage:
        if message.ByteSize() > self._most_bytes:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"a message of {message.ByteSize()} bytes, at most {self._most_bytes}: split it (Open.more)",
            )
        return wire.edge_message_from_wire(message)

    async def _write(
        self, outgoing: Outgoing, context: grpc.aio.ServicerContext[pb.EdgeMessage, pb.CloudMessage]
    ) -> Ending:
        while True:
            message = await outgoing.get()
            if isinstance(message, Ending):
                return message
            if isinstance(message, SessionNotice):
                raise TypeError("a notice on a stream that does not watch")
            await context.write(wire.cloud_message_to_wire(message))


def pushback(retry_ms: int | None) -> tuple[tuple[str, str], ...]:
    """Trailing metadata of a refusal for want of room."""
    return () if retry_ms is None else ((PUSHBACK, str(retry_ms)),)
