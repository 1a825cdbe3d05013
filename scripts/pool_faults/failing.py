"""Worker processes that are killed, or frozen, under generations that run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from itertools import pairwise

from edge_client.app import Client, ClientOptions, GenerateOptions
from scripts.pool_faults.server import Server, alive, server, until
from shared.profiled import ProfiledPair, decode, parse_profile

PAIR = "vocabulary_size=1000"
DRAFTER = f"profiled:draft_ms=3,{PAIR}"


@dataclass(frozen=True, slots=True)
class Failing:
    """What a failure under load meant."""

    sessions: int
    right: int
    """Sessions whose text is the target's own, to the last token."""
    reconnects: int
    usual_ms: float
    """Median over the sessions of their longest pause before the failure."""
    pauses_ms: tuple[float, ...]
    """Of each session, the longest from the failure on; the greatest first."""
    noticed_s: float
    """From the failure until the server counts the worker as lost."""
    replaced_s: float
    """From the failure until another is up in its stead."""

    @property
    def affected(self) -> int:
        """Sessions that paused for more than twice what is usual."""
        return sum(pause > 2.0 * self.usual_ms for pause in self.pauses_ms)


async def fail(
    number: signal.Signals,
    *,
    sessions: int = 16,
    tokens: int = 400,
    workers: int = 2,
    step_ms: float = 10.0,
    deadline_s: float = 5.0,
    options: tuple[str, ...] = (),
) -> Failing:
    """Send SIGKILL or SIGSTOP to one of the worker processes in the middle of so many generations.

    Raises:
        ChildError: the server does not come up.
        LateError: the worker is not replaced.
    """
    model = f"profiled:step_ms={step_ms},{PAIR}"
    shape = ("--workers", str(workers), "--worker-kind", "process", "--worker-deadline-s", str(deadline_s))
    with server("--model", model, *shape, *options) as up:
        async with asyncio.TaskGroup() as group:
            times: list[list[float]] = [[] for _ in range(sessions)]
            running = [
                group.create_task(_generate(up, index, tokens, times[index])) for index in range(sessions)
            ]
            await until(lambda: all(len(each) >= tokens // 8 for each in times), "every session has begun")
            begun_at = time.perf_counter()
            await until(lambda: all(len(each) >= tokens // 4 for each in times), "every session goes on")
            victim = up.workers[0]
            lost, joined = up.metric("workers_left"), up.metric("workers_joined")
            failed_at = time.perf_counter()
            os.kill(victim, number)
            noticed = await until(lambda: up.metric("workers_left") > lost, "the loss is noticed", 0.02)
            await until(lambda: not alive(victim), "the lost process is gone")
            await until(lambda: up.metric("workers_joined") > joined, "another is up", 0.02)
            replaced = time.perf_counter() - failed_at
        results = [task.result() for task in running]
    pauses = [_longest(each, failed_at, float("inf")) for each in times]
    usual = sorted(_longest(each, begun_at, failed_at) for each in times)
    return Failing(
        sessions,
        sum(right for right, _ in results),
        sum(reconnects for _, reconnects in results),
        usual[len(usual) // 2],
        tuple(sorted(pauses, reverse=True)),
        noticed,
        replaced,
    )


async def _generate(up: Server, index: int, tokens: int, times: list[float]) -> tuple[bool, int]:
    prompt = (1, 2, 3 + index)
    async with Client(ClientOptions(server=up.address, drafter=DRAFTER)) as client:
        result = await client.generate(
            GenerateOptions(prompt, max_new_tokens=tokens),
            on_tokens=lambda new: times.extend([time.perf_counter()] * len(new)),
        )
    want = decode(ProfiledPair(parse_profile(f"profiled:{PAIR}")), prompt, tokens)
    return list(result.tokens) == want, result.stats.reconnects


def _longest(times: list[float], begin: float, end: float) -> float:
    """The longest pause (ms) of which some part lies between two moments."""
    gaps = pairwise(times)
    return max(
        (1000.0 * (later - earlier) for earlier, later in gaps if later > begin and earlier < end),
        default=0.0,
    )
