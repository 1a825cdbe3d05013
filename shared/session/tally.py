"""What a session in the cloud counts: the cost of its tokens, and facts that were established twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.messages import Commit
from shared.step import Fact

NEAR_TIE_MARGIN = 1e-4
"""Nats. Two float32 evaluations of one fact may differ when its two best scores are closer than this."""


@dataclass(slots=True)
class Disagreements:
    """Facts established twice with different tokens (law 3)."""

    near_ties: int = 0
    incidents: int = 0

    def compare(self, first: Fact, second: Fact) -> None:
        """The same fact came twice; the first one stands."""
        if first.token == second.token:
            return
        if min(first.margin, second.margin) < NEAR_TIE_MARGIN:
            self.near_ties += 1
        else:
            self.incidents += 1


@dataclass(slots=True)
class Tally:
    """Counts since the last commit; they travel with the next one."""

    steps: int = 0
    facts: int = 0
    self_decoded: int = 0
    queue_us: int = 0
    verify_us: int = 0

    def commit(
        self, position: int, tokens: Sequence[int], logprobs: Sequence[float], advised_window: int
    ) -> Commit:
        """What they cost, with the tokens; each stream adds what became of its own drafts."""
        return Commit(
            position=position,
            tokens=tuple(tokens),
            logprobs=tuple(logprobs),
            queue_us=self.queue_us,
            verify_us=self.verify_us,
            steps=self.steps,
            facts=self.facts,
            self_decoded=self.self_decoded,
            advised_window=advised_window,
        )
