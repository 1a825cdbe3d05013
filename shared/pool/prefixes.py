"""Which worker has seen which beginning of a log: what makes routing meet a cache. A hint, never a promise."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

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

    def known(self, log: Sequence[int]) -> dict[int, int]:
        """By worker, tokens at the beginning of the log that it has seen; workers that have seen none are left out."""
        tokens: dict[int, int] = {}
        left = self._seen
        for block in _blocks(log, len(log)):
            left = {worker: seen for worker, seen in left.items() if block in seen}
            if not left:
                break  # a long log is not hashed for nothing
            for worker in left:
                tokens[worker] = tokens.get(worker, 0) + BLOCK
        return tokens

    def forget(self, worker: int) -> None:
        """The worker has lost its caches, or is gone."""
        self._seen.pop(worker, None)


def _blocks(log: Sequence[int], length: int) -> Iterator[int]:
    """A hash for each whole block, of everything up to its end. Integers hash alike in every process."""
    value = 0
    for block in range(min(length // BLOCK, MOST_BLOCKS)):
        value = hash((value, *log[block * BLOCK : (block + 1) * BLOCK]))
        yield value
