"""What keeps a worker's process from outliving the server that started it, whatever happens to that.

On Linux the kernel kills it when the thread that started it ends, stopped or not. Elsewhere, and as a second rope, its
standard input ends when the server does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

PR_SET_PDEATHSIG: Final = 1
MOMENT_S: Final = 3.0
"""To end in order in, once the server wants it or is gone."""


def die_with(parent: int) -> None:
    """Ask the kernel for SIGKILL at the death of `parent`, this process's own.

    Raises:
        OSError: it refuses.
        SystemExit: the parent is dead already.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before it was asked for
        sys.exit(1)


def when_released(stop: Callable[[], object]) -> None:
    """Call `stop`, in a thread of its own, once standard input ends; a moment later the process ends anyway."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        stop()
        time.sleep(MOMENT_S)
        os._exit(1)

    threading.Thread(target=wait, name="tie", daemon=True).start()
