"""What everything in a deployment shares; its trace is a hash, since nobody could keep or read so long a one."""

from __future__ import annotations

import hashlib

from shared.sim.setting import Faults, Setting

STEPS_PER_CHECK = 64
"""Every so many-th step is held to the law that no fact is asked of two workers."""


class HashedSetting(Setting):
    """A setting that takes note of things without keeping them: equal hashes, equal runs."""

    __slots__ = ("_hash",)

    def __init__(self, seed: int, faults: Faults) -> None:
        super().__init__(seed, faults, through_codec=False, check_every=STEPS_PER_CHECK)
        self._hash = hashlib.sha256()

    def note(self, what: str) -> None:
        """Add a line to the hash."""
        self._hash.update(f"{self.clock.now} {what}\n".encode())

    @property
    def trace_hash(self) -> str:
        """Of everything noted so far."""
        return self._hash.hexdigest()
