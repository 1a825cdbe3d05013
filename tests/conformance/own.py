"""Our own server for the scripts: in this process, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.profiled import ProfiledWorker
from cloud_server.security import ServerSecurity
from cloud_server.worker import Worker
from scripts.conformance.server import Server
from shared.messages import Limits, ModelInfo
from shared.profiled import Profile

PROFILE = Profile(step_ms=1.0, context_length=512, vocabulary_size=1000)
LIMITS = Limits(
    max_message_bytes=4096,
    max_nodes_per_message=24,
    max_live_nodes=40,
    max_depth=16,
    max_messages_per_second=150,
    max_sessions=12,
    run_ahead=48,
    max_attached=3,
)
"""Small ones: every rule about a limit can be checked, and none takes long."""
TOKEN, WATCHING = "a-token-of-the-scripts", "a-token-that-may-watch"


class NamedWorker(ProfiledWorker):
    """With a tokenizer and a stop token, as a real model has them."""

    def __init__(self) -> None:
        super().__init__(PROFILE)

    @property
    def info(self) -> ModelInfo:
        return dataclasses.replace(super().info, tokenizer_fingerprint="bytes", stop_tokens=(7,))


@dataclass(frozen=True)
class Own:
    """A server that is up, and the loop that it runs on."""

    up: Serving
    loop: asyncio.AbstractEventLoop

    def drain(self) -> None:
        self.loop.call_soon_threadsafe(self.up.drain)


@contextlib.contextmanager
def running(worker: Worker | None = None, options: ServeOptions | None = None) -> Iterator[Own]:
    """Until the block is left."""
    options = options or ServeOptions(listen="127.0.0.1:0", limits=LIMITS)
    started = threading.Event()
    found: list[Own | BaseException] = []
    ends: list[asyncio.Event] = []

    async def serve() -> None:
        async with serving(worker or NamedWorker(), options) as up:
            ends.append(asyncio.Event())
            found.append(Own(up, asyncio.get_running_loop()))
            started.set()
            await ends[0].wait()

    def body() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised where somebody reads it
            found.append(error)
            started.set()

    thread = threading.Thread(target=body, name="own server")
    thread.start()
    started.wait()
    if isinstance(found[0], BaseException):
        raise found[0]
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(ends[0].set)
        thread.join()
        if len(found) > 1:
            raise found[1]


@contextlib.contextmanager
def looked_at(own: Own, *, tokens: bool = False) -> Iterator[Server]:
    """The server as the scripts see it; `tokens`: it asks for them."""
    metadata, watching = bearer(TOKEN) if tokens else (), bearer(WATCHING) if tokens else None
    with grpc.insecure_channel(own.up.address) as channel:
        yield Server(channel, metadata, watching, own.drain)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@contextlib.contextmanager
def guarded(folder: Path, worker: Worker | None = None) -> Iterator[Server]:
    """A server of ours that asks for tokens."""
    (folder / "tokens").write_text(f"{TOKEN}\n{WATCHING}\n")
    (folder / "watching").write_text(f"{WATCHING}\n")
    for name in ("tokens", "watching"):
        (folder / name).chmod(0o600)
    security = ServerSecurity(token_file=folder / "tokens", assistants_token_file=folder / "watching")
    options = ServeOptions(listen="127.0.0.1:0", limits=LIMITS, security=security)
    with running(worker, options) as own, looked_at(own, tokens=True) as server:
        yield server
