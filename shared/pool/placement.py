"""Where sessions are served: homes, and what happens to them when workers come, go, drain or hang.

A session whose worker drains goes on there until its KV has been brought to its new home, or is prefilled there anew:
whichever takes less by what was measured. Law 6: the KV is a cache, so nothing is ever lost with it but time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from shared.policy.routing import WorkerLoad
from shared.pool.books import Place, WorkerBooks
from shared.pool.places import Places
from shared.pool.policies import PoolPolicies
from shared.pool.prefixes import BLOCK, PrefixDirectory
from shared.step import StepItem


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bring a session's KV from one worker to another. It may go on growing at the source meanwhile."""

    session: int
    source: int
    target: int
    length: int
    """Tokens that the source holds, as far as the pool knows."""


class Placement:
    """Reads and writes the pool's books; the scheduler tells it what happens."""

    def __init__(self, workers: Mapping[int, WorkerBooks], places: Places, policies: PoolPolicies) -> None:
        self._workers = workers
        self._places = places
        self._routing = policies.routing()
        self._transfers = policies.transfers()
        self._directory = PrefixDirectory()
        self._waiting: deque[Transfer] = deque()
        self._began: dict[tuple[int, int], tuple[int, int]] = {}
        self.moved = 0
        """Transfers that worked."""
        self.failed = 0

    # ---- sessions ----

    def place(self, place: Place) -> None:
        """Give a session a home, if there is any worker: at worst one that drains."""
        target = self._choose(place) or next(
            (books for books in self._workers.values() if not books.late), None
        )
        self._places.give(place, target.number if target is not None else None)

    def cached(self, books: WorkerBooks, place: Place, asked: StepItem, length: int) -> None:
        """A worker holds that much of a session's log now."""
        prompt = asked.prompt_length
        # Once, when its prompt is through: beginnings that sessions share are prompts.
        if length >= BLOCK and asked.length <= prompt <= length + BLOCK:
            self._directory.note(books.number, asked.log, min(length, prompt))

    # ---- workers ----

    def joined(self, number: int) -> None:
        """A worker takes sessions (again): those without a home first, or with one that takes none any more; then some
        of those who have many neighbours.
        """
        for place in self._places.values():
            if place.home is None:
                self.place(place)
        books = self._workers[number]
        if not books.serves:
            return
        self._move_on()
        while True:
            crowds = self._crowds()
            fullest = max(crowds, key=lambda worker: (crowds[worker], -worker))
            if crowds[fullest] - crowds[number] < 2:
                return
            settled = [p for p in self._places.values() if p.home == fullest and p.moving is None]
            if not settled:
                return  # they are on their way to it
            # The youngest has least to lose.
            self._move(max(settled, key=lambda p: p.joined), books)

    def vacate(self, books: WorkerBooks) -> None:
        """A worker's sessions are to go elsewhere, if there is any place. One that hangs gives nothing away."""
        for place in self._places.values():
            if place.moving == books.number:
                self._turn_back(place)
            if place.home == books.number and (place.moving is None or books.late):
                target = self._choose(place)
                if target is not None:
                    self._move(place, target)

    def left(self, number: int) -> None:
        """A worker is gone."""
        self._directory.forget(number)
        for place in self._places.values():
            if place.moving == number:
                self._turn_back(place)
            if place.home == number:
                target = self._workers.get(place.moving) if place.moving is not None else None
                place.moving = None
                if target is not None and target.serves:
                    self._places.give(place, target.number)  # it was going there anyway
                else:
                    self.place(place)

    def _turn_back(self, place: Place) -> None:
        """Where the session is going, it cannot stay: elsewhere then, if it cannot stay where it is either."""
        place.moving = None
        home = self._workers.get(place.home) if place.home is not None else None
        if home is None or home.serves:
            return
        target = self._choose(place)
        if target is not None:
            self._move(place, target)

    def emptied(self, number: int) -> None:
        """A worker has lost what it held."""
        self._directory.forget(number)

    # ---- transfers ----

    def next_transfer(self, now: int) -> Transfer | None:
        """The oldest move that still makes sense."""
        while self._waiting:
            transfer = self._waiting.popleft()
            place = self._places.get(transfer.session)
            if place is None or place.moving != transfer.target or place.home != transfer.source:
                continue
            self._began[transfer.session, transfer.target] = now, transfer.length
            return transfer
        return None

    def transferred(self, session: int, target: int, tokens: int | None, now: int) -> None:
        """See `PoolScheduler.transferred`."""
        began, _ = self._began.pop((session, target), (now, 0))
        if tokens:
            self._transfers.moved(tokens, (now - began) / 1000)
            self.moved += 1
        else:
            self._transfers.failed()
            self.failed += 1
        books, place = self._workers.get(target), self._places.get(session)
        if books is not None:  # what failed may have arrived all the same: it is released in any case
            if place is None:
                books.released.append(session)  # it ended meanwhile
            else:
                books.cached[session] = max(tokens or 0, books.cached.get(session, 0))
        if place is not None and place.moving == target:
            place.moving = None
            if books is not None and books.serves:
                self._places.give(place, target)
            else:
                self._move_on()

    # ---- inside ----

    def _move_on(self) -> None:
        """Sessions whose worker takes none any more go to another, if there is one."""
        for place in self._places.values():
            home = self._workers.get(place.home) if place.home is not None else None
            if home is None or home.serves or place.moving is not None:
                continue
            target = self._choose(place)
            if target is not None:
                self._move(place, target)

    def _move(self, place: Place, target: WorkerBooks) -> None:
        """From its home to a worker that serves: with its KV, where that is worth while."""
        key, source = place.session.key, self._workers.get(place.home) if place.home is not None else None
        held = source.cached.get(key, 0) if source is not None else 0
        through = len(place.session.log) - 1 - held <= BLOCK  # else it is still being prefilled
        if (
            source is not None
            and source is not target
            and not source.late
            and through
            and self._transfers.worthwhile(held - target.cached.get(key, 0), source.prefill_us)
        ):
            place.moving = target.number
            self._waiting.append(Transfer(key, source.number, target.number, held))
        else:
            place.moving = None
            self._places.give(place, target.number)

    def _choose(self, place: Place) -> WorkerBooks | None:
        serving = [books for books in self._workers.values() if books.serves]
        if not serving:
            return None
        if len(serving) == 1:
            return serving[0]
        log = place.session.log
        crowds = self._crowds()
        tokens = dict.fromkeys(crowds, 0)
        for other in self._places.values():
            bound = _bound(other)
            if other is not place and bound in tokens:
                tokens[bound] += len(other.session.log)
        known = self._directory.known(log.tokens)
        loads = [
            WorkerLoad(
                books.number,
                crowds[books.number] - (_bound(place) == books.number),
                tokens[books.number],
                books.step_us,
                books.prefill_us,
                max(books.cached.get(place.session.key, 0), known.get(books.number, 0)),
            )
            for books in serving
        ]
        return self._workers[self._routing.choose(place.session.key, len(log), loads)]

    def _crowds(self) -> dict[int, int]:
        """Sessions of each worker that takes sessions, those on their way to it among them."""
        crowds = {books.number: 0 for books in self._workers.values() if books.serves}
        for place in self._places.values():
            bound = _bound(place)
            if bound is not None and bound in crowds:
                crowds[bound] += 1
        return crowds


def _bound(place: Place) -> int | None:
    """Where a session is, or is going."""
    return place.home if place.moving is None else place.moving
