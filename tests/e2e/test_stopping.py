"""A server that is asked to stop: it drains first, over mutual TLS and with a token as anywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from edge_client.app import (
    Client,
    ClientOptions,
    ClientSecurity,
    ConnectionLostError,
    GenerateOptions,
    Notice,
)
from shared.profiled import Profile, ProfiledPair, decode
from tests.e2e.raw import Stream

ROOT = Path(__file__).resolve().parents[2]
CERTIFICATES = ROOT / "tests" / "e2e" / "certificates"
PAIR = ProfiledPair(Profile(vocabulary_size=1000))
TOKEN = "a-token-of-the-test"
PROMPT = (1, 2, 3)
PROTECTED = (
    *("--tls-cert", str(CERTIFICATES / "server.crt"), "--tls-key", str(CERTIFICATES / "server.key")),
    *("--tls-client-ca", str(CERTIFICATES / "authority.crt")),
)
SECURITY = ClientSecurity(
    tls_ca=CERTIFICATES / "authority.crt",
    tls_cert=CERTIFICATES / "client.crt",
    tls_key=CERTIFICATES / "client.key",
)


@contextlib.asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    model = "profiled:step_ms=5,vocabulary_size=1000"
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "cloud_server",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--model",
            model,
            *arguments,
        ),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on "), line
        yield process, line.split()[-1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def health(address: str) -> int:
    names = ("tls_ca", "tls_cert", "tls_key")
    flags = [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(SECURITY, name)))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cloud_server", "health", "--server", address, *flags),
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        return await process.wait()


async def test_what_runs_comes_to_its_end_and_nothing_new_begins(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    security = replace(SECURITY, token_file=tmp_path / "token")
    arguments = (*PROTECTED, "--token-file", str(tmp_path / "token"), "--drain-s", "60", "-v")
    notices: list[Notice] = []
    tokens: list[int] = []
    async with serving(*arguments) as (process, address):
        options = ClientOptions(address, "none", security=security)
        async with Client(options) as client:
            some = asyncio.Event()
            running = asyncio.create_task(
                client.generate(
                    GenerateOptions(PROMPT, max_new_tokens=500),
                    on_tokens=lambda new: (tokens.extend(new), some.set())[0],
                    on_notice=notices.append,
                )
            )
            async with asyncio.timeout(60):
                await some.wait()
                assert await health(address) == 0
                process.send_signal(signal.SIGTERM)
                assert process.stderr is not None
                while b"draining" not in await process.stderr.readline():
                    pass
                assert await health(address) == 1
                assert not running.done()
                (transport,) = client._connections._transports.values()
                late = Stream(transport._stub.Decode(metadata=transport._metadata))
                code, detail = await late.rest()
                assert (code, detail) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "this server is draining: connect to another",
                )
                result = await running
                assert await process.wait() == 0, "long before the 60 s are over"
        assert TOKEN.encode() not in await process.stderr.read()
    assert list(result.tokens) == tokens == decode(PAIR, PROMPT, 500)
    assert notices == []


@pytest.mark.parametrize("signals", [1, 2])
async def test_what_does_not_end_in_time_is_ended(signals: int) -> None:
    """After the time, or at a second signal at once."""
    notices: list[Notice] = []
    drain_s = "600" if signals == 2 else "0.2"
    async with (
        serving(*PROTECTED, "--drain-s", drain_s, "-v") as (process, address),
        Client(ClientOptions(address, "none", security=SECURITY)) as client,
    ):
        some = asyncio.Event()
        running = asyncio.create_task(
            client.generate(
                GenerateOptions(PROMPT, max_new_tokens=1900, give_up_after_s=1.0),
                on_tokens=lambda _: some.set(),
                on_notice=notices.append,
            )
        )
        async with asyncio.timeout(60):
            await some.wait()
            process.send_signal(signal.SIGTERM)
            if signals == 2:
                assert process.stderr is not None
                while b"draining" not in await process.stderr.readline():
                    pass
                process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionLostError, match=r"was lost .* and did not come back in"):
                await running
            assert await process.wait() == 0
    assert [str(notice) for notice in notices] == [
        "connection lost (the server is going away: open again with the log), trying again for 1 s"
    ]
