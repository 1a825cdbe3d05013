"""A server that is in trouble itself: a worker that fails, an engine that breaks, signals at a bad moment."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from cloud_server.app import ServeOptions, serving
from cloud_server.profiled import ProfiledWorker
from shared.messages import Close, Draft, Drain, FinishReason, Limits, Opened
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.step import Step, StepOutcome
from tests.e2e.attack import DEADLINE_S, NARROW, PROMPT, Code, attacked, is_served, status, until
from tests.e2e.raw import PROFILE, RawClient, Stream, opening

ROOT = Path(__file__).resolve().parents[2]

# A worker that fails


class FailingWorker(ProfiledWorker):
    """Raises in the steps that it is told to, as a worker out of memory does."""

    def __init__(self, failing: Callable[[Step], bool]) -> None:
        super().__init__(PROFILE)
        self.failing = failing
        self.failures = 0

    def step(self, step: Step) -> StepOutcome:
        if self.failing(step):
            self.failures += 1
            self._facts.forget_all()  # a worker that raised holds no KV
            raise MemoryError("no room on the device")
        return super().step(step)


async def test_a_failed_step_ends_its_sessions_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    poison = 444
    failing = FailingWorker(lambda step: any(item.log[0] == poison for item in step.items))
    async with attacked(failing) as (_, client):
        stream = await client.open(opening((poison, 871, 872)))
        code, detail = await status(stream)
        assert code is Code.INTERNAL
        assert "MemoryError" in detail
        await is_served(client)
    assert "no room on the device" in caplog.text
    assert not any(token in caplog.text for token in ("871", "872"))  # logs never show tokens


async def test_only_the_session_that_breaks_the_worker_ends() -> None:
    """Six sessions in one step: whoever it is, the other five go on to their last token."""
    poison, armed = 444, asyncio.Event()
    failing = FailingWorker(lambda step: armed.is_set() and any(item.log[0] == poison for item in step.items))
    async with attacked(failing) as (up, client):
        streams = [await client.open(opening((first, 871), new=40)) for first in (1, 2, 3, poison, 5, 6)]
        await until(lambda: up.metrics.committed_tokens > 12)
        armed.set()
        codes = [(await status(stream))[0] for stream in streams]
    assert codes == [Code.OK] * 3 + [Code.INTERNAL] + [Code.OK] * 2
    assert 2 <= failing.failures <= 4  # all of them, a half, a quarter, alone


async def test_a_worker_that_always_fails_is_asked_no_more_than_there_are_sessions() -> None:
    failing = FailingWorker(lambda step: True)
    async with attacked(failing) as (up, client):
        for _ in range(3):
            stream = await client.open(opening(PROMPT))
            assert (await status(stream))[0] is Code.INTERNAL
        await until(lambda: up.engine.sessions == 0)
        for _ in range(100):  # a release that is asked for again and again would be seen here
            await client.model()
        assert failing.failures <= 6
        failing.failing = lambda step: False
        await is_served(client)


# The server's own end


class WrongWorker(ProfiledWorker):
    """Answers something else than it was asked: a bug, after which nothing can be decided."""

    def __init__(self, step_ms: float = 0.0) -> None:
        super().__init__(PROFILE, step_floor_ms=step_ms)

    def step(self, step: Step) -> StepOutcome:
        outcome = super().step(step)
        return StepOutcome((), 0) if step.items else outcome


async def test_a_broken_engine_fails_loudly_and_ends_its_streams() -> None:
    options = ServeOptions(listen="127.0.0.1:0")
    async with serving(WrongWorker(), options) as up, RawClient(up.address) as client:
        stream = await client.open(opening(PROMPT))
        with pytest.raises(ValueError, match="does not state"):
            await asyncio.wait_for(asyncio.shield(up.failed), DEADLINE_S)
        late = client.stream()  # nobody reads the inbox any more: it must not hang
        assert (await status(late))[0] is Code.UNAVAILABLE
        await up.engine.stop()
        assert (await status(stream))[0] is Code.UNAVAILABLE
        await until(lambda: (up.engine.streams, up.engine._handled) == (0, 0))


BROKEN = """
import asyncio
from cloud_server.app import ServeOptions, serve
from tests.e2e.test_attacks_server import WrongWorker
options = ServeOptions(listen="127.0.0.1:0", drain_s=600)
asyncio.run(serve(WrongWorker(step_ms=500), options, lambda at: print("listening on", at, flush=True)))
"""


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server of its own, and its address; killed at the end if it still runs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        line = (await asyncio.wait_for(child.stdout.readline(), DEADLINE_S)).decode()
        assert line.startswith("listening on ")
        yield child, line.split()[-1]
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@pytest.mark.parametrize("draining", [False, True])
async def test_a_process_whose_engine_breaks_ends_with_1_and_says_why(draining: bool) -> None:
    async with process("-c", BROKEN) as (child, address):
        async with RawClient(address) as client:
            stream = await client.open(opening(PROMPT))
            assert isinstance(await asyncio.wait_for(stream.read(), DEADLINE_S), Opened)
            if draining:
                child.send_signal(signal.SIGTERM)
            assert (await status(stream))[0] is Code.UNAVAILABLE
            assert any(isinstance(message, Drain) for message in stream.received) == draining
        assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 1
        assert child.stderr is not None
        assert b"does not state" in await child.stderr.read()


def serve_arguments(step_ms: int, drain_s: float) -> tuple[str, ...]:
    model = f"profiled:step_ms={step_ms},vocabulary_size=1000"
    return (
        *("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0"),
        *("--model", model, "--drain-s", str(drain_s)),
    )


async def test_a_server_that_is_asked_twice_to_stop_stops() -> None:
    async with process(*serve_arguments(4, 600)) as (child, address), RawClient(address) as client:
        stream = await client.open(opening(PROMPT, new=100_000))
        silent = client.stream()
        await stream.tokens(1)
        child.send_signal(signal.SIGINT)
        while not isinstance(await asyncio.wait_for(stream.read(), DEADLINE_S), Drain):
            pass
        # While it drains it serves whom it has, and nobody else.
        code, detail = await status(client.stream())
        assert code is Code.UNAVAILABLE
        assert "another" in detail
        child.send_signal(signal.SIGINT)
        assert (await status(stream))[0] is Code.UNAVAILABLE
        assert (await status(silent))[0] is Code.UNAVAILABLE
        assert sum(isinstance(message, Drain) for message in stream.received) == 1
        assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 0
        assert child.stderr is not None
        assert await child.stderr.read() == b""


async def test_a_server_stops_with_a_step_in_flight() -> None:
    async with process(*serve_arguments(400, 0.1)) as (child, address), RawClient(address) as client:
        stream = await client.open(opening(PROMPT, new=100_000))
        await stream.tokens(1)  # the next step has begun
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 15) == 0
        assert (await status(stream))[0] is Code.UNAVAILABLE
        assert child.stderr is not None
        assert await child.stderr.read() == b""


async def test_a_server_stops_though_a_client_does_not_read() -> None:
    options = ServeOptions(listen="127.0.0.1:0", limits=Limits(run_ahead=400))
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as stack:
        up = await stack.enter_async_context(serving(ProfiledWorker(PROFILE), options))
        async with grpc.aio.insecure_channel(up.address, options=NARROW) as channel:
            stream = Stream(pb_grpc.SlipstreamStub(channel).Decode())
            await stream.send(opening(PROMPT, new=400))
            await until(lambda: up.metrics.committed_tokens == 400)
            assert up.engine._handled == 1  # everything is said, but not written
            await stack.aclose()


async def test_draining_twice_says_so_once() -> None:
    async with attacked() as (up, client):
        stream = await client.open(opening(PROMPT, new=400))
        await stream.tokens(1)
        up.drain()
        up.drain()
        await stream.send(Draft(0, 3, (), (), (), 3))
        await stream.tokens(256)
        await stream.send(Close())
        assert (await status(stream))[0] is Code.OK
        assert sum(isinstance(message, Drain) for message in stream.received) == 1
        assert stream.finish is not None
        assert stream.finish.reason is FinishReason.CLOSED
