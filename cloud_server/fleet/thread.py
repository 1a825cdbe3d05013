"""A worker in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cloud_server.fleet.member import Answered, Description, Raised, Report
from cloud_server.worker import Movable, StateError, Worker
from shared.step import Step, StepOutcome

log = logging.getLogger(__name__)

Value = TypeVar("Value")


class ModelThread:
    """One worker and the thread that drives it. Made and used on one event loop."""

    def __init__(self, worker: Worker, name: str = "model") -> None:
        self.worker = worker
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def step(self, step: Step, done: Callable[[StepOutcome | Exception], None]) -> None:
        """Perform a step; `done` is called on the event loop. What raised is logged here, with its traceback."""
        loop = asyncio.get_running_loop()

        def finished(future: Future[StepOutcome]) -> None:
            error = future.exception()
            if error is None:
                loop.call_soon_threadsafe(done, future.result())
                return
            log.error("step %d failed", step.number, exc_info=error)
            loop.call_soon_threadsafe(
                done, error if isinstance(error, Exception) else RuntimeError(repr(error))
            )

        self._thread.submit(self.worker.step, step).add_done_callback(finished)

    async def export_state(self, session: int) -> bytes | None:
        """See `Member.export_state`."""
        worker = self.worker
        return await self._call(lambda: worker.export_state(session)) if isinstance(worker, Movable) else None

    async def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        """See `Member.import_state`."""
        worker = self.worker
        if not isinstance(worker, Movable):
            raise StateError("this worker takes nothing over")
        return await self._call(lambda: worker.import_state(session, log, state))

    async def close(self) -> None:
        """Wait for the step that runs, which cannot be interrupted but is bounded; then free the model."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self.worker.close()

    async def _call(self, function: Callable[[], Value]) -> Value:
        """Raises `StateError`, whatever it is that goes wrong: nothing but time is lost with a state."""
        try:
            return await asyncio.wrap_future(self._thread.submit(function))
        except StateError:
            raise
        except Exception as error:
            log.exception("moving a session's state failed")
            raise StateError(f"{type(error).__name__}: {error}") from error


class ThreadMember:
    """See `Member`. A thread cannot be lost alone, nor be replaced."""

    def __init__(self, worker: Worker, name: str) -> None:
        self._thread = ModelThread(worker)
        self._description = Description(worker.info, worker.kv_tokens, name)
        self._report: Callable[[Report], None] | None = None

    @property
    def description(self) -> Description:
        """See `Member.description`."""
        return self._description

    def begin(self, report: Callable[[Report], None]) -> None:
        """See `Member.begin`."""
        self._report = report

    def submit(self, step: Step) -> None:
        """See `Member.submit`."""
        self._thread.step(step, self._done)

    async def export_state(self, session: int) -> bytes | None:
        """See `Member.export_state`."""
        return await self._thread.export_state(session)

    async def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        """See `Member.import_state`."""
        return await self._thread.import_state(session, log, state)

    async def close(self, *, kill: bool) -> str:
        """See `Member.close`."""
        await self._thread.close()
        return ""

    def _done(self, result: StepOutcome | Exception) -> None:
        if self._report is None:
            raise RuntimeError("a step before `begin`")
        if isinstance(result, Exception):
            self._report(Raised(type(result).__name__, str(result)))
        else:
            self._report(Answered(result))


class ThreadPlace:
    """See `Place`: holds a worker that was made before."""

    local = True

    def __init__(self, worker: Worker, name: str = "this process") -> None:
        self.name = name
        self._worker = worker

    async def open(self) -> ThreadMember:
        """See `Place.open`."""
        return ThreadMember(self._worker, self.name)

    async def close(self) -> None:
        """See `Place.close`."""
