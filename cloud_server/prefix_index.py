"""Who holds which beginning of a log: a tree over blocks of tokens, with the caches that reach each of them.

A block's key is its tokens themselves, so what is found is equal and not merely of equal hash. Looking a log up costs
one dictionary access per block that somebody holds.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cloud_server.kv_cache import SessionCache

BLOCK_TOKENS: Final = 64
MOST_CANDIDATES: Final = 8
"""Of the caches that share as many blocks with a log, the youngest so many are compared further."""


@dataclass(slots=True, eq=False)
class Block:
    """The beginning that ends with one block."""

    key: bytes = b""
    parent: Block | None = None
    children: dict[bytes, Block] = field(default_factory=dict)
    holders: dict[SessionCache, None] = field(default_factory=dict)
    """In the order in which they came to hold it."""


class PrefixIndex:
    """All holders of one verifier."""

    def __init__(self) -> None:
        self._root = Block()

    @property
    def empty(self) -> bool:
        return not self._root.children

    def enter(self, holder: SessionCache) -> None:
        """Note the whole blocks that a holder's trunk has grown by."""
        trunk, blocks = holder.trunk, holder.blocks
        for begin in range(len(blocks) * BLOCK_TOKENS, len(trunk) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            parent, key = blocks[-1] if blocks else self._root, _key(trunk, begin)
            block = parent.children.get(key)
            if block is None:
                block = parent.children[key] = Block(key, parent)
            block.holders[holder] = None
            blocks.append(block)

    def find(self, log: Sequence[int], length: int, below: Sequence[Block]) -> tuple[list[SessionCache], int]:
        """Who shares most whole blocks with `log[:length]`, and how many tokens these are. Only beginnings longer than
        `below`, blocks that the log is known to begin with, are looked for: ([], 0) if there is none.
        """
        block, tokens = below[-1] if below else self._root, len(below) * BLOCK_TOKENS
        while tokens + BLOCK_TOKENS <= length:
            deeper = block.children.get(_key(log, tokens))
            if deeper is None:
                break
            block, tokens = deeper, tokens + BLOCK_TOKENS
        if tokens == len(below) * BLOCK_TOKENS:
            return [], 0
        return list(islice(reversed(block.holders), MOST_CANDIDATES)), tokens


def leave(holder: SessionCache, length: int = 0) -> None:
    """Forget that a holder has more than its first `length` tokens."""
    while len(holder.blocks) > length // BLOCK_TOKENS:
        block = holder.blocks.pop()
        del block.holders[holder]
        # Whoever held something below held this block too, so nothing hangs from it any more.
        if not block.holders and block.parent is not None:
            del block.parent.children[block.key]


def common_prefix(ours: Sequence[int], theirs: Sequence[int], most: int, begin: int = 0) -> int:
    """How many of the first `most` tokens are equal; the first `begin` are known to be."""
    for at in range(begin, most, BLOCK_TOKENS):
        end = min(at + BLOCK_TOKENS, most)
        if list(ours[at:end]) != list(theirs[at:end]):
            return next(i for i in range(at, end) if ours[i] != theirs[i])
    return max(begin, most)


def _key(tokens: Sequence[int], begin: int) -> bytes:
    return array("I", tokens[begin : begin + BLOCK_TOKENS]).tobytes()
