"""Ctrl-C while a command is still being imported.

Imported before everything else, and itself in no time: what it needs, the interpreter has loaded already.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130
"""Exit code of a command that was ended by Ctrl-C, as shells report it."""


class Silent:
    """A block in which Ctrl-C ends the process at once and without a word.

    A KeyboardInterrupt in the middle of an import comes out as a traceback, or as whatever a compiled module makes of
    it. For imports in the main thread only: nothing is tidied up.
    """

    def __enter__(self) -> None:
        """Who started this in the background wants Ctrl-C ignored; who set a handler of their own knows why."""
        self._ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, _end)

    def __exit__(self, *_: object) -> None:
        """Ctrl-C is a KeyboardInterrupt again."""
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
