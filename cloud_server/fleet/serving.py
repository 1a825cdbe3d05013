"""Serves one worker to a front, until it is told to go."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloud_server.fleet import ties
from cloud_server.fleet.service import WorkerService
from cloud_server.listening import check_free, host_and_port
from cloud_server.security import ServerSecurity, bind, check, credentials, exposed, interceptors
from cloud_server.worker import Worker
from shared.pb.slipstream.worker.v1 import worker_pb2 as pb
from shared.pb.slipstream.worker.v1 import worker_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Worker"].full_name
LEAVE_S: Final = 30.0
"""That a front gets to move the worker's sessions elsewhere."""
CHANNEL_OPTIONS: Final = (
    # States of sessions and logs are large, and both ends belong together.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),
    # A front that is gone without a word makes room for the next one.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
)


async def serve_worker(
    worker: Worker,
    device: str,
    listen: str,
    security: ServerSecurity | None,
    ready: Callable[[str], None],
    *,
    until_stdin_ends: bool,
) -> None:
    """Serve until SIGINT or SIGTERM: then the front is asked to do without the worker first. A second signal, or the
    end of standard input where that counts, stops at once.

    Args:
        listen: HOST:PORT, or unix:PATH where there is no `security`.
        ready: called with the address once it is listened on.

    Raises:
        UserError: the address cannot or must not be listened on, or a file of `security` cannot be used.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    if until_stdin_ends:
        ties.when_released(lambda: loop.call_soon_threadsafe(stop.set))
    service = WorkerService(worker, device)
    server = grpc.aio.server(
        interceptors=() if security is None else interceptors(security), options=CHANNEL_OPTIONS
    )
    pb_grpc.add_WorkerServicer_to_server(service, server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    if security is None:
        server.add_insecure_port(listen)
        address = listen
    else:
        address = bind(server, listen, security)
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, signals.put_nowait, number)
    await server.start()
    for name in ("", SERVICE):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    ready(address)
    if await _first(signals.get(), stop.wait()) == 0:
        await healthy.enter_graceful_shutdown()
        log.info("leaving: the server that uses this worker has %.0f s to move its sessions", LEAVE_S)
        service.leave()
        await _first(signals.get(), stop.wait(), service.alone(), timeout_s=LEAVE_S)
    await server.stop(grace=0.5)
    await service.close()


def check_before_loading(listen: str, security: ServerSecurity) -> list[str]:
    """What can be told before a model is loaded, which takes long; returns warnings.

    Raises:
        UserError: the address cannot or must not be listened on, or a file of `security` cannot be used.
    """
    host, _ = host_and_port(listen)
    credentials(security)
    interceptors(security)
    check(security, listen, host)
    check_free(listen)
    return exposed(security)


async def _first(*waits: Coroutine[Any, Any, object], timeout_s: float | None = None) -> int | None:
    """Wait for the first of these to happen; its index, or None after the time."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return min((tasks.index(task) for task in done), default=None)
    finally:
        for task in tasks:
            task.cancel()
