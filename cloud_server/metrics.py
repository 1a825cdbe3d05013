"""Counters of one server. Plain numbers behind one small object, so that what exports them can be chosen later."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from shared.errors import Status
from shared.messages import Commit
from shared.policy.lookup import LookupCounts
from shared.step import Step, StepOutcome


@dataclass(slots=True)
class Metrics:
    """What a server did since it started."""

    steps: int = 0
    failed_steps: int = 0
    step_us: int = 0
    """Time spent in steps."""
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

    def stepped(self, step: Step, outcome: StepOutcome) -> None:
        """A step came back."""
        self.steps += bool(step.items)
        self.step_us += outcome.duration_us
        self.facts += sum(len(item.facts) for item in outcome.items)
        self.computed_tokens += sum(item.computed for item in outcome.items)

    def failed(self) -> None:
        """A step raised."""
        self.failed_steps += 1

    def committed(self, commit: Commit) -> None:
        """Tokens went to an edge."""
        self.committed_tokens += len(commit.tokens)

    def sessions(self, count: int) -> None:
        """Sessions that are open now."""
        self.open_sessions = count
        self.most_sessions = max(self.most_sessions, count)

    def ended(self, status: Status) -> None:
        """A stream was ended."""
        self.endings[status] += 1
