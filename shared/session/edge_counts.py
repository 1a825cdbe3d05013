"""What happened in one generation, as its edge saw it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.messages import Commit


@dataclass(slots=True)
class EdgeCounts:
    """What happened, for `stats`."""

    drafted: int = 0
    """Nodes that the drafter proposed."""
    sent: int = 0
    """Nodes that went up, those sent again after a reconnect included."""
    forwards: int = 0
    commits: int = 0
    reconnects: int = 0
    """Streams that were opened again after a loss."""
    moves: int = 0
    """Streams that were left for another server, which had said that it goes away."""
    judged: int = 0
    accepted: int = 0
    verified: int = 0
    """Facts that the cloud evaluated."""
    stale: int = 0
    """Nodes that were dead on arrival in the cloud."""
    steps: int = 0
    self_decoded: int = 0

    def add(self, commit: Commit) -> None:
        """What a commit says of itself."""
        self.commits += 1
        self.judged += commit.judged
        self.accepted += commit.accepted
        self.verified += commit.facts
        self.stale += commit.stale
        self.steps += commit.steps
        self.self_decoded += commit.self_decoded
