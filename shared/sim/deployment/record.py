"""What happened in a deployment, kept small: two arrays per generation, a few numbers per worker. Times are ns."""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, fields


class Ending(enum.Enum):
    """How a generation ended."""

    DONE = "done"
    """With all of its text."""
    FAILED = "failed"
    """Given up: its servers were gone for too long, or one of them ended it."""
    REFUSED = "refused"
    """Every server was full, as often as the user was willing to ask."""
    CUT = "cut"
    """It still ran, or still waited to be let in, when the time was over."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one generation cost, in the measured time (after the warm-up)."""

    judged: int = 0
    """Committed tokens for which the cloud held a draft of the edge."""
    accepted: int = 0
    """Committed tokens that a draft had right."""
    facts: int = 0
    """Facts that the cloud evaluated."""
    steps: int = 0
    """Verify steps that it took part in."""
    self_decoded: int = 0
    """Steps that it took without any draft."""
    stale: int = 0
    """Nodes that were dead on arrival in the cloud."""
    drafted: int = 0
    """Nodes that the drafter proposed."""
    sent: int = 0
    """Nodes that went up."""
    forwards: int = 0
    """Of the drafter."""
    drafting_ns: int = 0
    """Time that those took."""
    reconnects: int = 0
    """Streams that were opened again after a loss."""
    moves: int = 0
    """Streams that were left for another server."""
    bytes_up: int = 0
    bytes_down: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in _COUNTS))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) - getattr(other, name) for name in _COUNTS))


_COUNTS = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One generation, from the moment at which its user asked for it."""

    user: int
    """Index in the plan."""
    visit: int
    """Of this user, from 0."""
    group: str
    started: int
    """When the user first asked; it may have been refused then."""
    ended: int
    """If it was cut: when the time was over."""
    ending: Ending
    refusals: int
    """How often it was turned away, in the measured time."""
    times: array[int]
    """When each commit came to the edge."""
    sizes: array[int]
    """Tokens in each commit."""
    counts: Counts

    @property
    def tokens(self) -> int:
        """Tokens that came to the edge."""
        return sum(self.sizes)

    @property
    def first_token(self) -> int | None:
        """When the first one came; None: none did."""
        return self.times[0] if self.times else None

    @property
    def ttft_ms(self) -> float | None:
        """From asking to the first token; None: there is none."""
        return (self.times[0] - self.started) / 1e6 if self.times else None

    @property
    def tpot_ms(self) -> float | None:
        """(last - first token) / (N - 1), at the edge; None: there are not two."""
        tokens = self.tokens
        return (self.times[-1] - self.times[0]) / (tokens - 1) / 1e6 if tokens > 1 else None


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker, in the measured time."""

    server: int
    number: int
    """Unique across all servers; one that takes another's place has a number of its own."""
    kind: str
    """As its plan calls its hardware."""
    present_ns: int
    """From its joining until it left or the time was over."""
    busy_ns: int
    """With a step out. One that hangs is busy."""
    steps: int
    """That came back and had asked for something."""
    nodes: int
    """Tokens that those forwarded."""
    facts: int
    """That it stated."""


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A run. Equal for equal plans, in any process."""

    duration_ns: int
    warm_up_ns: int
    generations: tuple[GenerationRecord, ...]
    """In the order in which they ended; those that were cut last."""
    workers: tuple[WorkerRecord, ...]
    """By number."""
    groups: tuple[str, ...]
    """In the order of the plan's users."""
    events: int
    checked: int
    """Generations whose text was compared with the target's own."""
    trace_hash: str
    """SHA-256 over everything that happened: commits, steps, coming and going, with their times."""

    @property
    def measured_ns(self) -> int:
        """Length of the measured time."""
        return self.duration_ns - self.warm_up_ns
