"""A server in a process of its own, its worker processes, and what can be seen of them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import psutil

from scripts.processes import Child, child, python

_METRIC: Final = re.compile(r"(\w+)(?:\{([^}]*)\})? ([-+.\w]+)")
DEADLINE_S: Final = 60.0


class LateError(RuntimeError):
    """What was waited for did not happen."""


@dataclass(frozen=True, slots=True)
class Held:
    """What processes hold of the system."""

    files: int
    threads: int
    processes: int

    def beyond(self, before: Held) -> Held:
        """What has been added."""
        return Held(
            max(0, self.files - before.files),
            max(0, self.threads - before.threads),
            max(0, self.processes - before.processes),
        )


@dataclass(frozen=True, slots=True)
class Server:
    """One that is up."""

    child: Child
    metrics_address: str

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self.child.address

    @property
    def workers(self) -> list[int]:
        """The numbers of its worker processes."""
        return sorted(process.pid for process in psutil.Process(self.child.pid).children())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over its labels, those that are given aside; `name` without prefix and suffix."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=DEADLINE_S) as page:
            found = _METRIC.findall(page.read().decode())
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(value)
            for full, its, value in found
            if full in {f"slipstream_{name}", f"slipstream_{name}_total"}
            and all(label in its for label in wanted)
        )

    def held(self) -> Held:
        """By the server and all its workers."""
        processes = [psutil.Process(self.child.pid), *map(psutil.Process, self.workers)]
        return Held(
            sum(process.num_fds() for process in processes),
            sum(process.num_threads() for process in processes),
            len(processes),
        )


@contextlib.contextmanager
def server(*options: str) -> Iterator[Server]:
    """Serve with these options of `cloud-server serve` while the block is entered.

    Raises:
        ChildError: it does not come up.
    """
    metrics = f"127.0.0.1:{_free_port()}"
    command = python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--metrics-listen", metrics)
    with child("server", [*command, *options], ready_s=DEADLINE_S) as running:
        yield Server(running, metrics)


async def until(condition: Callable[[], bool], what: str, every_s: float = 0.005) -> float:
    """Wait for it; returns for how long, in seconds.

    Raises:
        LateError: it does not happen.
    """
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > DEADLINE_S:
            raise LateError(f"{what}: not within {DEADLINE_S:g} s")
        await asyncio.sleep(every_s)
    return time.perf_counter() - began


def alive(pid: int) -> bool:
    """Whether a process is there, and is not only waiting to be counted."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
