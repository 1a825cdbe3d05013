"""The sessions of a pool by their keys and by their workers, so that a worker's own are found without a search."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter

from shared.pool.books import Place

_JOINED = attrgetter("joined")


class Places(dict[int, Place]):
    """By session, in the order in which they came. They enter, get a home and go by the methods here alone."""

    def __init__(self) -> None:
        super().__init__()
        self._own: dict[int, list[Place]] = {}

    @property
    def homes(self) -> AbstractSet[int]:
        """Workers with sessions of their own."""
        return self._own.keys()

    def of(self, worker: int) -> Sequence[Place]:
        """The sessions of a worker, the oldest first."""
        return self._own.get(worker, ())

    def enter(self, place: Place) -> None:
        """A session has come; it has no home yet."""
        self[place.session.key] = place

    def give(self, place: Place, worker: int | None) -> None:
        """The session's home is this worker from now on; None: it has none."""
        self._take_from_home(place)
        place.home = worker
        if worker is not None:
            insort(self._own.setdefault(worker, []), place, key=_JOINED)

    def remove(self, key: int) -> Place | None:
        """The session has gone; None: it was not here."""
        place = self.pop(key, None)
        if place is not None:
            self._take_from_home(place)
        return place

    def _take_from_home(self, place: Place) -> None:
        if place.home is None:
            return
        own = self._own[place.home]
        own.remove(place)
        if not own:
            del self._own[place.home]
