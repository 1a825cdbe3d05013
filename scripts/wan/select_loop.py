"""A loop over `select`: the one call of its kind that takes microseconds (poll and epoll round to milliseconds).

Smaller than asyncio for a reason: what happens between the kernel's word and the callback is delay that nobody
asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import time
from collections.abc import Callable
from typing import Final, Protocol

PR_SET_TIMERSLACK: Final = 29
TIMER_SLACK_NS: Final = 1000
"""How late the kernel may wake this process up for its own convenience; it allows itself 50,000."""
EARLY_NS: Final = 100_000
"""A sleeping processor wakes up about this late: the loop asks for so much less, and then looks without sleeping."""


class Timed(Protocol):
    """What has things to do at a time."""

    def next_due(self) -> int | None:
        """When (ns, monotonic); None: there is nothing."""
        ...

    def run_due(self) -> None:
        """Do all that is due now, if anything is."""
        ...


class SelectLoop:
    """Callbacks by file descriptor, up to number 1023, and one `Timed` thing, never run early."""

    def __init__(self, timed: Timed) -> None:
        self._timed = timed
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._stopped = False

    def read(self, fd: int, callback: Callable[[], None] | None) -> None:
        """Call when `fd` can be read; None: no more."""
        _set(self._readers, fd, callback)

    def write(self, fd: int, callback: Callable[[], None] | None) -> None:
        """Call when `fd` can be written; None: no more."""
        _set(self._writers, fd, callback)

    def stop(self) -> None:
        """Return from `run` after the present round."""
        self._stopped = True

    def run(self) -> None:
        """Until `stop`."""
        readers, writers, timed = self._readers, self._writers, self._timed
        while not self._stopped:
            due = timed.next_due()
            timeout = None if due is None else max(0.0, (due - time.monotonic_ns() - EARLY_NS) / 1e9)
            readable, writable, _ = select.select(list(readers), list(writers), [], timeout)
            if due is not None:
                timed.run_due()
            ready = [(fd, readers[fd], readers) for fd in readable]
            ready += [(fd, writers[fd], writers) for fd in writable]
            for fd, callback, callbacks in ready:
                # An earlier callback of this round may have closed it, and its number may stand for another by now.
                if callbacks.get(fd) is callback:
                    callback()


def _set(callbacks: dict[int, Callable[[], None]], fd: int, callback: Callable[[], None] | None) -> None:
    if callback is None:
        callbacks.pop(fd, None)
    else:
        callbacks[fd] = callback


def be_punctual() -> None:
    """Ask the kernel to wake this process up when it asked for it, as far as the user may."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS)
    # An emulator needs little of the processor, but when it is due: what it carries must not wait for who measures it.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    gc.freeze()  # what has been imported is never looked at again
