"""Guesses from the session's own log: what followed the last time, where the last few tokens were the same (cloud).

No model: code, quotations and lists repeat themselves (prompt lookup decoding, Saxena 2023; n-gram speculation is a
commonplace since). The guesses are one more source of nodes on the same tree, so they change when a token is
committed, never which (law 2).

What they are worth is measured on every committed token, whether or not a step had room for them: a session in which
they never come true stops to ask for nodes, and one in which they begin to is noticed, at no cost.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST = 2
"""Tokens that must be equal: one alone is worth little, and most of a text is full of them."""
LONGEST = 8
"""Equal tokens beyond which more tell nothing more."""
MOST_GUESSES = 16
"""Length of a chain: what a step of a large target takes in its stride."""
LEAST_CHANCE = 0.02
"""A chain ends where it is less likely than this to be right so far."""


@dataclass(frozen=True, slots=True)
class Guess:
    """One node of a chain, below the one before it."""

    token: int
    chance: float
    """That it is right, given that those before it are: as measured in this session; 0..1."""


class SuffixIndex:
    """Where a short run of tokens occurred before: LZ77's chains of equal hashes over a sliding window (Deflate's).

    A token costs a few operations and the index a fixed number of bytes, however long the log is.
    """

    __slots__ = ("_before", "_heads", "_mask", "_tries", "_window", "length")

    def __init__(self, *, window: int = 1 << 14, tries: int = 8) -> None:
        """`window` (a power of two) is how many tokens back are remembered, `tries` how many places are compared."""
        self._window = window
        self._tries = tries
        self._mask = window - 1
        # An occurrence is named by the length of the prefix that ends with it; 0: none.
        self._heads = array("i", (0,)) * window  # hash -> the last one
        self._before = array("i", (0,)) * window  # an occurrence, modulo the window -> the one before it
        self.length = SHORTEST - 1
        """Tokens of the log that are indexed."""

    def extend(self, log: Sequence[int], length: int) -> None:
        """Index `log[:length]`; what is indexed already must not have changed."""
        heads, before, mask = self._heads, self._before, self._mask
        # What the window has passed over is not worth indexing.
        for end in range(max(self.length + 1, length - self._window), length + 1):
            slot = _hash(log[end - 2], log[end - 1]) & mask
            before[end & mask] = heads[slot]
            heads[slot] = end
        self.length = max(self.length, length)

    def match(self, log: Sequence[int], length: int) -> tuple[int, int] | None:
        """(position, equal tokens): `log[:position]` and `log[:length]` end alike; the longest, then the latest.

        At least `SHORTEST` and at most `LONGEST` tokens are equal; None: they never were, or it is forgotten.
        """
        if length < SHORTEST + 1:
            return None
        end = self._heads[_hash(log[length - 2], log[length - 1]) & self._mask]
        best: tuple[int, int] | None = None
        oldest = length - self._window
        for _ in range(self._tries):
            if end >= length:  # the suffix itself
                end = self._before[end & self._mask]
            if end <= max(oldest, SHORTEST - 1):
                break
            equal = 0
            while equal < min(LONGEST, end) and log[end - 1 - equal] == log[length - 1 - equal]:
                equal += 1
            if equal >= SHORTEST and (best is None or equal > best[1]):
                best = (end, equal)
                if equal == LONGEST:
                    break
            end = self._before[end & self._mask]
        return best


@dataclass(slots=True)
class LookupCounts:
    """What came of the guesses, over all sessions of a server."""

    judged: int = 0
    """Committed tokens for which there was a guess, those among them that no step had room for included."""
    right: int = 0
    """Of these, the guesses that were right."""
    asked: int = 0
    """Facts evaluated at nodes that were guessed in this way alone."""
    accepted: int = 0
    """Committed tokens that no edge's draft had right, and that such a node had."""


class PromptLookup:
    """The guesses of one session, and what they turned out to be worth."""

    memory = 0.97
    """Weight of an outcome, one outcome later."""
    prior = 2.0
    """Weight of what is believed before anything is measured: half of the guesses after two equal tokens are wrong, one
    in ten after eight."""

    def __init__(self, counts: LookupCounts | None = None) -> None:
        self.counts = counts if counts is not None else LookupCounts()
        self._index = SuffixIndex()
        self._settled = 0
        self._chain: list[tuple[int, int]] = []  # (token, equal tokens before it) from position `_settled` on
        self._weight = [0.0] * (LONGEST + 1)
        self._right = [0.0] * (LONGEST + 1)

    def chance(self, equal: int) -> float:
        """That the token after `equal` equal ones is the one that followed before."""
        before = 0.5 + 0.4 * (equal - SHORTEST) / (LONGEST - SHORTEST)
        return (self._right[equal] + self.prior * before) / (self._weight[equal] + self.prior)

    def read(self, log: Sequence[int], length: int) -> None:
        """Index `log[:length]`, which will be the beginning of what is asked about."""
        self._index.extend(log, length)

    def guess(self, log: Sequence[int], length: int) -> list[Guess]:
        """What is likely to follow `log[:length]`, as a chain; every call judges the chain before it."""
        self._judge(log, length)
        self._index.extend(log, length)
        self._chain = []
        found = self._index.match(log, length)
        if found is None:
            return []
        start, equal = found
        guesses: list[Guess] = []
        sofar = 1.0
        for depth in range(MOST_GUESSES):
            known = min(LONGEST, equal + depth)
            chance = self.chance(known)
            sofar *= chance
            if sofar < LEAST_CHANCE and depth:
                break
            source = start + depth
            # Beyond the end of the log the chain repeats itself, as a run of equal tokens does.
            token = log[source] if source < length else guesses[source - length].token
            guesses.append(Guess(token, chance))
            self._chain.append((token, known))
        return guesses

    def _judge(self, log: Sequence[int], length: int) -> None:
        position = self._settled
        for token, equal in self._chain:
            if position >= length:
                break
            right = log[position] == token
            self._weight[equal] = self.memory * self._weight[equal] + 1.0
            self._right[equal] = self.memory * self._right[equal] + right
            self.counts.judged += 1
            self.counts.right += right
            position += 1
            if not right:
                break
        self._settled = length


def _hash(one: int, two: int) -> int:
    mixed = (one * 0x9E3779B1 ^ two * 0x85EBCA6B) & 0xFFFFFFFF
    return mixed ^ mixed >> 15
