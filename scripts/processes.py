"""Child processes that never outlive their parent: servers and proxies for demo, benchmarks and tests.

A child runs in a process group of its own (Ctrl-C reaches the parent, which stops its children in order), is asked to
end and then killed, and on Linux the kernel kills it when its parent dies without a word: this file, run as a script,
asks for that signal (PR_SET_PDEATHSIG) and becomes the command. The kernel means the *thread* that started the child,
so `child` insists on the main thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parent.parent
READY: Final = "listening on "
PR_SET_PDEATHSIG: Final = 1
STDERR_LINES: Final = 40
"""What is kept of a child's last words."""


class ChildError(RuntimeError):
    """A child did not come up, broke down or does not answer; the message ends with its last words."""


class Child:
    """A running process. Made by `child`."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Starts the process."""
        self.name = name
        self.address = ""
        """HOST:PORT that it said it listens on."""
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
        self._stdin, self._stdout, self._stderr = _pipes(self._process)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES)
        self._readers = [
            threading.Thread(target=self._read_out, daemon=True),
            threading.Thread(target=self._last_words.extend, args=(self._stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def check(self) -> None:
        """Whether it still runs.

        Raises:
            ChildError: it does not.
        """
        if not self.running:
            raise ChildError(self._report(f"ended with exit code {self._process.poll()}"))

    def wait(self, deadline_s: float) -> int:
        """Its exit code, once it has ended.

        Raises:
            ChildError: it goes on for `deadline_s` seconds.
        """
        try:
            return self._process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise ChildError(self._report(f"goes on for {deadline_s:g} s")) from None

    def line(self, deadline_s: float) -> str:
        """Its next line on standard output, without the line's end.

        Raises:
            ChildError: it ended, or said nothing for `deadline_s` seconds.
        """
        try:
            line = self._lines.get(timeout=deadline_s)
        except queue.Empty:
            raise ChildError(self._report(f"says nothing for {deadline_s:g} s")) from None
        if line is None:
            # The end of its output comes shortly before its exit code; a child that closed it and lives on is stuck.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=deadline_s)
            raise ChildError(self._report(f"ended with exit code {self._process.poll()}"))
        return line.rstrip("\n")

    def wait_ready(self, deadline_s: float) -> None:
        """Read until it says where it listens; sets `address`.

        Raises:
            ChildError: it does not within `deadline_s` seconds.
        """
        end = time.monotonic() + deadline_s
        while not self.address:
            line = self.line(max(end - time.monotonic(), 0.0))
            if line.startswith(READY):
                self.address = line.removeprefix(READY).strip()

    def write(self, line: str) -> None:
        """Put a line on its standard input.

        Raises:
            ChildError: it reads no more.
        """
        try:
            self._stdin.write(line + "\n")
            self._stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise ChildError(self._report("reads no more")) from error

    def stop(self, grace_s: float) -> None:
        """Ask its process group to end, kill it after `grace_s` seconds or when this wait is interrupted."""
        try:
            if self.running:
                _signal_group(self.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=grace_s)
        finally:
            _signal_group(self.pid, signal.SIGKILL)  # the group may hold more than the child
            self._process.wait()
            for reader in self._readers:
                reader.join(timeout=1.0)
            for stream in (self._stdin, self._stdout, self._stderr):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _read_out(self) -> None:
        for line in self._stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _report(self, what: str) -> str:
        if not self.running:
            self._readers[1].join(timeout=1.0)
        words = "".join(self._last_words).strip()
        return f"{self.name} {what}" + (f":\n{words}" if words else "")


@contextlib.contextmanager
def child(
    name: str,
    command: Sequence[str],
    *,
    ready_s: float | None = 60.0,
    grace_s: float = 8.0,
) -> Iterator[Child]:
    """Run `command` in the repository's root while the block is entered.

    Args:
        name: what messages call it.
        command: program and arguments.
        ready_s: how long it may take until it says `listening on HOST:PORT`; None: it is not waited for.
        grace_s: how long it may take to end when it is asked to.

    Raises:
        ChildError: it does not come up.
        RuntimeError: called from another than the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "children are started from the main thread: the kernel kills them when their thread ends"
        )
    tie = [sys.executable, "-I", "-S", __file__, str(os.getpid())] if sys.platform == "linux" else []
    running = Child(name, [*tie, *command])
    try:
        if ready_s is not None:
            running.wait_ready(ready_s)
        yield running
    finally:
        running.stop(grace_s)


def python(*arguments: str) -> list[str]:
    """The command line that runs this interpreter with `arguments`."""
    return [sys.executable, *arguments]


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str], IO[str]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError("all three were asked for")
    return process.stdin, process.stdout, process.stderr


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _become(parent: int, command: list[str]) -> None:
    """Ask the kernel for SIGKILL at the parent's death, then become `command`: the request survives that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before the request
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - an argument list, as everywhere here


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
