"""What happens when a side dies: real processes, real signals, real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from cloud_server.profiled import ProfiledWorker
from edge_client.app import Client, ClientOptions, GenerateOptions
from edge_client.policies import DraftOptions, Mode
from shared.profiled import Profile, ProfiledPair, decode
from shared.sampling import SamplingParams
from tests.e2e.raw import RawClient, opening, server
from tests.e2e.reference import TARGET, Reference

ROOT = Path(__file__).resolve().parents[2]
PROFILE = Profile(step_ms=4.0, vocabulary_size=1000)
PROFILED = "profiled:step_ms=4,vocabulary_size=1000"
DRAFTER = "profiled:draft_ms=1,vocabulary_size=1000"
DEADLINE_S = 60


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of ours; killed at the end if it still runs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def listening(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    line = (await asyncio.wait_for(child.stdout.readline(), DEADLINE_S)).decode()
    assert line.startswith("listening on "), line
    return line.removeprefix("listening on ").strip()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


async def test_a_killed_edge_frees_its_session_at_once() -> None:
    async with server(ProfiledWorker(PROFILE)) as up:
        arguments = ("generate", "--server", up.address, "--drafter", DRAFTER, "--max-new-tokens", "100000")
        async with process("edge_client", *arguments, "hello") as edge:
            assert edge.stdout is not None
            await asyncio.wait_for(edge.stdout.read(1), DEADLINE_S)  # it is generating
            assert (up.engine.streams, up.engine.sessions) == (1, 1)
            edge.send_signal(signal.SIGKILL)
            await edge.wait()
            await until(lambda: (up.engine.streams, up.engine.sessions) == (0, 0))
            steps = up.metrics.steps
        # A vanished edge costs no further steps, beyond the one that was out.
        assert up.metrics.steps <= steps + 1


async def test_a_killed_server_is_found_again_and_the_text_is_the_same() -> None:
    want = decode(ProfiledPair(PROFILE), (1, 2, 3), 300)
    got: list[int] = []
    begun = asyncio.Event()

    def take(tokens: tuple[int, ...]) -> None:
        got.extend(tokens)
        if len(got) > 40:
            begun.set()

    async with process("cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", PROFILED) as first:
        address = await listening(first)
        async with Client(ClientOptions(server=address, drafter=DRAFTER)) as client:
            running = asyncio.create_task(
                client.generate(GenerateOptions(prompt=(1, 2, 3), max_new_tokens=300), on_tokens=take)
            )
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
            first.kill()
            await first.wait()
            async with process("cloud_server", "serve", "--listen", address, "--model", PROFILED) as second:
                assert await listening(second) == address
                result = await asyncio.wait_for(running, DEADLINE_S)
    assert list(result.tokens) == want == got
    assert result.stats.reconnects >= 1


@pytest.mark.slow
async def test_a_killed_server_with_the_real_target() -> None:
    reference = Reference()
    prompt = reference.prompts[0]
    params = SamplingParams(temperature=1.0, seed=5)
    want = reference.sampled(prompt, 96, params)
    begun = asyncio.Event()
    seen: list[int] = []

    def take(tokens: tuple[int, ...]) -> None:
        seen.extend(tokens)
        if len(seen) > 10:
            begun.set()

    arguments = ("cloud_server", "serve", "--model", str(TARGET), "--step-floor-ms", "30", "--listen")
    async with process(*arguments, "127.0.0.1:0") as first:
        address = await listening(first)
        async with Client(ClientOptions(server=address)) as client:
            options = GenerateOptions(prompt=prompt, max_new_tokens=96, sampling=params)
            running = asyncio.create_task(client.generate(options, on_tokens=take))
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
            first.kill()
            await first.wait()
            async with process(*arguments, address) as second:
                await listening(second)
                result = await asyncio.wait_for(running, DEADLINE_S)
    verdict = reference.difference(prompt, result.tokens, want, params)
    assert verdict.position is None or verdict.excused
    assert result.stats.reconnects >= 1


async def test_a_restarted_server_with_another_model_is_refused() -> None:
    begun = asyncio.Event()
    async with process("cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", PROFILED) as first:
        address = await listening(first)
        async with Client(ClientOptions(server=address, drafter="none")) as client:
            options = GenerateOptions(
                prompt=(1, 2, 3), max_new_tokens=5000, draft=DraftOptions(mode=Mode.CLOUD)
            )
            running = asyncio.create_task(client.generate(options, on_tokens=lambda _: begun.set()))
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
            first.kill()
            await first.wait()
            other = PROFILED + ",seed=9"
            async with process("cloud_server", "serve", "--listen", address, "--model", other) as second:
                await listening(second)
                with pytest.raises(Exception, match="same model"):
                    await asyncio.wait_for(running, DEADLINE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stopped_server_drains_says_so_and_leaves_nothing(number: signal.Signals) -> None:
    arguments = ("cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", PROFILED, "--drain-s", "0.2")
    async with process(*arguments) as child:
        address = await listening(child)
        async with RawClient(address) as client:
            stream = await client.open(opening(new=100_000))
            await stream.tokens(3)
            children = psutil.Process(child.pid).children(recursive=True)
            child.send_signal(number)
            code, detail = await stream.rest()
            assert code.name == "UNAVAILABLE"
            assert "open again" in detail
            assert any(type(message).__name__ == "Drain" for message in stream.received)
        assert await asyncio.wait_for(child.wait(), DEADLINE_S) == 0
        assert child.stderr is not None
        assert await child.stderr.read() == b""
        assert not any(one.is_running() for one in children)


async def test_an_interrupted_edge_says_goodbye() -> None:
    async with server(ProfiledWorker(PROFILE)) as up:
        arguments = ("generate", "--server", up.address, "--drafter", DRAFTER, "--max-new-tokens", "100000")
        async with process("edge_client", *arguments, "hello") as edge:
            assert edge.stdout is not None
            await asyncio.wait_for(edge.stdout.read(1), DEADLINE_S)
            edge.send_signal(signal.SIGINT)
            _, errors = await asyncio.wait_for(edge.communicate(), DEADLINE_S)
            assert edge.returncode == 130
            assert b"Traceback" not in errors
            await until(lambda: (up.engine.streams, up.engine.sessions) == (0, 0))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_memory_does_not_grow_over_500_sessions() -> None:
    reference = Reference()
    async with process("cloud_server", "serve", "--model", str(TARGET), "--listen", "127.0.0.1:0") as child:
        address = await listening(child)
        server_process = psutil.Process(child.pid)
        measured: dict[int, int] = {}
        async with Client(ClientOptions(server=address)) as client:
            for index in range(500):
                prompt = reference.prompts[index % 32]
                await client.generate(GenerateOptions(prompt=prompt, max_new_tokens=8))
                if index in (99, 499):
                    measured[index] = server_process.memory_info().rss
    grown = measured[499] - measured[99]
    print(f"resident: {measured[99] >> 20} MiB after 100 sessions, {measured[499] >> 20} MiB after 500")
    # One leaked session's KV is 2 x 6 layers x 96 floats x 4 bytes x 256 tokens = 1.2 MB: 400 of them are 470 MB.
    assert grown < 16 << 20
