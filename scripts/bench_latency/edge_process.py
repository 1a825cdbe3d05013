"""The edge that is measured: `python -m scripts.bench_latency.edge_process`, a process of its own.

It runs at the edge's end of the link (in a network namespace where there is one), has a uvloop of its own as
`edge-client` has, and measures with its own clock. It reads the client's options from the first line of standard input
and then one `Ask` a line; it answers each with an `Answer`. The end of standard input ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Final

import uvloop

from edge_client.app import Client, ClientOptions, GenerationFailedError
from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.recorder import Clock, Recorder
from scripts.bench_latency.wire import OPEN, REFUSED, Answer, Ask
from shared.errors import UserError

LONGEST_LINE: Final = 1 << 24


async def serve() -> None:
    """Answer until standard input ends, or SIGTERM: then the generation of the moment is cancelled."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("a coroutine runs in a task")
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async with Client(decode(ClientOptions, json.loads(await reader.readline()))) as client:
            _say(f"{OPEN} {client.info.name}")
            while line := await reader.readline():
                answer = await _answer(client, decode(Ask, json.loads(line)))
                _say(json.dumps(encode(answer), allow_nan=False))
    except UserError as error:
        _say(f"{REFUSED} {error}")


async def _answer(client: Client, ask: Ask) -> Answer:
    began = time.monotonic_ns()
    clock, recorder = Clock(began), Recorder(began)
    try:
        result = await client.generate(
            ask.options,
            on_tokens=lambda tokens: clock.committed(time.monotonic_ns(), len(tokens)),
            observe=recorder,
        )
    except GenerationFailedError as error:
        return Answer(error=str(error))
    return Answer(
        tokens=result.tokens,
        finish_reason=result.finish_reason,
        commits=clock.commits,
        stats=replace(result.stats, servers=()),  # addresses are never written into results
        forwards=recorder.forwards,
        verify_ms=recorder.verify_ms,
        queue_ms=recorder.queue_ms,
        picture=recorder.picture() if ask.picture else None,
        notes=result.notes,
    )


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Nothing is said but answers: the benchmark reads standard output."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(serve())


if __name__ == "__main__":
    main()
