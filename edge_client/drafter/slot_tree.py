"""Which slot of the key/value buffer holds which token of which path. Pure bookkeeping: no tensor, no onnxruntime.

Laws of this file:

1. A slot is a node: its token and its parent's slot say which path it ends, so it can be found again by walking down
   from the start. A parent lies in an earlier slot than its children.
2. The trunk is the path that follows the log; it is a path like any other. Cutting it back computes nothing and loses
   nothing, and a drafted path that is committed becomes trunk where it lies (design law 6: there is no rewind).
3. A slot is dead when it is neither trunk nor below the trunk's end. Dead slots are hidden from every later token.
   Those behind the trunk go as soon as the log leaves the tree, those within it when `compact` is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

HIDDEN: Final = np.float32(-1e9)
"""Additive attention bias of what a token may not see: finite, so that no kernel meets inf - inf."""


class SlotTree:
    """The tree of computed tokens over slots 0..used-1."""

    def __init__(self, capacity: int) -> None:
        self.tokens: list[int] = []
        self.parents: list[int | None] = []
        self.positions: list[int] = []
        """Of each used slot: its token, its parent's slot (None: first token of a log), its depth from 0."""
        self.trunk: list[int] = []
        """Slot of each cached log token, ascending."""
        self.trunk_bias: NDArray[np.float32] = np.full(capacity, HIDDEN, np.float32)
        """[capacity]: 0 where the slot is trunk, `HIDDEN` elsewhere."""
        self._children: dict[tuple[int | None, int], int] = {}
        self._log: Sequence[int] = ()

    @property
    def used(self) -> int:
        return len(self.tokens)

    @property
    def end(self) -> int | None:
        """Slot of the trunk's last token."""
        return self.trunk[-1] if self.trunk else None

    def place(self, start: int | None, tokens: Iterable[int]) -> int | None:
        """Walks down from `start`, adding what is not there yet; returns the last slot."""
        slot, children = start, self._children
        for token in tokens:
            below = children.get((slot, token))
            slot = self.add(slot, token) if below is None else below
        return slot

    def add(self, parent: int | None, token: int) -> int:
        """Takes the next free slot for a child that is not there yet."""
        slot = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.positions.append(0 if parent is None else self.positions[parent] + 1)
        self._children[parent, token] = slot
        return slot

    def branch(self, slot: int | None) -> list[int]:
        """The slots from `slot` up to, and not including, the trunk's end."""
        end, parents = self.end, self.parents
        above: list[int] = []
        while slot is not None and slot != end:
            above.append(slot)
            slot = parents[slot]
        return above

    def follow(self, log: Sequence[int], length: int) -> None:
        """Makes the trunk the longest computed prefix of `log[:length]`: O(new tokens) while the log object stays."""
        if log is not self._log:
            self.cut(self._common_length(log, length))
            self._log = log
        elif length < len(self.trunk):
            self.cut(length)
        while len(self.trunk) < length:
            slot = self._children.get((self.end, log[len(self.trunk)]))
            if slot is None:
                self.drop_branches()
                return
            self.trunk.append(slot)
            self.trunk_bias[slot] = 0.0

    def cut(self, length: int) -> None:
        """Takes what follows the first `length` tokens off the trunk. It stays a branch."""
        self.trunk_bias[self.trunk[length:]] = HIDDEN
        del self.trunk[length:]

    def drop_branches(self) -> None:
        """Frees every slot behind the trunk's end; the dead ones within the trunk stay."""
        first = 0 if self.end is None else self.end + 1
        for slot in range(first, self.used):
            del self._children[self.parents[slot], self.tokens[slot]]
        self._forget_from(first)

    def grow(self, capacity: int) -> None:
        """More slots behind those there are."""
        fresh = np.full(capacity - len(self.trunk_bias), HIDDEN, np.float32)
        self.trunk_bias = np.concatenate([self.trunk_bias, fresh])

    def compact(self) -> tuple[int, list[int]]:
        """Renumbers the living slots without gaps.

        Returns:
            (first, sources): what lay in `sources[i]` belongs into slot `first + i`; slots below `first` stay.
        """
        living = self._living()
        first = next((i for i, slot in enumerate(living) if slot != i), len(living))
        sources = living[first:]
        moved = {old: first + i for i, old in enumerate(sources)}
        tokens = [self.tokens[old] for old in sources]
        positions = [self.positions[old] for old in sources]
        kept = [self.parents[old] for old in sources]
        parents = [parent if parent is None else moved.get(parent, parent) for parent in kept]
        for slot in range(first, self.used):
            del self._children[self.parents[slot], self.tokens[slot]]
        self._forget_from(first)
        self.tokens += tokens
        self.positions += positions
        self.parents += parents
        self._children.update({(parents[i], tokens[i]): first + i for i in range(len(sources))})
        self.trunk = [moved.get(slot, slot) for slot in self.trunk]
        self.trunk_bias[first:] = HIDDEN
        self.trunk_bias[self.trunk] = 0.0
        return first, sources

    def _living(self) -> list[int]:
        alive = [False] * self.used
        for slot in self.trunk:
            alive[slot] = True
        for slot in range(0 if self.end is None else self.end + 1, self.used):
            parent = self.parents[slot]
            if parent is None:
                alive[slot] = not self.trunk
            else:
                alive[slot] = alive[parent] and self.positions[parent] >= len(self.trunk) - 1
        return [slot for slot in range(self.used) if alive[slot]]

    def _forget_from(self, first: int) -> None:
        del self.tokens[first:], self.parents[first:], self.positions[first:]

    def _common_length(self, log: Sequence[int], length: int) -> int:
        known = [self.tokens[slot] for slot in self.trunk[:length]]
        if known == list(log[: len(known)]):
            return len(known)
        return next(i for i, token in enumerate(known) if token != log[i])
