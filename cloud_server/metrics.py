"""Counters of one server. Plain numbers behind one small object, so that what exports them can be chosen later."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from shared.errors import Status
from shared.messages import Commit
from shared.policy.lookup import LookupCounts
from shared.pool import PoolScheduler
from shared.step import Step, StepOutcome


@dataclass(slots=True)
class WorkerCounts:
    """What one worker did since it joined."""

    name: str
    """Where it runs, for people."""
    since: float
    """When it joined, by the monotonic clock in seconds."""
    steps: int = 0
    failed_steps: int = 0
    busy_us: int = 0
    facts: int = 0
    computed_tokens: int = 0

    def busy_share(self, now: float) -> float:
        """Share of its time in steps; `now` by the clock of `since`."""
        lived = now - self.since
        return min(self.busy_us / 1e6 / lived, 1.0) if lived > 0.0 else 0.0


@dataclass(slots=True)
class Metrics:
    """What a server did since it started."""

    steps: int = 0
    failed_steps: int = 0
    step_us: int = 0
    """Time spent in steps, over all workers."""
    facts: int = 0
    computed_tokens: int = 0
    """Tokens forwarded, prompts included."""
    committed_tokens: int = 0
    open_sessions: int = 0
    most_sessions: int = 0
    lookup: LookupCounts = field(default_factory=LookupCounts)
    """What came of the guesses that the server made itself."""
    endings: Counter[Status] = field(default_factory=Counter)
    """Streams ended by this side, by status."""
    refused: int = 0
    """Of these, streams refused for want of room, and told when to come again."""
    workers: dict[int, WorkerCounts] = field(default_factory=dict)
    """Those that are up, by number."""
    workers_joined: int = 0
    workers_left: int = 0
    transfers: int = 0
    """Sessions' states that were brought from one worker to another."""
    transferred_tokens: int = 0
    failed_transfers: int = 0
    pool: PoolScheduler | None = None
    """To be looked at: steps asked of another worker, facts established twice."""

    def __str__(self) -> str:
        """One line for the end."""
        endings = ", ".join(f"{count} {status.value}" for status, count in self.endings.items())
        parts = [
            f"{self.committed_tokens} tokens in {self.steps} steps ({self.failed_steps} failed)",
            f"at most {self.most_sessions} sessions, {self.refused} refused",
            f"{self.workers_joined} workers came, {self.workers_left} went",
            f"{self.transfers} states moved ({self.failed_transfers} failed)",
        ]
        if self.pool is not None:
            counts = self.pool.counts
            parts.append(f"{counts.hedged} steps hedged, {counts.lost_steps} lost")
            parts.append(
                f"{self.pool.checked} facts checked, {self.pool.near_ties} near ties, "
                f"{self.pool.incidents} disagreements"
            )
        return "; ".join([*parts, f"streams ended: {endings or 'none'}"])

    def stepped(self, worker: int, step: Step, outcome: StepOutcome) -> None:
        """A step came back."""
        facts = sum(len(item.facts) for item in outcome.items)
        computed = sum(item.computed for item in outcome.items)
        for counts in (self, self.workers[worker]):
            counts.steps += bool(step.items)
            counts.facts += facts
            counts.computed_tokens += computed
        self.step_us += outcome.duration_us
        self.workers[worker].busy_us += outcome.duration_us

    def failed(self, worker: int) -> None:
        """A step raised."""
        self.failed_steps += 1
        self.workers[worker].failed_steps += 1

    def joined(self, worker: int, name: str) -> None:
        """A worker is up."""
        self.workers_joined += 1
        self.workers[worker] = WorkerCounts(name, time.monotonic())

    def left(self, worker: int) -> None:
        """A worker is no longer there."""
        self.workers_left += 1
        del self.workers[worker]

    def moved(self, tokens: int | None) -> None:
        """A transfer is over; None: it failed."""
        if tokens is None:
            self.failed_transfers += 1
        else:
            self.transfers += 1
            self.transferred_tokens += tokens

    def committed(self, commit: Commit) -> None:
        """Tokens went to an edge."""
        self.committed_tokens += len(commit.tokens)

    def sessions(self, count: int) -> None:
        """Sessions that are open now."""
        self.open_sessions = count
        self.most_sessions = max(self.most_sessions, count)

    def ended(self, status: Status, *, refused: bool) -> None:
        """A stream was ended."""
        self.endings[status] += 1
        self.refused += refused
