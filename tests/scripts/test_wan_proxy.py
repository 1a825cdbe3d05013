"""The proxy over real sockets: what comes out is what went in, never early, and ends travel like bytes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time

import pytest

from scripts.wan.__main__ import combine
from scripts.wan.addresses import parse_address
from scripts.wan.proxy import DelayProxy
from scripts.wan.verbs import perform
from shared.errors import UserError
from shared.link import LinkProfile

NONE = LinkProfile()


@contextlib.asynccontextmanager
async def proxying(target, up, down, seed=0):
    async with DelayProxy(up, down, seed) as proxy:
        proxy.address = proxy.reach(parse_address(target, "target"))
        yield proxy


@contextlib.asynccontextmanager
async def echo():
    """A server that sends everything back and half-closes when its client did."""

    async def answer(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
            await writer.drain()
        writer.close()

    async with listening(answer) as address:
        yield address


@contextlib.asynccontextmanager
async def listening(answer):
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


async def connect(address):
    return await asyncio.open_connection(*parse_address(address, "address"))


async def until(condition, deadline_s=10.0):
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    "link", [NONE, LinkProfile(3.0, 3.0), LinkProfile(1.0, 1.0, 200_000.0)], ids=["bare", "jitter", "rate"]
)
async def test_random_chunks_come_back_whole_and_in_order(link):
    source = random.Random(1)
    chunks = [source.randbytes(source.choice([1, 7, 300, 20_000])) for _ in range(150)]
    async with echo() as target, proxying(target, link, link, seed=3) as proxy:
        reader, writer = await connect(proxy.address)

        async def send():
            for number, chunk in enumerate(chunks):
                writer.write(chunk)
                await writer.drain()
                if number % 10 == 0:
                    await asyncio.sleep(0.001)
            writer.write_eof()

        sending = asyncio.create_task(send())
        received = await asyncio.wait_for(reader.read(), 30)
        await sending
        writer.close()
        total = sum(map(len, chunks))
        assert received == b"".join(chunks)
        assert (proxy.traffic.bytes_up, proxy.traffic.bytes_down, proxy.traffic.connections) == (
            total,
            total,
            1,
        )
        await until(lambda: not proxy._connections)


async def test_nothing_is_early():
    async with echo() as target, proxying(target, LinkProfile(20.0), LinkProfile(10.0)) as proxy:
        reader, writer = await connect(proxy.address)
        for _ in range(5):
            begun = time.monotonic()
            writer.write(b"x")
            await reader.readexactly(1)
            assert time.monotonic() - begun >= 0.030
        writer.close()


async def test_without_a_delay_nothing_is_late_control():
    """Negative control of the test above: its bound is the link's doing."""
    async with echo() as target, proxying(target, NONE, NONE) as proxy:
        reader, writer = await connect(proxy.address)
        fastest = float("inf")
        for _ in range(20):
            begun = time.monotonic()
            writer.write(b"x")
            await reader.readexactly(1)
            fastest = min(fastest, time.monotonic() - begun)
        writer.close()
        assert fastest < 0.030


async def test_a_half_close_leaves_the_other_direction_open():
    heard = asyncio.Event()

    async def answer(reader, writer):
        assert await reader.read() == b"question"  # ends only with the client's half-close
        heard.set()
        writer.write(b"answer")
        writer.close()

    async with listening(answer) as target, proxying(target, LinkProfile(2.0), LinkProfile(2.0)) as proxy:
        reader, writer = await connect(proxy.address)
        writer.write(b"question")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"answer"
        assert heard.is_set()
        writer.close()


async def test_a_reset_reaches_the_other_end():
    ends: asyncio.Queue[str] = asyncio.Queue()

    async def answer(reader, writer):
        try:
            await reader.read()
            ends.put_nowait("end")
        except ConnectionResetError:
            ends.put_nowait("reset")
        writer.close()

    async with listening(answer) as target, proxying(target, LinkProfile(2.0), NONE) as proxy:
        _, writer = await connect(proxy.address)
        await until(lambda: any(one.cloud._open for one in proxy._connections))
        linger_none(writer)
        writer.transport.abort()
        assert await asyncio.wait_for(ends.get(), 10) == "reset"
        await until(lambda: not proxy._connections)


