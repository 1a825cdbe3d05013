"""Whose fault is a step that broke its worker? One session's, as a rule.

Its sessions are asked for again in two halves, and the half that breaks in halves of its own, until one is left: that
one is the culprit. The others lose a few steps. A group that waits for its trial takes part in no other step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Suspects:
    """Groups of sessions, each of which is to go alone into a step of some worker."""

    def __init__(self) -> None:
        self._groups: list[frozenset[int]] = []

    def __bool__(self) -> bool:
        return bool(self._groups)

    def holds(self, session: int) -> bool:
        """Whether the session waits for its trial."""
        return any(session in group for group in self._groups)

    def accuse(self, sessions: Sequence[int]) -> int:
        """These were in a step that broke; returns the size of the larger half."""
        half = (len(sessions) + 1) // 2
        # The halves first: the groups of an older failure hold others.
        self._groups[:0] = [frozenset(part) for part in (sessions[:half], sessions[half:]) if part]
        return half

    def put_back(self, group: frozenset[int]) -> None:
        """A trial did not take place."""
        self._groups.insert(0, group)

    def next_trial(self, present: Iterable[int]) -> frozenset[int] | None:
        """The group that is tried next; of whom is no longer present nothing is said."""
        here = set(present)
        while self._groups:
            group = self._groups.pop(0) & here
            if group:
                return group
        return None
