"""PoolScheduler: which facts of which sessions go into the worker's next step.

One-worker form: while a step is out no other is asked for. Law 4 is kept here together with CloudSession: every
end that is due enters the next step before any draft node does, oldest first, and what a failed step owed is
missing again. Long prompts are prefilled in chunks beside other sessions' nodes, so that nobody waits for them.
What the cloud guesses itself takes room that nobody else has a use for. Pure: time is an argument (ns).

A step that breaks the worker is the fault of one session in it, as a rule. Its sessions are asked for again in two
halves, and the half that breaks in halves of its own, until one is left: that one is the culprit. The others lose a
few steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.policy.batching import Expected, NodeBudget, Pending
from shared.session.cloud import CloudEffect, CloudSession
from shared.session.tree import Node
from shared.step import Step, StepItem, StepOutcome

UNLIMITED = 1 << 30
"""Tokens of room where a worker holds as many as there are."""
KV_SLACK = 64
"""Tokens by which a session may take more room in a worker than it has: its last page."""


@dataclass(frozen=True, slots=True)
class PrefillLimits:
    """How prompts are cut up: tokens of one chunk, and of all chunks in one step."""

    chunk: int = 256
    per_step: int = 512


class PoolScheduler:
    """Sessions' missing facts in, steps out, outcomes back in."""

    def __init__(
        self, budget: NodeBudget, prefill: PrefillLimits | None = None, kv_tokens: int | None = None
    ) -> None:
        """`kv_tokens` is how many tokens of all sessions the worker can hold; None: as many as there are."""
        self._budget = budget
        self._kv_tokens = kv_tokens
        self._prefill = prefill if prefill is not None else PrefillLimits()
        self._sessions: dict[int, CloudSession] = {}
        self._cached: dict[int, int] = {}
        self._released: list[int] = []
        self._out: Step | None = None
        self._number = 0
        self._suspects: list[frozenset[int]] = []
        """Groups of sessions that were in a step that broke the worker: each goes alone into one of the next."""
        self._together: int | None = None
        """Sessions that one step asks for at most, since larger ones broke the worker; it grows back."""

    @property
    def sessions(self) -> int:
        """Sessions that are being served."""
        return len(self._sessions)

    def join(self, session: CloudSession) -> None:
        """Serve a session from the next step on."""
        self._sessions[session.key] = session
        self._cached[session.key] = 0

    def leave(self, key: int) -> None:
        """Stop serving a session; its KV is released with the next step."""
        if self._sessions.pop(key, None) is not None:
            del self._cached[key]
            self._released.append(key)

    def wake_at(self) -> int | None:
        """When a patience runs out, if nothing happens before; None: nothing to wait for."""
        if self._out is not None:
            return None
        due = [at for session in self._served()[0] if (at := session.end_due_at()) is not None]
        return min(due, default=None)

    def next_step(self, now: int) -> Step | None:
        """What the worker is to do now; None: it is busy, or nothing is due.

        Legal whenever the worker is idle or not. The step is out until `complete` or `failed`.
        """
        if self._out is not None:
            return None
        items = self._items(now)
        if not items and not self._released:
            return None
        self._number += 1
        self._out = Step(self._number, tuple(items), tuple(self._released))
        self._released = []
        return self._out

    def _items(self, now: int) -> list[StepItem]:
        """Each session's share of a step that begins now."""
        served, room = self._served()
        while self._suspects:
            suspects = self._suspects[0]
            items = self._share([session for session in served if session.key in suspects], now, room)
            # Its trial is a step that asks for facts; a worker that lost its caches has to be given the prompts first.
            if not any(item.prefill_only for item in items):
                self._suspects.pop(0)
            if items:
                return items
        return self._share(served, now, room)

    def _share(self, served: list[CloudSession], now: int, room: int) -> list[StepItem]:
        items = self._prefills(served)
        due = self._due(served, now, {item.session for item in items})[: self._together]
        advice = self._budget.advice(len(self._sessions))
        for session, nodes in zip(due, self._nodes(due, room), strict=True):
            session.advise(advice)
            items.append(session.take(nodes, now=now))
        return items

    def _nodes(self, due: list[CloudSession], room: int) -> list[list[Node]]:
        """For each session the nodes that enter the step: what edges drafted, then what the cloud guesses itself."""
        ends, budget = len(due), self._budget
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

    def complete(self, outcome: StepOutcome, now: int) -> list[CloudEffect]:
        """Apply the facts of the step that is out; sessions that ended meanwhile are skipped.

        Raises:
            ValueError: no step is out, or the outcome answers another one (a fact that is owed must not be lost).
        """
        if self._out is None:
            raise ValueError("no step is out")
        asked = [(item.session, sorted(_keys(item))) for item in self._out.items]
        if asked != [(item.session, sorted(key for key, _ in item.facts)) for item in outcome.items]:
            raise ValueError(f"step {self._out.number} asked for facts that its outcome does not state")
        if not any(item.prefill_only for item in self._out.items):
            self._budget.measured(sum(item.computed for item in outcome.items), outcome.duration_us)
        self._out = None
        if self._together is not None:  # it went well: a little more, until everybody is in again
            self._together = self._together + 1 if self._together < len(self._sessions) else None
        effects: list[CloudEffect] = []
        for item in outcome.items:
            session = self._sessions.get(item.session)
            if session is None:
                continue
            self._cached[item.session] = item.cached_length
            if item.facts:
                effects += session.learn(item.facts, verify_us=outcome.duration_us, now=now)
            if session.over:
                self.leave(item.session)
        return effects

    def failed(self) -> list[int]:
        """The step that is out will not come back: its facts are missing again. Returns its sessions."""
        if self._out is None:
            raise ValueError("no step is out")
        step, self._out = self._out, None
        self._released = [*step.released, *self._released]
        self._cached = dict.fromkeys(self._cached, 0)  # whatever the worker held, it may hold no more
        left = []
        for item in step.items:
            session = self._sessions.get(item.session)
            if session is not None:
                session.give_back(_keys(item))
                left.append(item.session)
        return left

    def broken(self) -> int | None:
        """The step that is out broke the worker, which can go on. Returns the session whose fault it was, if one can
        be told: it must not be asked for again. Else the step's sessions are asked for again apart.
        """
        asked = frozenset() if self._out is None else frozenset(item.session for item in self._out.items)
        alone = len(asked) == 1
        left = self.failed()
        if self._suspects and asked <= self._suspects[0]:
            self._suspects.pop(0)  # it broke while it was still being given its prompts
        if not left:
            return None
        if alone:
            self._together = None  # it was this one's fault, not their number's
            return left[0]
        half = (len(left) + 1) // 2
        self._together = half  # perhaps they are too much only together
        # The halves first: the groups of an older failure hold others.
        self._suspects[:0] = [frozenset(part) for part in (left[:half], left[half:]) if part]
        return None

    def _served(self) -> tuple[list[CloudSession], int]:
        """The sessions that the worker can hold at once, the oldest first, and for how many more tokens there is room.

        Law 4: more than it can hold would evict each other, and one that is evicted before its prompt is through begins
        again for ever. The oldest is always served, so each comes to its turn.
        """
        if self._kv_tokens is None:
            return list(self._sessions.values()), UNLIMITED
        room = self._kv_tokens
        served: list[CloudSession] = []
        for session in self._sessions.values():
            if session.end_due_at() is None:
                continue  # it rests, and its cache may go
            need = len(session.log) + session.tree.live - session.tree.looked_up + KV_SLACK
            if served and room < need:
                break
            room -= need
            served.append(session)
        return served, max(room, 0)

    def _prefills(self, served: list[CloudSession]) -> list[StepItem]:
        room = self._prefill.per_step
        items: list[StepItem] = []
        for session in served:
            key = session.key
            # The last token's own forward gives the first fact, so it is left to the step that asks for the end.
            missing = len(session.log) - 1 - self._cached[key]
            if missing > self._prefill.chunk:
                chunk = min(missing, self._prefill.chunk, room)
                if chunk > 0:
                    items.append(session.prefill(self._cached[key] + chunk))
                    room -= chunk
        return items

    def _due(self, served: list[CloudSession], now: int, prefilling: set[int]) -> list[CloudSession]:
        due: list[tuple[int, int]] = []
        begins = bool(prefilling)
        for session in served:
            key, at = session.key, session.end_due_at()
            unready = len(session.log) - 1 - self._cached[key] > self._prefill.chunk
            wanted = session.end_wanted_at()
            if at is not None and wanted is not None and key not in prefilling and not unready:
                begins |= at <= now
                due.append((wanted, key))
        if not begins:
            return []
        # A step that begins takes along whoever waits by the cloud's own choice: missing it would cost them more.
        due = [(wanted, key) for wanted, key in due if wanted <= now]
        due.sort()
        return [self._sessions[key] for _, key in due]


def _keys(item: StepItem) -> list[int]:
    keys = [node.key for node in item.nodes if node.wanted]
    return keys if item.end_key is None else [*keys, item.end_key]
