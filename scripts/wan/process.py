"""The proxy in a process of its own, with its verbs: neither the edge's nor the server's event loop disturbs it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.processes import Child, ChildError, child, python
from scripts.wan.connection import Traffic
from scripts.wan.profiles import WanProfile

ANSWER_S = 5.0
"""How long a verb may take."""


@dataclass(frozen=True, slots=True)
class WanProcess:
    """A running proxy."""

    process: Child

    @property
    def address(self) -> str:
        """HOST:PORT to connect to instead of the target's."""
        return self.process.address

    def hold(self, seconds: float) -> None:
        """See `DelayProxy.hold`."""
        self._ask(f"hold {seconds}")

    def cut(self) -> int:
        """See `DelayProxy.cut`."""
        return int(self._ask("cut"))

    def traffic(self) -> Traffic:
        """What came out of the link so far."""
        return Traffic(**json.loads(self._ask("traffic")))

    def _ask(self, verb: str) -> str:
        self.process.write(verb)
        word, _, rest = self.process.line(ANSWER_S).partition(" ")
        if word != "ok":
            raise ChildError(f"{self.process.name}: {verb}: {rest}")
        return rest


@contextlib.contextmanager
def wan_process(target: str, profile: WanProfile, seed: int = 0) -> Iterator[WanProcess]:
    """A proxy to `target` (HOST:PORT) while the block is entered.

    Raises:
        ChildError: it does not come up.
    """
    figures = ("rtt_ms", "jitter_ms", "up_kbit", "down_kbit")
    options = [
        part for name in figures for part in (f"--{name.replace('_', '-')}", str(getattr(profile, name)))
    ]
    if profile.handover is not None:
        handover = profile.handover
        options += ["--handover", f"{handover.every_s},{handover.lasts_ms},{handover.extra_rtt_ms}"]
    command = python(
        "-m", "scripts.wan", "proxy", "--target", target, "--seed", str(seed), "--control", *options
    )
    with child("WAN emulator", command) as process:
        yield WanProcess(process)
