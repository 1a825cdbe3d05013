"""Sessions at random, as a verifier is asked about them."""

from __future__ import annotations

import random
from dataclasses import replace

from shared.step import StepItem, StepNode
from tests.cloud_server.tiny_target import CONTEXT, VOCABULARY, item, random_tokens, random_tree


class World:
    """Sessions that join, grow, lose branches, are replaced and leave, at random; all randomness from one seed."""

    def __init__(self, seed: int, *, alike: bool = False) -> None:
        """`alike`: most logs begin like one that there is or was."""
        self.rng = random.Random(seed)
        self._alike = alike
        self._former: list[list[int]] = []
        self.logs: dict[int, list[int]] = {}
        self._filled: dict[int, int] = {}
        self._trees: dict[int, tuple[StepNode, ...]] = {}
        self._next = 0

    def step(self, most: int) -> tuple[list[StepItem], list[int]]:
        rng = self.rng
        released = [key for key in self.logs if rng.random() < 0.06 or len(self.logs[key]) > CONTEXT - 30]
        for key in released:
            self._former.append(self.logs.pop(key))
        while len(self.logs) < most and rng.random() < 0.7:
            self._next += 1
            self.logs[self._next] = self._begin()
            self._filled[self._next], self._trees[self._next] = 0, ()
        asked = [key for key in self.logs if rng.random() < 0.8]
        rng.shuffle(asked)
        return [self._ask(key) for key in asked], released

    def _begin(self) -> list[int]:
        rng, known = self.rng, [*self._former, *self.logs.values()][-12:]
        if not self._alike:
            return random_tokens(rng, rng.randrange(1, 120))
        if not known or rng.random() < 0.2:
            return random_tokens(rng, rng.randrange(70, 120))
        like = rng.choice(known)
        return [*like[: rng.randrange(len(like) + 1)], *random_tokens(rng, rng.randrange(1, 30))][:130]

    def _ask(self, key: int) -> StepItem:
        rng, log = self.rng, self.logs[key]
        missing = len(log) - 1 - self._filled[key]
        if missing > 0 and rng.random() < 0.7:
            self._filled[key] += rng.randrange(1, missing + 1)
            return item(log, session=key, length=self._filled[key], end_key=None)
        self._advance(key)
        kept = self._trees[key] if rng.random() < 0.6 else ()
        grown = random_tree(rng, len(kept) + rng.randrange(7), wanted=0.8)
        tree = (*kept, *grown[len(kept) :])
        self._trees[key] = tuple(replace(node, key=number) for number, node in enumerate(tree, 1))
        self._filled[key] = len(log)
        return item(log, self._trees[key], session=key, end_key=rng.choice((0, 0, None)))

    def _advance(self, key: int) -> None:
        """Commit a random walk down the tree, at times off it; what hangs below the new end lives on."""
        rng, log, tree, end = self.rng, self.logs[key], self._trees[key], -1
        while rng.random() < 0.6:
            below = [index for index, node in enumerate(tree) if node.parent == end]
            if not below or rng.random() < 0.2:
                log.append(rng.randrange(VOCABULARY))
                self._trees[key] = ()
                return
            end = rng.choice(below)
            log.append(tree[end].token)
        number = {end: -1}
        kept: list[StepNode] = []
        for index, node in enumerate(tree):
            if node.parent in number and index != end:
                number[index] = len(kept)
                kept.append(StepNode(node.key, node.token, number[node.parent], node.wanted))
        self._trees[key] = tuple(kept)
