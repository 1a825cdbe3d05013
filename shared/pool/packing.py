"""What goes into one step: ends first, then prompts in chunks, then drafts, then what the cloud guesses itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.policy.batching import Due, Expected, Pending
from shared.pool.books import KV_SLACK, UNLIMITED, Place, WorkerBooks
from shared.pool.policies import PoolPolicies, PrefillLimits
from shared.session.cloud import CloudSession
from shared.session.tree import Node
from shared.step import StepItem


@dataclass(frozen=True, slots=True)
class Packing:
    """Stateless: the books and the sessions hold all there is to know."""

    prefill: PrefillLimits
    policies: PoolPolicies

    # ---- a worker's own sessions ----

    def pack(
        self, books: WorkerBooks, own: Sequence[Place], now: int, degree: Callable[[], int]
    ) -> list[StepItem]:
        """The items of a step for the sessions of a worker; none: nothing is due.

        `degree`: how many steps of one session may be out at once, as many workers as there are to spare.
        """
        served, room = self._served(books, own)
        items = self._prefills(books, served)
        due = self._due(books, served, now, {item.session for item in items})
        if not due:
            return items
        advice = books.budget.advice(max(1, len(own))) * degree()
        for session, nodes in zip(due, self._nodes(books, due, room), strict=True):
            session.advise(advice)
            items.append(session.take(nodes, now=now))
        return items

    def ready_at(
        self, books: WorkerBooks, own: Sequence[Place], helped: Sequence[Place], gap: int
    ) -> int | None:
        """When `pack` or `help` first has something to do, as things are; None: when something happens."""
        times = [at for session in self._served(books, own)[0] if (at := session.end_due_at()) is not None]
        if helped:
            times += [at for place in helped if (at := self._helpful_at(books, place, gap)) is not None]
        return min(times, default=None)

    def _served(self, books: WorkerBooks, own: Sequence[Place]) -> tuple[list[CloudSession], int]:
        """The sessions that the worker can hold at once, the oldest first, and for how many more tokens there is room.

        Law 4: more than it can hold would evict each other, and one that is evicted before its prompt is through begins
        again for ever. The oldest is always served, so each comes to its turn.
        """
        if books.kv_tokens is None:
            return [place.session for place in own], UNLIMITED
        room = books.kv_tokens
        served: list[CloudSession] = []
        for place in own:
            session = place.session
            if session.end_due_at() is None:
                continue  # it rests, and its cache may go
            need = _kv_need(session)
            if served and room < need:
                break
            room -= need
            served.append(session)
        return served, max(room, 0)

    def _prefills(self, books: WorkerBooks, served: Sequence[CloudSession]) -> list[StepItem]:
        room = self.prefill.per_step
        items: list[StepItem] = []
        for session in served:
            if not books.holds(session, self.prefill.chunk):
                chunk = min(self.prefill.chunk, room)
                if chunk > 0:
                    # The last token's own forward gives the first fact: it is left to the step that asks for the end.
                    items.append(session.prefill(books.cached.get(session.key, 0) + chunk))
                    room -= chunk
        return items

    def _due(
        self, books: WorkerBooks, served: Sequence[CloudSession], now: int, prefilling: set[int]
    ) -> list[CloudSession]:
        due: dict[int, tuple[CloudSession, Due]] = {}
        begins = bool(prefilling)
        for session in served:
            at = session.end_due_at()
            if at is None or session.key in prefilling:
                continue
            wanted = session.end_wanted_at(at)
            if books.holds(session, self.prefill.chunk):
                begins |= at <= now
                due[session.key] = session, Due(wanted, session.key, len(session.log))
        if not begins:
            return []
        # A step that begins takes along whoever waits by the cloud's own choice: missing it would cost them more.
        ready = [one for _, one in due.values() if one.wanted <= now]
        most = [number for number in (books.together, self.policies.sessions_per_step) if number is not None]
        return [due[key][0] for key in self.policies.batching.choose(ready, min(most, default=None))]

    # ---- other workers' sessions ----

    def help(self, books: WorkerBooks, helped: Sequence[Place], now: int, gap: int) -> list[StepItem]:
        """The items of a step for sessions whose own worker is busy; those of theirs that wait longest go first."""
        sessions: list[CloudSession] = []
        items: list[StepItem] = []
        room, prefill_room = UNLIMITED if books.kv_tokens is None else books.kv_tokens, self.prefill.per_step
        # An end that is due goes before any draft (law 4): of the room too.
        for place in sorted(
            helped, key=lambda place: (place.session.end_due_at() is None, place.begun or 0, place.joined)
        ):
            session = place.session
            at = self._helpful_at(books, place, gap)
            if at is None or at > now:
                continue
            place.begun = now  # also if nothing comes of it: then it is looked at again a gap later
            need = _kv_need(session)
            if need > room:
                continue
            room -= need
            if books.holds(session, self.prefill.chunk):
                sessions.append(session)
                continue
            chunk = min(self.prefill.chunk, prefill_room)
            if chunk > 0:
                items.append(session.prefill(books.cached.get(session.key, 0) + chunk))
                prefill_room -= chunk
        for session, nodes in zip(sessions, self._nodes(books, sessions, room), strict=True):
            if nodes or session.end_due_at() is not None:
                items.append(session.take(nodes, now=now))
        return items

    def _helpful_at(self, books: WorkerBooks, place: Place, gap: int) -> int | None:
        """From when on a step for the session is of use on a worker that is not its own."""
        session = place.session
        if books.kv_tokens is not None and books.kv_tokens < _kv_need(session):
            return None
        due = session.end_due_at()
        if due is not None:
            return due
        if place.begun is None or not session.end_in_flight or not session.missing_drafts(1):
            return None  # a session that rests at its run-ahead rests on every worker
        return place.begun + gap

    # ---- nodes ----

    def _nodes(self, books: WorkerBooks, due: Sequence[CloudSession], room: int) -> list[list[Node]]:
        """For each session the nodes that enter the step: what edges drafted, then what the cloud guesses itself."""
        ends, budget = len(due), books.budget
        most = budget.share(ends)
        pending = [
            Pending(
                session.key,
                session.missing_drafts(most),
                session.tree.root,
                # A drafter that was never judged counts as even odds: neither starved nor trusted.
                acceptance=(session.accepted + 1) / (session.judged + 2),
                honesty=session.honesty,
            )
            for session in due
        ]
        chosen = budget.choose(ends, pending)
        guesses = [
            session.missing_guesses({node.key for node in nodes})
            for session, nodes in zip(due, chosen, strict=True)
        ]
        if any(guesses):
            expected = [
                Expected(len(nodes), sum(map(one.chance, nodes)))
                for one, nodes in zip(pending, chosen, strict=True)
            ]
            filled = budget.fill(ends, expected, guesses, room)
            return [drafts + more for drafts, more in zip(chosen, filled, strict=True)]
        return chosen


def _kv_need(session: CloudSession) -> int:
    return len(session.log) + session.tree.live - session.tree.looked_up + KV_SLACK
