"""The thread that the drafter lives in: one forward at a time, never on the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from edge_client.drafter.interface import Drafter
from shared.policy.expansion import Candidate
from shared.sampling import SamplingParams
from shared.session.edge import Forward

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Drafted:
    """What a forward brought: candidates for each of its paths, or the error that it died of."""

    results: Sequence[Sequence[Candidate]] | Exception


class ModelThread:
    """Runs one drafter for any number of sessions; their forwards queue up. Used on one event loop."""

    def __init__(self, floor_ms: float = 0.0) -> None:
        """`floor_ms`: emulation of a slower device. A forward lasts at least as long, by sleeping in this thread."""
        self._floor_s = floor_ms / 1000
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drafter")
        self._closing = threading.Event()

    def sleep(self, seconds: float) -> None:
        """Sleep in this thread; `close` cuts it short, so that no emulation holds up the end of the process."""
        if seconds > 0.0:
            self._closing.wait(seconds)

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` in this thread, such as loading the drafter."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def forward(
        self, drafter: Drafter, request: Forward, sampling: SamplingParams, post: Callable[[Drafted], None]
    ) -> None:
        """Queue a forward; `post` is called on the event loop when it is done."""
        loop = asyncio.get_running_loop()

        def done(future: Future[Drafted]) -> None:
            if not self._closing.is_set():  # afterwards nobody is left to be told, and the loop may be closed
                loop.call_soon_threadsafe(post, future.result())

        self._executor.submit(self._forward, drafter, request, sampling).add_done_callback(done)

    def _forward(self, drafter: Drafter, request: Forward, sampling: SamplingParams) -> Drafted:
        began = time.perf_counter()
        try:
            answer = drafter.forward(request.log, request.log_length, request.paths, sampling, request.width)
        except Exception as error:  # noqa: BLE001 - whatever a model library raises: it is told, not dropped
            return Drafted(error)
        self.sleep(self._floor_s - (time.perf_counter() - began))
        return Drafted(answer)

    async def close(self) -> None:
        """Wait for the forward that is out (a model cannot be interrupted, a sleep is), drop those that queue."""
        self._closing.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
