"""Composition root of the server: the one place that wires model, pool, engine and transport together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud_server.engine import Engine, StreamLimits
from cloud_server.listening import check_free, host_and_port, taken
from cloud_server.metrics import Metrics
from cloud_server.security import ServerSecurity, check, credentials, exposed, interceptors
from cloud_server.service import SlipstreamService
from cloud_server.worker import Worker
from shared.messages import Limits
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.policy.batching import MeasuredBudget, NodeBudget
from shared.pool import PoolScheduler
from shared.session.front import CloudPolicies

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Slipstream"].full_name


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve. Nothing here changes a token."""

    listen: str = "127.0.0.1:50051"
    """HOST:PORT; port 0 picks a free one."""
    limits: Limits = Limits()  # noqa: RUF009 - a frozen value
    streams: StreamLimits = StreamLimits()  # noqa: RUF009 - a frozen value
    budget: Callable[[], NodeBudget] = MeasuredBudget
    policies: CloudPolicies = CloudPolicies()  # noqa: RUF009 - a frozen value
    drain_s: float = 8.0
    """Seconds that open streams are given when the server is asked to stop: less than the 10 after which container
    engines kill."""
    security: ServerSecurity = ServerSecurity()  # noqa: RUF009 - a frozen value


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that is up."""

    address: str
    """HOST:PORT as it was bound."""
    engine: Engine
    metrics: Metrics
    drain: Callable[[], None]
    """Ask the streams to move on and take no new ones."""
    failed: asyncio.Task[None]
    """Ends only with the error that makes serving impossible."""


@contextlib.asynccontextmanager
async def serving(worker: Worker, options: ServeOptions) -> AsyncIterator[Serving]:
    """Serve until the block is left; then all streams end with UNAVAILABLE and the worker is closed.

    Raises:
        UserError: the address cannot be listened on, or a file of `ServerSecurity` cannot be used.
    """
    info = replace(worker.info, limits=options.limits)
    metrics = Metrics()
    engine = Engine(
        worker,
        info,
        PoolScheduler(options.budget(), kv_tokens=worker.kv_tokens),
        metrics,
        options.streams,
        options.policies,
    )
    server = grpc.aio.server(
        interceptors=interceptors(options.security),
        options=channel_options(options.limits, options.streams),
    )
    pb_grpc.add_SlipstreamServicer_to_server(SlipstreamService(engine, info), server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = _bind(server, options.listen, options.security)
    failed = engine.start()
    await server.start()
    for name in ("", SERVICE):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    tasks: set[asyncio.Task[None]] = set()

    def drain() -> None:
        engine.drain()
        task = asyncio.ensure_future(healthy.enter_graceful_shutdown())
        tasks.add(task)  # the loop keeps weak references only
        task.add_done_callback(tasks.discard)

    try:
        yield Serving(address, engine, metrics, drain, failed)
    finally:
        await engine.stop()
        await server.stop(grace=1.0)
        await asyncio.gather(*tasks)


async def serve(worker: Worker, options: ServeOptions, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM: drain, then stop; a second signal stops at once.

    Raises:
        UserError: the address cannot be listened on.
        Exception: whatever broke the engine.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with serving(worker, options) as up:
        ready(up.address)
        asked = asyncio.create_task(signals.get())
        await asyncio.wait((asked, up.failed), return_when=asyncio.FIRST_COMPLETED)
        if up.failed.done():
            asked.cancel()
            up.failed.result()
        log.info("draining: %d streams have %.0f s to move on", up.engine.streams, options.drain_s)
        up.drain()
        again, empty = asyncio.create_task(signals.get()), asyncio.create_task(up.engine.drained())
        await asyncio.wait(
            (again, empty, up.failed), timeout=options.drain_s, return_when=asyncio.FIRST_COMPLETED
        )
        again.cancel()
        empty.cancel()
        if up.failed.done():
            up.failed.result()


def check_before_loading(options: ServeOptions) -> list[str]:
    """What can be told before a model is loaded, which takes long; returns warnings.

    Raises:
        UserError: the address cannot or must not be listened on, or a file of `ServerSecurity` cannot be used.
    """
    host, _ = host_and_port(options.listen)
    credentials(options.security)
    interceptors(options.security)
    check(options.security, options.listen, host)
    check_free(options.listen)
    return exposed(options.security)


def channel_options(limits: Limits, streams: StreamLimits) -> list[tuple[str, int]]:
    """Transport settings of the server."""
    return [
        # Above the contract's own limit, so that the violation can be named; beyond this the transport refuses.
        ("grpc.max_receive_message_length", 4 * limits.max_message_bytes),
        # One connection gets no more streams than the whole server serves; further ones wait in the client.
        ("grpc.max_concurrent_streams", limits.max_sessions + streams.max_waiting),
        # A connection that says nothing is not kept for two minutes, as it is by default.
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.so_reuseport", 0),  # else a second server would share the port without a word
        # A dead client's stream is noticed within seconds, and a client may ping as often (else GOAWAY).
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.bdp_probe", 0),  # as at the edge: pings for every message
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _bind(server: grpc.aio.Server, listen: str, security: ServerSecurity) -> str:
    host, _ = host_and_port(listen)
    check(security, listen, host)
    secure = credentials(security)
    try:
        bound = server.add_insecure_port(listen) if secure is None else server.add_secure_port(listen, secure)
    except RuntimeError as error:
        raise taken(listen) from error
    return f"{host}:{bound}"