async def test_cut_resets_all_and_new_connections_work():
    async with echo() as target, proxying(target, LinkProfile(1.0), LinkProfile(1.0)) as proxy:
        pairs = [await connect(proxy.address) for _ in range(3)]
        for reader, writer in pairs:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        assert proxy.cut() == 3
        for reader, writer in pairs:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 10)
            writer.close()
        reader, writer = await connect(proxy.address)
        writer.write(b"y")
        assert await asyncio.wait_for(reader.readexactly(1), 10) == b"y"
        writer.close()


async def test_a_hold_is_a_wait_and_not_a_loss():
    async with echo() as target, proxying(target, NONE, NONE) as proxy:
        reader, writer = await connect(proxy.address)
        begun = time.monotonic()
        assert perform(proxy, "hold 0.2\n") == "ok"
        writer.write(b"x")
        late_reader, late = await connect(proxy.address)  # made during the outage: held like the others
        late.write(b"y")
        assert await asyncio.wait_for(reader.readexactly(1), 10) == b"x"
        assert time.monotonic() - begun >= 0.2
        assert await asyncio.wait_for(late_reader.readexactly(1), 10) == b"y"
        assert time.monotonic() - begun >= 0.2
        writer.close()
        late.close()


async def test_a_receiver_that_does_not_read_stops_its_sender():
    """Memory in the proxy is bounded: the sender's bytes stay with the sender."""
    silent = asyncio.Event()

    async def answer(reader, writer):
        writer.transport.pause_reading()
        await silent.wait()
        writer.close()

    link = LinkProfile(1.0, 0.0, 100_000.0)
    async with listening(answer) as target, proxying(target, link, link) as proxy:
        _, writer = await connect(proxy.address)
        writer.transport.set_write_buffer_limits(high=1 << 20)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 256 << 20:
                writer.write(bytes(1 << 20))
                sent += 1 << 20
                await asyncio.wait_for(writer.drain(), 0.5)
        assert sent < 64 << 20  # kernel buffers take several MiB
        (connection,) = proxy._connections
        assert connection._up._lane.queued_bytes <= connection._up._lane._room + (256 << 10)
        silent.set()
        writer.transport.abort()


async def test_a_dead_target_resets_who_connects():
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    async with proxying(f"{host}:{port}", NONE, NONE) as proxy:
        reader, writer = await connect(proxy.address)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await until(lambda: not proxy._connections)


async def test_an_address_that_is_taken_is_the_users_business():
    async with proxying("127.0.0.1:1", NONE, NONE) as proxy:
        with pytest.raises(UserError, match="cannot listen on"):
            proxy.reach(("127.0.0.1", 2), parse_address(proxy.address, "address"))


async def test_a_second_server_gets_an_address_of_its_own():
    async with echo() as first, echo() as second, proxying(first, NONE, NONE) as proxy:
        assert perform(proxy, f"reach {first}\n") == f"ok {proxy.address}"
        other = perform(proxy, f"reach {second}\n").removeprefix("ok ")
        assert other != proxy.address
        reader, writer = await connect(other)
        writer.write(b"z")
        assert await asyncio.wait_for(reader.readexactly(1), 10) == b"z"
        writer.close()


async def test_unknown_verbs_are_told():
    async with proxying("127.0.0.1:1", NONE, NONE) as proxy:
        assert (
            perform(proxy, "reach nowhere\n")
            == "error server nowhere: expected HOST:PORT, such as 127.0.0.1:50051"
        )
        assert perform(proxy, "hold on\n").startswith("error")
        assert perform(proxy, "cut\n") == "ok 0"


def test_options_replace_a_profiles_figures():
    profile = combine("lte", rtt_ms=10.0, jitter_ms=0.0, up_kbit=None, down_kbit=None)
    assert (profile.rtt_ms, profile.jitter_ms, profile.up_kbit) == (10.0, 0.0, 8000)
    with pytest.raises(UserError, match="--profile NAME or --rtt-ms"):
        combine(None, rtt_ms=None)


def linger_none(writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
