"""Work that falls into independent parts, in one process or in several: the same answers, in the parts' order.

The processes never outlive whoever started them: not when it is interrupted, and not when it is killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def spread(function: Callable[[T], R], parts: Sequence[T], jobs: int) -> Generator[R, None, None]:
    """`function` of each part, in the parts' order, as soon as they are ready; `jobs` processes, or this one if 1.

    Function, parts and answers must be picklable, and a part must say all that its answer depends on. Whoever closes
    it before the last answer, or is interrupted, ends the processes at once.
    """
    if jobs == 1 or len(parts) < 2:
        yield from map(function, parts)
        return
    before = set(multiprocessing.active_children())
    # Spawned, not forked: nothing of this process leaks into an answer.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(parts)), context, _tie) as pool:
        try:
            with _no_interrupts():
                futures = [pool.submit(function, part) for part in parts]
            for future in futures:
                yield future.result()
        except BaseException:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """What is started in this block never hears Ctrl-C, not even while it is being imported; we hear it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tie() -> None:
    """A process that has lost its parent would work on for nobody."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise AssertionError("only a child is tied to its parent")
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
