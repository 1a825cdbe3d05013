"""One child process: its last words, how it ended, and that it does end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO, Final

LINES: Final = 40
"""What is kept of a child's last words."""
MOMENT_S: Final = 0.2
"""Between the break of a connection and what the kernel tells of the process at its other end."""


class Child:
    """A running process that ends when its standard input does. Made and used on one event loop.

    A process group of its own: Ctrl-C reaches the parent alone, which stops its children in order.
    """

    def __init__(self, command: Sequence[str], *, aloud: bool) -> None:
        """Starts it. `aloud`: what it says on standard error is repeated here from the beginning."""
        self.aloud = aloud
        self._process = subprocess.Popen(  # noqa: S603 - this product's own programs
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._words: deque[str] = deque(maxlen=LINES)
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        threading.Thread(target=self._listen, name=f"child {self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; negative: the signal that ended it; None: it runs."""
        return self._process.returncode if self._ended.is_set() else None

    @property
    def words(self) -> list[str]:
        """The last lines that it said."""
        return list(self._words)

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = self.code
        if code is None:
            return f"process {self.pid} runs"
        if code < 0:
            return f"process {self.pid} was ended by {signal.Signals(-code).name}"
        return f"process {self.pid} ended with exit code {code}"

    async def ended(self) -> None:
        """Wait for its end."""
        await self._ended.wait()

    async def stop(self, grace_s: float) -> None:
        """Let it go; kill it if it has not ended after so long, or when this wait is interrupted."""
        stdin = self._process.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._ended.wait()
        finally:
            self._process.kill()  # does nothing to one that was waited for
        await self._ended.wait()

    def _listen(self) -> None:
        """In a thread of its own, for there is no other way that works on every event loop."""
        stderr: IO[str] | None = self._process.stderr
        if stderr is None:
            raise AssertionError("it was asked for")
        with stderr:
            for line in stderr:
                self._words.append(line.rstrip("\n"))
                if self.aloud:
                    sys.stderr.write(f"worker process {self.pid}: {line}")
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # nobody is left to tell
            self._loop.call_soon_threadsafe(self._ended.set)
