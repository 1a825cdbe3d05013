"""The cloud's own guesses on a session's tree: a chain below the end, beside whatever the edges draft.

They are nodes as any other, so a fact judges them and settling takes them (law 2). But they are no edge's: they have no
id, count for no limit, no patience and no drafter's figures, and the cloud drops them as it likes. When an edge
proposes the same child, the node becomes its draft (`DraftTree.adopt`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared.policy.lookup import PromptLookup
from shared.session.log import TokenLog
from shared.session.tree import DraftTree, Node, Settlement

MOST_LIVE = 64
"""Guesses alive beyond which none are added. Every commit kills most of them, so it takes a strange text."""


@dataclass(frozen=True, slots=True)
class Guessed:
    """A node that no edge has proposed."""

    node: Node
    chance: float
    """That it lies on the true path, by what such guesses were worth in this session."""


class Guesses:
    """The chain of the moment, and which guesses are being evaluated."""

    def __init__(self, lookup: PromptLookup, log: TokenLog, tree: DraftTree, max_depth: int) -> None:
        self._lookup = lookup
        self._log = log
        self._tree = tree
        self._max_depth = max_depth
        self._chain: list[tuple[Node, float]] = []
        self._asked: set[int] = set()

    def read(self, length: int) -> None:
        """`log[:length]` is being prefilled: reading it can share that time."""
        self._lookup.read(self._log.tokens, length)

    def moved(self, done: Settlement, *, crowded: bool) -> list[Node]:
        """The log has grown: guess what follows. Returns the new nodes; `crowded`: there is no room for any."""
        self._chain = []
        if self._log.closed is not None:
            return []
        self._lookup.counts.accepted += done.looked_up
        guesses = self._lookup.guess(self._log.tokens, len(self._log))
        if crowded or self._tree.looked_up >= MOST_LIVE:
            return []
        made: list[Node] = []
        node = self._tree.root
        for guess in guesses[: min(self._max_depth, self._log.limit - len(self._log))]:
            if node.fact is not None and node.fact.token != guess.token:
                break  # known to be wrong
            if node.token in self._log.stop_tokens and self._chain:
                break  # nothing follows a stop token
            known = node.children.get(guess.token)
            if known is None:
                known = self._tree.add(node, guess.token, -math.log(guess.chance), drafted=False)
                made.append(known)
            node = known
            self._chain.append((node, guess.chance))
        return made

    def missing(self, in_flight: Collection[int], asked: Collection[int], honesty: float) -> list[Guessed]:
        """What of the chain may go into a step that asks for the drafts with the keys `asked`."""
        found: list[Guessed] = []
        reach = 1.0
        for node, chance in self._chain:
            if not node.alive or node.key in in_flight:
                break
            # Where drafts claim the same place, the guess is needed as far as they leave room.
            reach *= chance if node.drafted else chance * (1.0 - _claimed_beside(node, honesty))
            if node.drafted:
                if node.fact is None and node.key not in asked:
                    break  # the budget had no room for it, so there is none below it
            elif node.fact is None:
                found.append(Guessed(node, reach))
        return found

    def taken(self, nodes: Iterable[Node]) -> None:
        """A step asks for the facts at these nodes."""
        keys = {node.key for node in nodes if not node.drafted}
        self._asked |= keys
        self._lookup.counts.asked += len(keys)

    def answered(self, keys: Iterable[int]) -> int:
        """The step has its facts, or is lost; returns how many of them were the cloud's own guesses."""
        own = self._asked.intersection(keys)
        self._asked -= own
        return len(own)


def _claimed_beside(node: Node, honesty: float) -> float:
    siblings = node.parent.children.values() if node.parent is not None else ()
    claimed = sum(math.exp(-one.cost) for one in siblings if one.drafted)
    return min(1.0, claimed * honesty)
