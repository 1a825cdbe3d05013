"""Composition root of the server: the one place that wires workers, pool, engine and transport together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud_server.engine import Engine, StreamLimits
from cloud_server.fleet.fleet import Fleet
from cloud_server.fleet.member import Place
from cloud_server.fleet.thread import ThreadPlace
from cloud_server.listening import check_free, host_and_port
from cloud_server.metrics import Metrics
from cloud_server.security import ServerSecurity, bind, check, credentials, exposed, interceptors, watchers
from cloud_server.service import SlipstreamService
from cloud_server.worker import Worker
from shared.messages import Limits
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.policy.batching import MeasuredBudget, NodeBudget
from shared.pool import PoolPolicies, PoolScheduler
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
    pool: PoolPolicies = PoolPolicies()  # noqa: RUF009 - a frozen value
    drain_s: float = 8.0
    """Seconds that open streams are given when the server is asked to stop: less than the 10 after which container
    engines kill."""
    metrics_listen: str | None = None
    """HOST:PORT of the page that Prometheus reads; None: no page."""
    security: ServerSecurity = ServerSecurity()  # noqa: RUF009 - a frozen value


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that is up."""

    address: str
    """HOST:PORT as it was bound."""
    engine: Engine
    fleet: Fleet
    metrics: Metrics
    drain: Callable[[], None]
    """Ask the streams to move on and take no new ones."""
    failed: asyncio.Task[None]
    """Ends only with the error that makes serving impossible."""


@contextlib.asynccontextmanager
async def serving(workers: Worker | Sequence[Place], options: ServeOptions) -> AsyncIterator[Serving]:
    """Serve until the block is left; then all streams end with UNAVAILABLE and the workers are closed.

    Args:
        workers: one in a thread of this process, or the places where they run.

    Raises:
        UserError: the workers cannot be started, the address cannot be listened on, or a file of `ServerSecurity`
            cannot be used.
    """
    fleet = Fleet(workers if isinstance(workers, Sequence) else [ThreadPlace(workers)])
    info = replace(
        await fleet.start(), limits=options.limits, takes_attached=True, sp_degree=options.pool.sp_degree
    )
    tasks: set[asyncio.Task[None]] = set()

    def begin(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)  # the loop keeps weak references only
        task.add_done_callback(tasks.discard)

    healthy = health.aio.HealthServicer()
    metrics = Metrics()

    async def tell(status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE):
            await healthy.set(name, status)

    states = health_pb2.HealthCheckResponse
    engine = Engine(
        fleet,
        info,
        PoolScheduler(options.budget, policies=options.pool),
        metrics,
        options.streams,
        options.policies,
        on_workers=lambda up: begin(tell(states.SERVING if up else states.NOT_SERVING)),
    )
    try:
        server = grpc.aio.server(
            interceptors=interceptors(options.security),
            options=channel_options(options.limits, options.streams),
        )
        service = SlipstreamService(engine, info, watchers(options.security))
        pb_grpc.add_SlipstreamServicer_to_server(service, server)
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        address = bind(server, options.listen, options.security)
        failed = engine.start()
        await server.start()
        await tell(states.SERVING)

        def drain() -> None:
            engine.drain()
            begin(healthy.enter_graceful_shutdown())

        try:
            yield Serving(address, engine, fleet, metrics, drain, failed)
        finally:
            await engine.stop()
            await server.stop(grace=1.0)
            await asyncio.gather(*tasks)
    finally:
        await engine.stop()  # again does no harm


async def serve(
    workers: Worker | Sequence[Place], options: ServeOptions, ready: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM: drain, then stop; a second signal stops at once.

    Raises:
        UserError: the address cannot be listened on, or the workers cannot be started.
        Exception: whatever broke the engine.
    """
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    asked = asyncio.create_task(signals.get())
    async with contextlib.AsyncExitStack() as stack:
        # Workers may take minutes to start: whoever has had enough of that is heard.
        starting = asyncio.create_task(stack.enter_async_context(serving(workers, options)))
        await asyncio.wait((asked, starting), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        up = starting.result()
        if options.metrics_listen is not None:
            from cloud_server.metrics_page import page  # noqa: PLC0415 - only where it is wanted

            log.info("metrics at http://%s", stack.enter_context(page(options.metrics_listen, up.metrics)))
        stack.callback(lambda: log.info("%s", up.metrics))
        ready(up.address)
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
    watchers(options.security)
    check(options.security, options.listen, host)
    check_free(options.listen)
    if options.metrics_listen is not None:
        from cloud_server.metrics_page import check as check_metrics  # noqa: PLC0415 - only where it is wanted

        insecure = options.security.insecure_beyond_loopback
        check_metrics(options.metrics_listen, insecure_beyond_loopback=insecure)
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
