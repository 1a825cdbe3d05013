"""Which worker has seen which beginning of a log: what makes routing meet a cache. A hint, never a promise."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCK = 64
"""Tokens: a beginning is known by whole blocks."""
REMEMBERED = 4096
"""Blocks of one worker; the least recently used are forgotten."""
MOST_BLOCKS = 256
"""Of one log: beyond that much in common it makes no difference who is asked."""


class PrefixDirectory:
    """Beginnings by worker. Two logs whose blocks have the same hash look alike to it: that costs time only."""

    def __init__(self) -> None:
        self._seen: dict[int, OrderedDict[int, None]] = {}

    def note(self, worker: int, log: Sequence[int], length: int) -> None:
        """The worker holds `log[:length]` now."""
        seen = self._seen.setdefault(worker, OrderedDict())
        for block in _blocks(log, length):
            seen[block] = None
            seen.move_to_end(block)
        while len(seen) > REMEMBERED:
            seen.popitem(last=False)

    def known(self, worker: int, log: Sequence[int]) -> int:
        """Tokens at the beginning of the log that the worker has seen."""
        seen, tokens = self._seen.get(worker), 0
        if not seen:
            return 0
        for block in _blocks(log, len(log)):
            if block not in seen:
                break
            tokens += BLOCK
        return tokens

    def forget(self, worker: int) -> None:
        """The worker has lost its caches, or is gone."""
        self._seen.pop(worker, None)


def _blocks(log: Sequence[int], length: int) -> list[int]:
    """A hash for each whole block, of everything up to its end. Integers hash alike in every process."""
    found: list[int] = []
    value = 0
    for block in range(min(length // BLOCK, MOST_BLOCKS)):
        value = hash((value, *log[block * BLOCK : (block + 1) * BLOCK]))
        found.append(value)
    return found
