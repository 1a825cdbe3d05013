"""The clients: `python -m scripts.bench_capacity.clients_process`, a process at the edge's end of the link.

Each client is a device of its own, with a connection, a drafter and a thread for it; they share one event loop. It
reads a `Load` from standard input, says `begun` when the window begins, and answers with a `Served`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field

import uvloop

from edge_client.app import Client
from edge_client.driver import Event
from edge_client.options import GenerateOptions
from edge_client.transport import Received
from scripts.bench_capacity.accounting import Arrival, Written, within
from scripts.bench_capacity.wire import BEGUN, Load, Served
from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.prompts import PROMPT_TOKENS
from shared.messages import Commit
from shared.sim.predict import random_prompt


@dataclass(slots=True)
class Generation:
    """One that is being written, or was."""

    client: int
    prompt: int
    asked_at: int
    arrivals: list[Arrival] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def observe(self, now: int, event: Event) -> None:
        """See `edge_client.driver.Observe`."""
        match event:
            case Received(message=Commit() as commit):
                self.tokens += commit.tokens
                self.arrivals.append(
                    Arrival(now / 1e6, len(commit.tokens), commit.facts, commit.accepted, commit.judged)
                )

    def written(self) -> Written:
        """As the accounting takes it."""
        return Written(self.client, self.asked_at / 1e6, tuple(self.arrivals))


async def run(load: Load) -> Served:
    """All clients, until the window is over or they have written what was asked for."""
    generations: list[Generation] = []
    done = itertools.count()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(load.client)) for _ in range(load.clients)]
        tasks = [
            asyncio.create_task(_closed_loop(load, index, client, generations, done))
            for index, client in enumerate(clients)
        ]
        try:
            await _while_none_fails(tasks, load.warm_up_s)
            print(BEGUN, flush=True)
            begin, cpu = time.monotonic_ns(), time.process_time()
            await _while_none_fails(tasks, load.window_s)
            end, cpu = time.monotonic_ns(), time.process_time() - cpu
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return Served(
        window=within([one.written() for one in generations], begin / 1e6, end / 1e6),
        generations=next(done),
        texts=tuple((one.prompt, tuple(one.tokens)) for one in generations),
        cpu_s=cpu,
        written=() if load.generations is None else tuple(one.written() for one in generations),
    )


async def _closed_loop(
    load: Load, index: int, client: Client, generations: list[Generation], done: itertools.count[int]
) -> None:
    await asyncio.sleep(load.spread_s * index / load.clients)
    for number in itertools.count() if load.generations is None else range(load.generations):
        prompt = load.first_prompt + index + number * load.clients
        one = Generation(index, prompt, time.monotonic_ns())
        generations.append(one)
        options = GenerateOptions(
            random_prompt(prompt, PROMPT_TOKENS, load.vocabulary_size), load.tokens, draft=load.draft
        )
        await client.generate(options, observe=one.observe)
        next(done)


async def _while_none_fails(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    ended, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in ended:
        task.result()


async def serve() -> None:
    """One load; SIGTERM ends it."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine runs in a task")
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    load = decode(Load, json.loads(sys.stdin.readline()))
    print(json.dumps(encode(await run(load)), allow_nan=False), flush=True)


def main() -> None:
    """Nothing is said but what the benchmark reads."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(serve())


if __name__ == "__main__":
    main()
