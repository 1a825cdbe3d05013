"""What the tests of hostile clients share: a server that must come out clean, and a client that minds no status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator

import grpc

from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.engine import StreamLimits
from cloud_server.profiled import ProfiledWorker
from cloud_server.worker import Worker
from shared import wire
from shared.messages import EdgeMessage, Limits
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.profiled import ProfiledPair, decode
from tests.e2e.raw import PROFILE, RawClient, Stream, opening

Code = grpc.StatusCode
DEADLINE_S = 60
PROMPT = (1, 2, 3)
TEXT = decode(ProfiledPair(PROFILE), PROMPT, PROFILE.context_length - len(PROMPT))
"""What every session that begins with PROMPT is to write, up to the context's end."""
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 256))
"""A channel on which the server's writes wait as soon as the client does not read."""


@contextlib.asynccontextmanager
async def attacked(
    worker: Worker | None = None,
    limits: Limits | None = None,
    streams: StreamLimits | None = None,
    *,
    channel_options: tuple[tuple[str, int], ...] = (),
    compression: grpc.Compression | None = None,
) -> AsyncIterator[tuple[Serving, RawClient]]:
    """A server and a client of it. At the end nothing of any stream may be left, the server must still serve, and no
    client can have made it fill its log.
    """
    options = ServeOptions(
        listen="127.0.0.1:0", limits=limits or Limits(), streams=streams or StreamLimits(), drain_s=5.0
    )
    noise = _Noise()
    with noise.heard():
        async with serving(worker or ProfiledWorker(PROFILE), options) as up, RawClient(up.address) as client:
            if channel_options or compression:
                await client.channel.close()
                client.channel = grpc.aio.insecure_channel(
                    up.address, options=channel_options, compression=compression
                )
                client.stub = pb_grpc.SlipstreamStub(client.channel)
            yield up, client
            await until(lambda: left(up) == [])
            assert not up.failed.done()
    assert noise.lines == []


class _Noise(logging.Handler):
    """What libraries complain about: exceptions that nobody took, calls that went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in ("grpc", "asyncio")]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(self)


def left(up: Serving) -> list[str]:
    """What the server still holds of its streams."""
    engine = up.engine
    counts = {
        "streams": engine.streams,
        "sessions": engine.sessions,
        "machine": engine._front.streams,
        "handlers": engine._handled,
    }
    names = [task.get_name() for task in asyncio.all_tasks()]
    busy = [name for name in names if name.startswith(("read ", "HandleExceptions"))]
    return [f"{name} {count}" for name, count in counts.items() if count] + busy


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def status(stream: Stream) -> tuple[grpc.StatusCode, str]:
    return await asyncio.wait_for(stream.rest(), DEADLINE_S)


async def put(stream: Stream, message: EdgeMessage | pb.EdgeMessage | bytes) -> bool:
    """Write, also into a stream that is just ending; False: it is over. `Transport.Stream._write` says why so."""
    if not isinstance(message, bytes):
        form = message if isinstance(message, pb.EdgeMessage) else wire.edge_message_to_wire(message)
        message = form.SerializeToString()
    try:
        await stream.call._cython_call.send_serialized_message(message)
    except (grpc.aio.AioRpcError, grpc.aio.InternalError):
        return False
    return True


async def is_served(client: RawClient) -> None:
    stream = await client.open(opening(PROMPT, new=16))
    assert await status(stream) == (Code.OK, "")
    assert stream.committed == TEXT[:16]


def pb_open(**fields: object) -> pb.EdgeMessage:
    sampling = fields.pop("sampling", pb.Sampling())
    base: dict[str, object] = {
        "protocol_version": 1,
        "tokens": PROMPT,
        "prompt_length": 3,
        "max_length": 11,
        "sampling": sampling,
    }
    return pb.EdgeMessage(open=pb.Open(**(base | fields)))  # type: ignore[arg-type]
