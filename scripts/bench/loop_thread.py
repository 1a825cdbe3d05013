"""An event loop in a thread of its own, so that sides that block and sides that await can take turns."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for a thread that waits for them; what was entered is left in reverse order at the end."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._stack = contextlib.AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.call(self._stack.aclose())
            self.call(self._loop.shutdown_default_executor())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end and hand over its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def enter(self, manager: contextlib.AbstractAsyncContextManager[T]) -> T:
        """Enter `manager` on the loop until this block is left."""
        return self.call(self._stack.enter_async_context(manager))
