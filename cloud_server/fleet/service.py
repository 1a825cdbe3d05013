"""The worker's end of the connection: steps of one front to the model's thread, outcomes back."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import grpc

from cloud_server.fleet.codec import PROTOCOL_VERSION, OutOfStepError, StepDecoder, outcome_to_wire
from cloud_server.fleet.thread import ModelThread
from cloud_server.worker import StateError, Worker
from shared import wire
from shared.pb.slipstream.worker.v1 import worker_pb2 as pb
from shared.pb.slipstream.worker.v1 import worker_pb2_grpc as pb_grpc
from shared.step import Step, StepOutcome

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1 << 20
"""Of a state, in one message."""
TAKEN: Final = "another server uses this worker: give each server workers of its own"


@dataclass(slots=True)
class _Front:
    """The server that is served, for as long as its stream lives."""

    outgoing: asyncio.Queue[pb.WorkerMessage] = field(default_factory=asyncio.Queue)
    decoder: StepDecoder = field(default_factory=StepDecoder)
    imported: set[int] = field(default_factory=set)
    """Sessions whose state came from another worker."""


class WorkerService(pb_grpc.WorkerServicer):
    """See `proto/slipstream/worker/v1/worker.proto`. Made and used on one event loop."""

    def __init__(self, worker: Worker, device: str) -> None:
        """`device` is where the model is, in words."""
        self._thread = ModelThread(worker)
        self._description = pb.Description(
            protocol_version=PROTOCOL_VERSION,
            model=wire.model_info_to_wire(worker.info),
            kv_tokens=worker.kv_tokens,
            device=device,
            process_id=os.getpid(),
        )
        self._front: _Front | None = None
        self._alone = asyncio.Event()
        self._alone.set()

    def leave(self) -> None:
        """Ask the front, if there is one, to do without this worker."""
        if self._front is not None:
            self._front.outgoing.put_nowait(pb.WorkerMessage(leaving=pb.Leaving()))

    async def alone(self) -> None:
        """Wait until no front is served."""
        await self._alone.wait()

    async def close(self) -> None:
        """Wait for the step that runs, then free the model."""
        await self._thread.close()

    # ---- the contract's methods, by the contract's names ----

    async def Describe(  # noqa: N802
        self,
        request: pb.DescribeRequest,
        context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.Description],
    ) -> pb.Description:
        """What this worker computes with."""
        return self._description

    async def Work(  # type: ignore[override]  # noqa: N802 - the stub knows no writer
        self,
        request_iterator: AsyncIterator[pb.FrontMessage],
        context: grpc.aio.ServicerContext[pb.FrontMessage, pb.WorkerMessage],
    ) -> None:
        """One front, from its coming to its going."""
        if self._front is not None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, TAKEN)
        front = self._front = _Front()
        self._alone.clear()
        log.info("a server uses this worker now")
        front.outgoing.put_nowait(pb.WorkerMessage(pong=0))
        reader = asyncio.create_task(self._read(front, request_iterator), name="front")
        try:
            await self._write(front, reader, context)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            self._front = None
            self._release(tuple(front.imported.union(front.decoder.sessions)))  # the next one finds nothing
            self._alone.set()
            log.info("the server that used this worker is gone")

    async def ExportState(  # type: ignore[override]  # noqa: N802 - the stub knows no writer
        self,
        request: pb.ExportStateRequest,
        context: grpc.aio.ServicerContext[pb.ExportStateRequest, pb.StateChunk],
    ) -> None:
        """A session's keys and values."""
        try:
            state = await self._thread.export_state(request.session)
        except StateError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing is held of this session")
        for at in range(0, max(len(state), 1), CHUNK_BYTES):
            await context.write(pb.StateChunk(data=state[at : at + CHUNK_BYTES]))

    async def ImportState(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ImportStateRequest],
        context: grpc.aio.ServicerContext[pb.ImportStateRequest, pb.ImportStateResponse],
    ) -> pb.ImportStateResponse:
        """Take over what another worker held of a session."""
        front = self._front
        if front is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no server uses this worker")
        session, tokens, state = 0, list[int](), bytearray()
        async for part in request_iterator:
            session = part.session
            tokens += part.log_tokens
            state += part.data
        try:
            held = await self._thread.import_state(session, tokens, bytes(state))
        except StateError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        if self._front is not front:  # it has gone meanwhile, and would not release what came for it
            self._release((session,))
        front.imported.add(session)
        return pb.ImportStateResponse(tokens=held)

    # ---- inside ----

    async def _read(self, front: _Front, request_iterator: AsyncIterator[pb.FrontMessage]) -> None:
        async for message in request_iterator:
            if message.WhichOneof("kind") == "step":
                step = front.decoder.decode(message.step)
                front.imported.difference_update(step.released)
                self._perform(front, step)
            else:
                front.outgoing.put_nowait(pb.WorkerMessage(pong=message.ping))

    async def _write(
        self,
        front: _Front,
        reader: asyncio.Task[None],
        context: grpc.aio.ServicerContext[pb.FrontMessage, pb.WorkerMessage],
    ) -> None:
        """Until the front has nothing more to say, or has said what makes no sense."""
        while True:
            waiting = asyncio.ensure_future(front.outgoing.get())
            try:
                await asyncio.wait((waiting, reader), return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    break
                await context.write(waiting.result())
            finally:
                waiting.cancel()
        error = reader.exception()
        if isinstance(error, OutOfStepError):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        elif error is not None:
            raise error

    def _perform(self, front: _Front, step: Step) -> None:
        def done(result: StepOutcome | Exception) -> None:
            if isinstance(result, Exception):
                failure = pb.StepFailure(number=step.number, error=type(result).__name__, message=str(result))
                message = pb.WorkerMessage(failure=failure)
            else:
                message = pb.WorkerMessage(outcome=outcome_to_wire(step.number, result))
            front.outgoing.put_nowait(message)

        self._thread.step(step, done)

    def _release(self, sessions: tuple[int, ...]) -> None:
        """Behind the step that may still run."""
        if sessions:
            self._thread.step(Step(0, (), sessions), lambda _: None)
