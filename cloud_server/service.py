"""The gRPC service: streams to the engine and back. It decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import DecodeError

from cloud_server.engine import Ending, Engine, Outgoing
from shared import wire
from shared.errors import ContractViolation, Status
from shared.messages import EdgeMessage, ModelInfo
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

CODES = {status: grpc.StatusCode[status.name] for status in Status}


class SlipstreamService(pb_grpc.SlipstreamServicer):
    """See `proto/slipstream/v1/slipstream.proto`."""

    def __init__(self, engine: Engine, info: ModelInfo) -> None:
        self._engine = engine
        self._most_bytes = info.limits.max_message_bytes
        self._model = wire.model_info_to_wire(info)

    async def GetModel(  # noqa: N802 - the name is the contract's
        self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext[pb.GetModelRequest, pb.Model]
    ) -> pb.Model:
        """What this server serves and what it accepts."""
        return self._model

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
                await context.abort(CODES[ending.status], ending.detail)
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
        self._engine.violated(
            stream,
            ContractViolation(Status.CANCELLED, "the stream ended without Close: open again with the log"),
        )

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
            await context.write(wire.cloud_message_to_wire(message))
