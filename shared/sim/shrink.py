"""From a world that fails to a small one that fails in the same way.

Parts are taken away one after the other, and stay away as long as the same trouble stays. What is tried, and in which
order, follows from the world alone: the same failure shrinks to the same world everywhere.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from shared.sim.cuts import NO_CUTS, PARTS, Cuts, cut, features, parts
from shared.sim.edge import EdgePlan
from shared.sim.fuzz import MOST_EVENTS, draw_world
from shared.sim.world import World

BUDGET = 3_000_000
"""Events that may be spent on one failure: some minutes at worst, a few seconds as a rule."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What went wrong in a world."""

    error: str
    """The exception's type."""
    place: str
    """Module and function that raised it."""
    line: int
    text: str

    @classmethod
    def of(cls, error: Exception) -> Trouble:
        """From what a machine or a law raised."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{PurePath(frame.filename).stem}.{frame.name}"
        return cls(type(error).__name__, place, frame.lineno or 0, str(error))

    def like(self, other: Trouble) -> bool:
        """Whether it is the same kind of trouble; what is said of it may differ."""
        return (self.error, self.place) == (other.error, other.place)

    def __str__(self) -> str:
        return f"{self.error}: {self.text} ({self.place}, line {self.line})"


def run(world: World) -> Trouble | None:
    """What goes wrong in a world; None: nothing."""
    try:
        world.run(MOST_EVENTS)
    except Exception as error:  # noqa: BLE001 - whatever a machine raises is what was looked for
        return Trouble.of(error)
    return None


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A small world that fails."""

    cuts: Cuts
    trouble: Trouble
    tries: int
    """Worlds that were run to find it."""


def shrink(seed: int, trouble: Trouble, budget: int = BUDGET) -> Shrunk:
    """The smallest world that could be found within `budget` events; `trouble` is that of the whole world."""
    search = _Search(seed, trouble, budget)
    known = None
    while known != search.cuts and search.budget > 0:
        known = search.cuts
        for fewer in (_fewer_edges, _shorter, _fewer_parts, _fewer_features):
            for cuts in fewer(search):
                search.attempt(cuts)
    return Shrunk(search.cuts, search.trouble, search.tries)


class _Search:
    """The smallest world so far."""

    def __init__(self, seed: int, trouble: Trouble, budget: int) -> None:
        self.seed = seed
        self.cuts = NO_CUTS
        self.trouble = trouble
        self.budget = budget
        self.tries = 0

    def attempt(self, cuts: Cuts) -> bool:
        """Take a smaller world, if it fails in the same way."""
        if self.budget <= 0 or cuts == self.cuts:
            return False
        world = cut(draw_world(self.seed), cuts).make()
        found = run(world)
        self.budget -= world.clock.events
        self.tries += 1
        # The line as well: one function may hold several laws.
        if found is None or not found.like(self.trouble) or found.line != self.trouble.line:
            return False
        self.cuts, self.trouble = cuts, found
        return True

    @property
    def left(self) -> dict[str, list[int]]:
        """Indexes of each part that are still there."""
        counts = parts(draw_world(self.seed))
        return {
            name: [one for one in range(counts[name]) if one not in getattr(self.cuts, name)]
            for name in PARTS
        }


Steps = Iterator[Cuts]


def _fewer_edges(search: _Search) -> Steps:
    """One edge alone, if that is enough; else without one at a time."""
    there = search.left["edges"]
    if len(there) > 2:
        for index in there:
            if len(search.left["edges"]) > 1:
                yield replace(search.cuts, edges=tuple(one for one in there if one != index))
    yield from _each_without(search, "edges", least=1)


def _fewer_parts(search: _Search) -> Steps:
    for name in PARTS[1:]:
        there = search.left[name]
        if len(there) > 1:
            yield _lacking(search, name, there[1:] if name == "workers" else there)
        yield from _each_without(search, name, least=1 if name == "workers" else 0)


def _each_without(search: _Search, name: str, least: int) -> Steps:
    for index in search.left[name]:
        if len(search.left[name]) > least:
            yield _lacking(search, name, [index])


def _lacking(search: _Search, name: str, gone: list[int]) -> Cuts:
    return _changed(search.cuts, name, tuple(sorted({*getattr(search.cuts, name), *gone})))


def _changed(cuts: Cuts, name: str, value: Any) -> Cuts:
    return replace(cuts, **{name: value})


def _shorter(search: _Search) -> Steps:
    """The shortest text and the shortest prompt that are enough, by halves."""
    yield from _less(search, "tokens", lambda edge: edge.request.max_new_tokens)
    yield from _less(search, "prompt", lambda edge: len(edge.request.prompt))


def _less(search: _Search, name: str, length: Callable[[EdgePlan], int]) -> Steps:
    most = max(map(length, cut(draw_world(search.seed), search.cuts).edges))
    least = 1
    while least < most:
        middle = (least + most) // 2
        yield _changed(search.cuts, name, middle)
        if getattr(search.cuts, name) == middle:
            most = middle
        else:
            least = middle + 1


def _fewer_features(search: _Search) -> Steps:
    for name in features(cut(draw_world(search.seed), search.cuts)):
        yield replace(search.cuts, off=(*search.cuts.off, name))
