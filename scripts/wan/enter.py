"""Run a program in a network namespace: `python -I -S enter.py PATH[,PATH] PROGRAM ...`, entered in that order.

Stands alone (no imports of the project) so that it starts in a few milliseconds; becomes the program, so that signals,
exit codes and the kernel's signal at a parent's death reach it as if it had been started directly.
"""

from __future__ import annotations

import ctypes
import os
import sys

ANY_KIND = 0


def main(paths: str, command: list[str]) -> None:
    """Enter and become.

    Raises:
        OSError: there is no such namespace (its emulator has ended), or this user may not enter it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    namespaces = [(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)) for path in paths.split(",")]
    for path, namespace in namespaces:
        if libc.setns(namespace, ANY_KIND) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {path}")
    os.execvp(command[0], command)  # noqa: S606 - an argument list, as everywhere here


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
