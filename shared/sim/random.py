"""Randomness keyed by entity and index, never drawn from one generator in event order.

Two policies compared on one seed then meet the same world, however differently they order its events.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

from shared.profiled import mix

T = TypeVar("T")
_salt = lru_cache(maxsize=1 << 14)(mix)
"""Of an index: every entity's draws go through the same ones."""


class Keyed:
    """A stream of numbers that belongs to one named entity."""

    __slots__ = ("_index", "_state")

    def __init__(self, seed: int, *names: str | int) -> None:
        state = mix(seed)
        for name in names:
            # crc32 and not hash(): strings hash differently in every process.
            state = mix(state ^ (name if isinstance(name, int) else zlib.crc32(name.encode())))
        self._state = state
        self._index = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number in [low, high)."""
        self._index += 1
        number = (mix(self._state ^ _salt(self._index)) >> 11) * 2.0**-53  # as `unit` has it
        return low + (high - low) * number

    def integer(self, low: int, high: int) -> int:
        """The next integer in [low, high]."""
        return low + int(self.uniform() * (high - low + 1))

    def skip(self) -> float:
        """Pass over a number that makes no difference: 0."""
        self._index += 1
        return 0.0

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return (self.uniform() if probability > 0.0 else self.skip()) < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.integer(0, len(options) - 1)]
