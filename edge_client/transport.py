"""gRPC as the edge sees it: one channel to one server, `GetModel`, and streams that post what happens to them.

Retrying is not decided here: a stream ends once, with a status, and the session says what follows. Nothing is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from edge_client.security import ClientSecrets, metadata, open_channel
from edge_client.stats import Traffic
from shared import wire
from shared.errors import ContractViolation, SlipstreamError, Status
from shared.messages import CloudMessage, EdgeMessage, ModelInfo, SessionNotice
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc

Call = grpc.aio.StreamStreamCall[pb.EdgeMessage, pb.CloudMessage]

PUSHBACK: Final = "grpc-retry-pushback-ms"
FAREWELL_S: Final = 1.0
"""How long a stream that this side ends may take to end on the other."""
CHANNEL_OPTIONS: Final = (
    # A peer that is gone without a word is noticed within about 4 s; gRPC's own ping timeout alone is 60 s.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Pings that measure a window: packets in both directions for each that carries something, which fits any window.
    ("grpc.http2.bdp_probe", 0),
    # The default backoff comes back many seconds after an outage is over. The "min" one is how long a connection may
    # take to be made: three round trips with TLS, and over a satellite each takes 0.6 s.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class CallFailedError(SlipstreamError):
    """A unary call had no answer."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Dialled:
    """A stream was begun, to this server."""

    stream: int
    server: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message came down."""

    stream: int
    message: CloudMessage


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream is over, or could not be made. Its last fact."""

    stream: int
    status: Status
    detail: str
    wait_ns: int | None = None
    """When a full server said to come again: so long after this."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """A task of ours died of a bug: whoever owns the inbox raises it."""

    error: BaseException


StreamFact = Received | Ended | Crashed


class Transport:
    """The channel to one server. Made, used and closed on one event loop."""

    def __init__(self, server: str, secrets: ClientSecrets | None = None) -> None:
        """`server` is HOST:PORT or a gRPC target URI; without `secrets` the connection is in plain text."""
        self.server = server
        self.secrets = secrets if secrets is not None else ClientSecrets()
        self._metadata = metadata(self.secrets)
        self._channel = open_channel(server, self.secrets, CHANNEL_OPTIONS)
        self._stub = pb_grpc.SlipstreamStub(self._channel)

    async def get_model(self, deadline_s: float) -> ModelInfo:
        """What the server says about itself.

        Raises:
            CallFailedError: no answer within `deadline_s`, or a refusal.
            ContractViolation: the answer is not one of this version.
        """
        try:
            model = await self._stub.GetModel(
                pb.GetModelRequest(), timeout=deadline_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise CallFailedError(_status(error.code()), error.details() or "no details") from error
        return wire.model_info_from_wire(model)

    def decode(self, number: int, traffic: Traffic, post: Callable[[StreamFact], None]) -> Stream:
        """Open a stream that calls itself `number` in everything it posts. Messages may be sent at once."""
        return Stream(number, self._stub.Decode(metadata=self._metadata), traffic, post)

    def watch_sessions(self) -> Watch:
        """Every session of the server, as they come."""
        return Watch(self._stub.WatchSessions(pb.WatchSessionsRequest(), metadata=self._metadata))

    async def close(self) -> None:
        """End the channel, and with it every stream."""
        await self._channel.close()


class Watch:
    """One `WatchSessions` call: an asynchronous iterator that ends with an error, since a watch has no end of its own.

    Raises:
        CallFailedError: by iterating; it was refused, or is over.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[pb.WatchSessionsRequest, pb.SessionNotice]) -> None:
        self._call = call
        self.stood = False
        """Whether the server has let it in."""

    async def __aiter__(self) -> AsyncIterator[SessionNotice]:
        try:
            # Sent at once by a server that lets this in: perhaps long before there is a session.
            await self._call.initial_metadata()
            self.stood = not self._call.done()
            async for notice in self._call:
                yield wire.session_notice_from_wire(notice)
            raise CallFailedError(Status.UNAVAILABLE, "the server ended the watch")
        except grpc.aio.AioRpcError as error:
            raise CallFailedError(_status(error.code()), error.details() or "no details") from error
        finally:
            self._call.cancel()


class Stream:
    """One `Decode` call. One task owns the reads, another the writes; `send` only queues.

    A write that gRPC has taken is not delivered, so the queue is no backpressure: the session's window is.
    """

    def __init__(self, number: int, call: Call, traffic: Traffic, post: Callable[[StreamFact], None]) -> None:
        self.number = number
        self._call = call
        self._traffic = traffic
        self._post = post
        self._outgoing: asyncio.Queue[EdgeMessage | None] = asyncio.Queue()
        self._reader = self._start(self._read(), "read")
        self._writer = self._start(self._write(), "write")

    def send(self, message: EdgeMessage) -> None:
        """Put a message behind those that wait to be written."""
        self._outgoing.put_nowait(message)

    async def end(self) -> None:
        """Write what is queued, half-close, give the server a moment to end its side; then cancel what is left."""
        self._outgoing.put_nowait(None)
        await asyncio.wait((self._reader,), timeout=FAREWELL_S)
        self._call.cancel()
        self._writer.cancel()
        await asyncio.wait((self._reader, self._writer))

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"{what} stream {self.number}")
        task.add_done_callback(self._surface)
        return task

    def _surface(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._post(Crashed(error))

    async def _write(self) -> None:
        try:
            await self._call.wait_for_connection()
            while (message := await self._outgoing.get()) is not None:
                body = wire.edge_message_to_wire(message).SerializeToString()
                self._traffic.up += len(body)
                # `call.write` into a stream that is just ending replaces its status by INTERNAL, for good: most streams
                # that a server refuses at once would lose their reason. What it writes with leaves the status alone.
                await self._call._cython_call.send_serialized_message(body)  # type: ignore[attr-defined]  # noqa: SLF001
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError):
            pass  # the stream is over: the reader says how

    async def _read(self) -> None:
        wait: int | None = None
        try:
            while (body := await self._call.read()) is not grpc.aio.EOF:
                message = _message(body)
                self._traffic.down += message.ByteSize()
                self._post(Received(self.number, wire.cloud_message_from_wire(message)))
            status, detail = _status(await self._call.code()), await self._call.details() or ""
            wait = _wait_ns(await self._call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            status, detail = _status(error.code()), error.details() or ""
            wait = _wait_ns(error.trailing_metadata())
        except ContractViolation as violation:
            self._call.cancel()
            status, detail = Status.INTERNAL, f"the server broke the contract: {violation.message}"
        if status is Status.CANCELLED:  # not by this side, which does not read on when it cancels
            status, detail = Status.UNAVAILABLE, "the server gave the stream up"
        self._post(Ended(self.number, status, detail, wait))


def _message(body: object) -> pb.CloudMessage:
    """What was read; where bytes are no message, gRPC hands out nothing."""
    if not isinstance(body, pb.CloudMessage):
        raise ContractViolation(Status.INVALID_ARGUMENT, "bytes that are no CloudMessage")
    return body


def _wait_ns(trailing: Iterable[tuple[str, str | bytes]] | None) -> int | None:
    """How long a server asks to be left alone, as gRPC's own retries read it: decimal milliseconds."""
    said = dict(trailing or ()).get(PUSHBACK)
    return int(said) * 1_000_000 if isinstance(said, str) and said.isdecimal() else None


def _status(code: grpc.StatusCode) -> Status:
    try:
        return Status[code.name]
    except KeyError:
        return Status.UNKNOWN  # ALREADY_EXISTS: no part of this protocol
