"""An emulated link by whatever means this machine allows: one interface over three enforcers.

with emulated_link(find_profile("lte")) as link:
    address = link.edge_address("127.0.0.1:50051")
    subprocess.run(link.edge_command(["edge-client", ..., address]))
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from scripts.wan.choose import Choice, Enforcer, choose_enforcer
from scripts.wan.process import EmulatorProcess, emulator_process
from scripts.wan.profiles import WanProfile
from scripts.wan.traffic import Traffic

__all__ = ["Choice", "EmulatedLink", "Enforcer", "choose_enforcer", "emulated_link"]


class EmulatedLink(Protocol):
    """A running link."""

    @property
    def choice(self) -> Choice:
        """What enforces it."""
        ...

    def edge_command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` at the edge's end."""
        ...

    def edge_address(self, server: str) -> str:
        """What a program at the edge's end dials to reach `server` (HOST:PORT, as seen from this host)."""
        ...

    def traffic(self) -> Traffic:
        """What came out of the link so far."""
        ...

    def hold(self, seconds: float) -> None:
        """For that long nothing comes out at either end; nothing is lost by it."""
        ...

    def cut(self) -> int:
        """Reset every connection; returns how many."""
        ...


ENTER: Final = Path(__file__).with_name("enter.py")


@contextlib.contextmanager
def emulated_link(
    profile: WanProfile, enforcer: Enforcer | None = None, seed: int = 0
) -> Iterator[EmulatedLink]:
    """A link while the block is entered. To be called on the main thread: the kernel ends the emulator with its thread.

    Args:
        enforcer: None: the best that this machine allows.
        seed: keys jitter and loss.

    Raises:
        UserError: the machine does not allow the enforcer asked for.
        ChildError: the emulator does not come up.
    """
    with running_link(profile, choose_enforcer(enforcer), seed) as link:
        yield link


@contextlib.contextmanager
def running_link(profile: WanProfile, choice: Choice, seed: int = 0) -> Iterator[RunningLink]:
    """The same with what a measurement of the link itself needs."""
    with emulator_process(choice.enforcer, profile, seed) as emulator:
        yield RunningLink(choice, emulator)


class RunningLink:
    """An emulator in a process of its own."""

    def __init__(self, choice: Choice, emulator: EmulatorProcess) -> None:
        self.choice = choice
        self._emulator = emulator
        self._addresses: dict[str, str] = {}
        self._edge: str | None = None
        self._cloud: str | None = None
        self.cloud_host: str | None = None
        """Where a program at the cloud's end listens; None: there is no such end."""
        if choice.enforcer is not Enforcer.PROXY:
            self._edge, self._cloud, self.cloud_host = emulator.process.address.split()

    def edge_command(self, argv: Sequence[str]) -> list[str]:
        """See `EmulatedLink`."""
        return _command_in(self._edge, argv)

    def cloud_command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` at the cloud's end, before any relay."""
        return _command_in(self._cloud, argv)

    def edge_address(self, server: str) -> str:
        """See `EmulatedLink`."""
        if server not in self._addresses:
            self._addresses[server] = self._emulator.reach(server)
        return self._addresses[server]

    def traffic(self) -> Traffic:
        """See `EmulatedLink`."""
        return self._emulator.traffic()

    def hold(self, seconds: float) -> None:
        """See `EmulatedLink`."""
        self._emulator.hold(seconds)

    def cut(self) -> int:
        """See `EmulatedLink`."""
        return self._emulator.cut()


def _command_in(namespace: str | None, argv: Sequence[str]) -> list[str]:
    if namespace is None:  # both ends are this host
        return list(argv)
    return [sys.executable, "-I", "-S", str(ENTER), namespace, *argv]
