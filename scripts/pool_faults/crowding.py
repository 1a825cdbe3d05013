"""More clients than a server has room for, and clients that vanish."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass

import grpc

from scripts.pool_faults.plain import Heard, generate
from scripts.pool_faults.server import Held, Server, server, until
from shared.profiled import ProfiledPair, decode, parse_profile

PAIR = "vocabulary_size=1000"
TOKENS = 50
SETTLED_S = 0.5
"""After which what a moment needs is given back."""


IDLE_S = 20.0


@dataclass(frozen=True, slots=True)
class Overload:
    """What many clients meant to those that were let in, and to those that were not."""

    room: int
    clients: int
    alone_ms: float
    """Median time between tokens of as many sessions as there is room for."""
    crowded_ms: float
    """The same while the others knock."""
    completed: int
    right: int
    refused: int
    hinted: int
    """Refusals with RESOURCE_EXHAUSTED and when to come again."""
    leaked: Held
    sessions_left: int

    @property
    def slowdown(self) -> float:
        """By which factor those that were let in became slower."""
        return self.crowded_ms / self.alone_ms


@dataclass(frozen=True, slots=True)
class Churn:
    """What is left of sessions that were dropped."""

    dropped: int
    lasted_s: float
    leaked: Held
    sessions_left: int
    right: bool
    """Whether a session afterwards gets its text."""


async def overload(
    *, room: int = 8, times: int = 4, seconds: float = 6.0, step_ms: float = 40.0, workers: int = 2
) -> Overload:
    """`times` as many clients as there is room for, each of which comes again as soon as it is told to.

    Raises:
        ChildError: the server does not come up.
        LateError: sessions are left.
    """
    model = f"profiled:step_ms={step_ms},{PAIR}"
    shape = ("--workers", str(workers), "--worker-kind", "process", "--max-sessions", str(room))
    with server("--model", model, *shape, "--no-prompt-lookup") as up:
        await _crowd(up, room, seconds / 4)  # what is made once, and kept, is there afterwards
        await _quiet(up)
        before = up.held()
        alone = await _crowd(up, room, seconds / 2)
        crowded = await _crowd(up, room * times, seconds)
        await _quiet(up)
        leaked, left = await _leaked(up, before), int(up.metric("sessions"))
    refused = [heard for heard in crowded if heard.status is not grpc.StatusCode.OK]
    done = [heard for heard in crowded if heard.status is grpc.StatusCode.OK]
    pair = ProfiledPair(parse_profile(model))
    right = sum(heard.tokens == decode(pair, (1, 2, 3), TOKENS) for heard in done)
    hinted = sum(
        heard.status is grpc.StatusCode.RESOURCE_EXHAUSTED and heard.retry_ms is not None for heard in refused
    )
    return Overload(
        room,
        room * times,
        _pace(alone),
        _pace(done),
        len(done),
        right,
        len(refused),
        hinted,
        leaked,
        left,
    )


async def churn(*, sessions: int = 1000, together: int = 40, workers: int = 2, seed: int = 0) -> Churn:
    """Sessions that are opened and dropped at moments of their own.

    Raises:
        ChildError: the server does not come up.
        LateError: sessions are left.
    """
    model = f"profiled:step_ms=2,{PAIR}"
    with server("--model", model, "--workers", str(workers), "--worker-kind", "process") as up:
        await _drop(up, 2 * together, together, seed + 1)  # as in `overload`
        await _quiet(up)
        before, began = up.held(), time.perf_counter()
        await _drop(up, sessions, together, seed)
        await _quiet(up)
        lasted = time.perf_counter() - began
        leaked, left = await _leaked(up, before), int(up.metric("sessions"))
        async with grpc.aio.insecure_channel(up.address) as channel:
            heard = await generate(channel, (1, 2, 3), TOKENS)
    right = heard.tokens == decode(ProfiledPair(parse_profile(model)), (1, 2, 3), TOKENS)
    return Churn(sessions, lasted, leaked, left, right)


async def _crowd(up: Server, clients: int, seconds: float) -> list[Heard]:
    """Clients that come again and again for so long; what came of all their streams."""
    end = time.perf_counter() + seconds
    heard: list[Heard] = []

    async def come_again() -> None:
        async with grpc.aio.insecure_channel(up.address) as channel:
            while time.perf_counter() < end:
                one = await generate(channel, (1, 2, 3), TOKENS)
                heard.append(one)
                if one.status is not grpc.StatusCode.OK:
                    await asyncio.sleep((one.retry_ms or 100) / 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(come_again())
    return heard


async def _drop(up: Server, sessions: int, together: int, seed: int) -> None:
    async with grpc.aio.insecure_channel(up.address) as channel:

        async def one(number: int) -> None:
            keyed = random.Random(f"{seed} {number}")
            await asyncio.sleep(keyed.random() * 0.02)
            running = asyncio.create_task(
                generate(channel, (1, 2, number % 1000), 200, drop_after=keyed.randrange(40))
            )
            if keyed.random() < 0.5:  # at any moment, also before it is open
                await asyncio.wait((running,), timeout=keyed.random() * 0.05)
                running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        for first in range(0, sessions, together):
            batch = range(first, min(first + together, sessions))
            await asyncio.gather(*(one(number) for number in batch))


async def _quiet(up: Server) -> None:
    await until(lambda: up.metric("sessions") == 0, "every session has ended", 0.05)
    await asyncio.sleep(SETTLED_S)


async def _leaked(up: Server, before: Held) -> Held:
    """What is held beyond `before` for good: gRPC keeps idle threads for some seconds."""
    for _ in range(round(IDLE_S / SETTLED_S)):
        if up.held().beyond(before) == Held(0, 0, 0):
            break
        await asyncio.sleep(SETTLED_S)
    return up.held().beyond(before)


def _pace(heard: list[Heard]) -> float:
    return statistics.median(gap for each in heard for gap in each.gaps_ms)
