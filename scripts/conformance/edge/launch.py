"""How an edge is started: any command line that generates once and ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from scripts.conformance.edge.cloud import SECRET, SESSION
from scripts.conformance.rules import BrokenError
from scripts.processes import Child, ChildError, child


class Running(Protocol):
    """An edge that generates."""

    def interrupt(self) -> None:
        """Its user has had enough."""

    def wait(self, within_s: float) -> int:
        """Its exit code, once it has ended: 0 for a generation that came to its end. Raises `BrokenError`."""

    def report(self) -> str:
        """What is to be told of it when it does not do what it is to do; empty: nothing."""


class Edge(Protocol):
    """An edge implementation."""

    def start(self, server: str, tokens: int) -> AbstractContextManager[Running]:
        """Continue some prompt by at most `tokens` tokens with the server at HOST:PORT, while the block is entered."""


@dataclass(frozen=True, slots=True)
class CommandEdge:
    """An edge that is a program. Started from the main thread only."""

    command: str
    """Split as a shell does, with {server} and {tokens} where these go; an assistant's with {server}, {session} and
    {secret_file}, which names a file.
    """

    @contextlib.contextmanager
    def start(self, server: str, tokens: int) -> Iterator[Running]:
        """See `Edge`."""
        with tempfile.NamedTemporaryFile("w", suffix=".secret") as secret:  # readable by its owner alone
            secret.write(SECRET)
            secret.flush()
            values = {"server": server, "tokens": tokens, "session": SESSION, "secret_file": secret.name}
            words = [word.format(**values) for word in shlex.split(self.command)]
            with child("the edge", words, ready_s=None, grace_s=2.0) as running:
                yield _Process(running)


@dataclass(frozen=True, slots=True)
class _Process:
    running: Child

    def interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.running.pid, signal.SIGINT)

    def wait(self, within_s: float) -> int:
        try:
            return self.running.wait(within_s)
        except ChildError as error:
            raise BrokenError(str(error)) from error

    def report(self) -> str:
        try:
            self.running.check()
        except ChildError as error:
            return f": {error}"
        return ""
