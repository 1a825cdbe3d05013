"""Hostile and broken streams over real gRPC: what each costs the server is bounded, and nothing of it is left."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
from collections.abc import Awaitable, Callable

import grpc
import psutil
import pytest

from cloud_server.engine import StreamLimits
from cloud_server.profiled import ProfiledWorker
from shared.errors import Status
from shared.messages import Close, Draft, EdgeMessage, Limits, Opened
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from tests.e2e.attack import (
    DEADLINE_S,
    NARROW,
    PROMPT,
    TEXT,
    Code,
    attacked,
    is_served,
    left,
    pb_open,
    put,
    status,
    until,
)
from tests.e2e.raw import PROFILE, RawClient, Stream, opening

# Streams without a session


async def test_a_stream_that_never_opens_is_ended() -> None:
    async with attacked(streams=StreamLimits(open_within_s=0.1)) as (up, client):
        silent = client.stream()
        await silent.call.wait_for_connection()
        parts = await client.open(dataclasses.replace(opening(PROMPT), more=True))
        for stream in (silent, parts):
            code, detail = await status(stream)
            assert code is Code.DEADLINE_EXCEEDED
            assert "Open" in detail
        await until(lambda: left(up) == [])
        await is_served(client)
        # The deadline is of the Open: a session that rests in its patience outlives it.
        patient = await client.open(opening(PROMPT, new=1, patience_us=400_000))
        assert (await status(patient))[0] is Code.OK


async def test_streams_without_a_session_are_few_and_keep_nobody_out() -> None:
    async with attacked(streams=StreamLimits(max_waiting=8)) as (up, client):
        silent = [client.stream() for _ in range(64)]
        refused = up.metrics.endings
        await until(lambda: refused[Status.RESOURCE_EXHAUSTED] == 56 and up.engine._handled == 8)
        await is_served(client)  # the oldest made room, once more
        assert refused[Status.RESOURCE_EXHAUSTED] == 57
        ended = [stream for stream in silent if stream.call.done()]
        assert len(ended) == 57
        assert {(await status(stream))[0] for stream in ended} == {Code.RESOURCE_EXHAUSTED}
        for stream in silent:
            stream.call.cancel()


async def test_parts_of_an_open_are_counted_and_cost_what_they_carry() -> None:
    limits = Limits(max_messages_per_second=200)
    worker = ProfiledWorker(dataclasses.replace(PROFILE, context_length=1 << 20))
    async with attacked(worker, limits) as (_, client):
        stream = client.stream()
        for _ in range(5000):
            if not await put(stream, pb_open(tokens=(), more=True)):
                break
        assert (await status(stream))[0] is Code.RESOURCE_EXHAUSTED
        trickled = await client.open(dataclasses.replace(opening(PROMPT[:1], prompt_length=3), more=True))
        await trickled.send(dataclasses.replace(opening(PROMPT[1:2], prompt_length=3), more=True))
        await trickled.send(opening(PROMPT[2:], prompt_length=3))
        assert (await status(trickled))[0] is Code.OK
        assert trickled.committed == TEXT[:8]


# Clients that do not keep up


async def test_a_client_that_never_reads_is_given_up() -> None:
    """It claims to see everything, so that the cloud goes on."""
    limits, streams = Limits(run_ahead=8), StreamLimits(max_unread=50)
    async with attacked(limits=limits, streams=streams, channel_options=NARROW) as (up, client):
        stream = await client.open(opening(PROMPT, new=1000))
        seen = 3
        async with asyncio.timeout(DEADLINE_S):
            while up.engine.streams or not up.metrics.committed_tokens:
                told = 3 + up.metrics.committed_tokens
                if told > seen:
                    seen = told
                    await put(stream, Draft(0, seen, (), (), (), seen))
                await asyncio.sleep(0.001)
        assert (up.engine.streams, up.engine.sessions, up.engine._handled) == (0, 0, 1)
        # Once it reads it is told, and what it got before was right.
        code, detail = await status(stream)
        assert code is Code.RESOURCE_EXHAUSTED
        assert "read" in detail
        assert stream.committed == TEXT[: len(stream.committed)]
        assert len(stream.committed) < 400


async def test_streams_that_are_over_and_unread_keep_nobody_out() -> None:
    """The writes of such a stream can be neither finished nor taken back: they are counted, the others make room."""
    limits, streams = Limits(run_ahead=400), StreamLimits(max_waiting=4, max_unread=20)
    async with attacked(limits=limits, streams=streams) as (up, client):
        hostile = [RawClient(up.address) for _ in range(4)]
        for one in hostile:
            await one.channel.close()
            one.channel = grpc.aio.insecure_channel(up.address, options=NARROW)
            one.stub = pb_grpc.SlipstreamStub(one.channel)
            stream = await one.open(opening(PROMPT, new=400))
        await until(lambda: (up.engine.streams, up.engine._handled) == (0, 4))
        readers = [name for name in left(up) if name.startswith("read ")]
        await put(stream, Draft(0, 3, (), (), (), 3))  # it is read, and nothing after it
        await until(lambda: len([name for name in left(up) if name.startswith("read ")]) < len(readers))
        refused = client.stream()
        assert (await status(refused))[0] is Code.RESOURCE_EXHAUSTED
        for one in hostile:
            await one.channel.close()
        await until(lambda: left(up) == [])
        await is_served(client)


async def test_a_session_at_its_run_ahead_does_not_rest_for_ever() -> None:
    limits, streams = Limits(run_ahead=4), StreamLimits(open_within_s=0.1, idle_s=0.1)
    async with attacked(limits=limits, streams=streams) as (_, client):
        stream = await client.open(opening(PROMPT, new=64))
        code, detail = await status(stream)
        assert code is Code.DEADLINE_EXCEEDED
        assert "open again" in detail
        assert stream.committed == TEXT[:4]
        # One that says something now and then goes on.
        alive = await client.open(opening(PROMPT, new=12))
        for seen in (3, 5, 7, 9, 11):
            await asyncio.wait_for(alive.tokens(seen - 3), DEADLINE_S)
            await alive.send(Draft(0, seen, (), (), (), seen))
        assert (await status(alive))[0] is Code.OK


# Floods


@pytest.mark.parametrize("what", ["seen only", "dead nodes", "step_now"])
async def test_a_flood_is_ended_and_the_neighbour_is_served(what: str) -> None:
    limits = Limits(max_messages_per_second=100)
    async with attacked(limits=limits) as (_, client):
        stream = await client.open(opening(PROMPT, new=500, patience_us=5_000_000))
        await stream.send(Draft(0, 3, (), (), (), 3, step_now=True))
        await asyncio.wait_for(stream.tokens(1), DEADLINE_S)
        dead = tuple(token for token in range(200) if token != TEXT[0])
        nodes = (dead, (0,) * len(dead), (16,) * len(dead))
        for index in range(10_000):
            draft = Draft(0, 4, (), (), (), 4, step_now=what == "step_now")
            if what == "dead nodes":
                draft = Draft(1 + index * len(dead), 3, *nodes, 4)
            if not await put(stream, draft):
                break
        code, detail = await status(stream)
        assert code is Code.RESOURCE_EXHAUSTED
        assert "messages a second" in detail
        assert stream.committed == TEXT[: len(stream.committed)]
        await is_served(client)


# Ends at every point

SAYINGS: list[EdgeMessage] = [
    dataclasses.replace(opening(PROMPT[:2], new=500, prompt_length=3), more=True),
    opening(PROMPT[2:], new=500, prompt_length=3),
    Draft(1, 3, tuple(TEXT[:4]), (0, 1, 1, 1), (1,) * 4, 3),
    Draft(5, 3, (7, 8), (0, 1), (1,) * 2, 3),
    Draft(0, 3, (), (), (), 3, step_now=True),
    Close(),
]


async def _half_close(stream: Stream) -> None:
    await stream.call.done_writing()
    code, _ = await status(stream)
    assert code in {Code.CANCELLED, Code.OK}


async def _cancel(stream: Stream) -> None:
    stream.call.cancel()


@pytest.mark.parametrize("end", [_half_close, _cancel])
@pytest.mark.parametrize("reads", [False, True])
async def test_an_end_at_every_point_leaves_nothing(
    end: Callable[[Stream], Awaitable[None]], reads: bool
) -> None:
    async with attacked() as (up, client):
        for count in range(len(SAYINGS) + 1):
            stream = client.stream()
            for message in SAYINGS[:count]:
                await stream.send(message)
            if reads and count >= 2:
                assert isinstance(await stream.read(), Opened)
            await end(stream)
            await until(lambda: left(up) == [])
        await is_served(client)


async def _drop(client: RawClient, index: int) -> None:
    """Open a session, say some of what there is to say, vanish at a moment of its own."""
    keyed = random.Random(index)
    stream = client.stream()
    for message in SAYINGS[: keyed.randrange(len(SAYINGS) + 1)]:
        await stream.send(message)
        for _ in range(keyed.randrange(3)):
            await asyncio.sleep(0)
    for _ in range(keyed.randrange(30)):
        await asyncio.sleep(0)
    if keyed.random() < 0.5:
        stream.call.cancel()
    else:
        await stream.call.done_writing()
        await status(stream)


@pytest.mark.parametrize("together", [1, 40])
async def test_300_dropped_sessions_leave_nothing(together: int) -> None:
    process = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), process.num_fds(), process.num_threads()

    worker = ProfiledWorker(PROFILE)
    async with attacked(worker) as (up, client):
        # Threads and tasks that are made once, and kept, are there after the first ones.
        await asyncio.gather(*(_drop(client, 1000 + index) for index in range(together)))
        await is_served(client)
        await until(lambda: left(up) == [])
        before = held()
        for index in range(0, 300, together):
            await asyncio.gather(*(_drop(client, index + each) for each in range(together)))
        await until(lambda: left(up) == [])
        await until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
        await is_served(client)
        books = up.engine._front.pool._workers[0]
        await until(lambda: (books.cached, worker._facts.sessions) == ({}, 0))
