"""An emulator in a process of its own, with its verbs: neither the edge's nor the server's event loop disturbs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.processes import Child, ChildError, child, python
from scripts.wan.profile_file import profile_to_json
from scripts.wan.profiles import WanProfile
from scripts.wan.traffic import Traffic

ANSWER_S = 10.0
"""How long a verb may take."""


@dataclass(frozen=True, slots=True)
class EmulatorProcess:
    """A running emulator of any kind."""

    process: Child

    def reach(self, server: str) -> str:
        """HOST:PORT at the edge's end behind which `server` is."""
        return self._ask(f"reach {server}")

    def hold(self, seconds: float) -> None:
        """For that long nothing comes out of the link at either end."""
        self._ask(f"hold {seconds:f}")

    def cut(self) -> int:
        """Reset every connection at both ends; returns how many."""
        return int(self._ask("cut"))

    def traffic(self) -> Traffic:
        """What came out of the link so far."""
        return Traffic.from_json(self._ask("traffic"))

    def _ask(self, verb: str) -> str:
        self.process.write(verb)
        word, _, rest = self.process.line(ANSWER_S).partition(" ")
        if word != "ok":
            raise ChildError(f"{self.process.name}: {verb}: {rest}")
        return rest


@dataclass(frozen=True, slots=True)
class WanProcess(EmulatorProcess):
    """A running proxy to one target."""

    address: str
    """HOST:PORT to connect to instead of the target's."""


@contextlib.contextmanager
def emulator_process(enforcer: str, profile: WanProfile, seed: int = 0) -> Iterator[EmulatorProcess]:
    """An emulator while the block is entered.

    Raises:
        ChildError: it does not come up.
    """
    command = python("-m", "scripts.wan", "serve", enforcer, profile_to_json(profile), "--seed", str(seed))
    with child("WAN emulator", command) as process:
        yield EmulatorProcess(process)


@contextlib.contextmanager
def wan_process(target: str, profile: WanProfile, seed: int = 0) -> Iterator[WanProcess]:
    """A proxy to `target` (HOST:PORT) while the block is entered.

    Raises:
        ChildError: it does not come up.
    """
    with emulator_process("proxy", profile, seed) as emulator:
        yield WanProcess(emulator.process, emulator.reach(target))
