"""The front's end of a connection to a worker: a `Member` behind a gRPC channel.

One task owns the reads, one the writes, one watches whether the worker still answers. The first of them that finds it
lost reports that, once; `close` ends all three.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import grpc

from cloud_server.fleet.codec import PROTOCOL_VERSION, StepEncoder, outcome_from_wire
from cloud_server.fleet.dialling import metadata, open_channel
from cloud_server.fleet.member import (
    Answered,
    Description,
    Gone,
    HopelessError,
    Leaving,
    Raised,
    Report,
    StartError,
)
from cloud_server.worker import StateError
from shared import wire
from shared.errors import ContractViolation
from shared.pb.slipstream.worker.v1 import worker_pb2 as pb
from shared.pb.slipstream.worker.v1 import worker_pb2_grpc as pb_grpc
from shared.security import ClientSecrets
from shared.step import Step

log = logging.getLogger(__name__)

Call = grpc.aio.StreamStreamCall[pb.FrontMessage, pb.WorkerMessage]

CHUNK_BYTES: Final = 1 << 20
"""Of a state, in one message."""
LOOKS: Final = 4
"""How often within its deadline a worker is asked whether it is there. It is lost when it has been silent for all of
these but one: the first of them may have come just before it froze.
"""


class Link:
    """A worker that has answered. See `Member`; made by `dial`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        secrets: ClientSecrets,
        call: Call,
        description: Description,
        deadline_s: float,
    ) -> None:
        self._channel = channel
        self._metadata = metadata(secrets)
        self._stub = pb_grpc.WorkerStub(channel)
        self._call = call
        self._description = description
        self._deadline_s = deadline_s
        self._encoder = StepEncoder()
        self._outgoing: asyncio.Queue[pb.FrontMessage] = asyncio.Queue()
        self._heard = True
        self._report: Callable[[Report], None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.release: Callable[[bool], Awaitable[str]] = _nothing
        """Called when it is closed, with `kill`: whatever the worker runs in is given back. Says how that ended."""

    @property
    def description(self) -> Description:
        """See `Member.description`."""
        return self._description

    def begin(self, report: Callable[[Report], None]) -> None:
        """See `Member.begin`."""
        self._report = report
        for work in (self._read(), self._write(), self._watch()):
            task = asyncio.create_task(work, name=f"worker {self._description.name}")
            task.add_done_callback(self._surface)
            self._tasks.append(task)

    def submit(self, step: Step) -> None:
        """See `Member.submit`."""
        self._outgoing.put_nowait(pb.FrontMessage(step=self._encoder.encode(step)))

    async def export_state(self, session: int) -> bytes | None:
        """See `Member.export_state`."""
        request = pb.ExportStateRequest(session=session)
        state = bytearray()
        try:
            async for chunk in self._stub.ExportState(request, metadata=self._metadata):
                state += chunk.data
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise StateError(f"no state came from {self._description.name}: {error.details()}") from error
        return bytes(state)

    async def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        """See `Member.import_state`."""
        try:
            answer = await self._stub.ImportState(_parts(session, log, state), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise StateError(f"{self._description.name}: {error.details()}") from error
        return answer.tokens

    async def close(self, *, kill: bool) -> str:
        """See `Member.close`."""
        self._report = None
        for task in self._tasks:
            task.cancel()
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close(grace=None)
        return await self.release(kill)

    # ---- tasks ----

    async def _read(self) -> None:
        try:
            while isinstance(message := await self._call.read(), pb.WorkerMessage):
                self._heard = True
                self._take(message)
            reason = "it ended the connection"
        except grpc.aio.AioRpcError as error:
            reason = f"the connection broke ({error.details()})"
        except ValueError as error:
            reason = f"its answer cannot be read ({error})"
        self._tell(Gone(reason))

    def _take(self, message: pb.WorkerMessage) -> None:
        match message.WhichOneof("kind"):
            case "outcome":
                self._tell(Answered(outcome_from_wire(message.outcome)))
            case "failure":
                self._tell(Raised(message.failure.error, message.failure.message))
            case "leaving":
                self._tell(Leaving())
            case "pong" | None:  # having been heard is all that it says
                pass

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader tells
            while True:
                await self._call.write(await self._outgoing.get())

    async def _watch(self) -> None:
        """A worker that does not answer is lost, whatever the reason. A step that runs long does not keep it from
        answering; and where this process itself was held up, one look more is taken, not as many as there was time for.
        """
        silent = ping = 0
        while silent < LOOKS - 1:
            self._heard = False
            ping += 1
            self._outgoing.put_nowait(pb.FrontMessage(ping=ping))
            await asyncio.sleep(self._deadline_s / LOOKS)
            silent = 0 if self._heard else silent + 1
        self._tell(Gone(f"it has not answered for {self._deadline_s:g} s"))

    def _surface(self, task: asyncio.Task[None]) -> None:
        """A task that died of a bug: the worker is of no use any more, and nobody has to guess why."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the connection to %s failed", self._description.name, exc_info=error)
            self._tell(Gone(f"its connection failed ({type(error).__name__})"))

    def _tell(self, report: Report) -> None:
        if self._report is None:
            return
        tell = self._report
        if isinstance(report, Gone):
            self._report = None
        tell(report)


async def dial(
    target: str, name: str, secrets: ClientSecrets, *, deadline_s: float, within_s: float, wait: bool
) -> Link:
    """A worker that describes itself, and that takes this server for its front.

    Args:
        target: HOST:PORT or unix:PATH.
        deadline_s: when a silent worker is lost.
        within_s: how long it may take to answer.
        wait: try again until it listens.

    Raises:
        StartError: it does not answer, or refuses.
        HopelessError: it is no worker, or speaks another version, or wants another token.
    """
    channel = open_channel(target, secrets)
    try:
        async with asyncio.timeout(within_s):
            return await _greet(channel, name, secrets, deadline_s, wait=wait)
    except BaseException as error:
        await channel.close(grace=None)
        if isinstance(error, TimeoutError):
            raise StartError(f"no answer within {within_s:g} s") from error
        if isinstance(error, grpc.aio.AioRpcError):
            raise _refusal(error) from error
        raise


def _refusal(error: grpc.aio.AioRpcError) -> StartError:
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return HopelessError(
                "it does not know the token: give it one of its own with --cluster-token-file FILE"
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return HopelessError("it is no worker: start one with `cloud-server worker --listen HOST:PORT`")
        case _:
            return StartError(str(error.details()))


async def _greet(
    channel: grpc.aio.Channel, name: str, secrets: ClientSecrets, deadline_s: float, *, wait: bool
) -> Link:
    stub, call_metadata = pb_grpc.WorkerStub(channel), metadata(secrets)
    said = await stub.Describe(pb.DescribeRequest(), metadata=call_metadata, wait_for_ready=wait)
    if said.protocol_version != PROTOCOL_VERSION:
        raise HopelessError(
            f"it speaks version {said.protocol_version} of the workers' protocol, this server {PROTOCOL_VERSION}: "
            "install the same release on both"
        )
    try:
        info = wire.model_info_from_wire(said.model)
    except ContractViolation as violation:
        raise HopelessError(f"its description is not one ({violation})") from violation
    call = stub.Work(metadata=call_metadata)
    # It greets a front that it takes. Nothing is written before, which could replace the reason of a refusal.
    if await call.read() is grpc.aio.EOF:
        raise StartError("it ended the connection at once")
    description = Description(
        info,
        said.kv_tokens if said.HasField("kv_tokens") else None,
        f"{name} (process id {said.process_id})" if said.device in name else f"{name} ({said.device})",
    )
    return Link(channel, secrets, call, description, deadline_s)


async def _nothing(_: bool) -> str:
    return ""


async def _parts(session: int, log: Sequence[int], state: bytes) -> AsyncIterator[pb.ImportStateRequest]:
    yield pb.ImportStateRequest(session=session, log_tokens=log, data=state[:CHUNK_BYTES])
    for at in range(CHUNK_BYTES, len(state), CHUNK_BYTES):
        yield pb.ImportStateRequest(session=session, data=state[at : at + CHUNK_BYTES])
