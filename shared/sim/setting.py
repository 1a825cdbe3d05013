"""What everything in a world shares: its clock, its seed, its faults, its trace."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.sim.clock import VirtualClock

STREAMS_PER_EDGE = 1_000_000
"""The streams of edge i are numbered from (i + 1) times this."""


class LawBroken(AssertionError):
    """A world ended in a state that the laws exclude."""


@dataclass(slots=True)
class Faults:
    """What may go wrong, as probabilities per occasion; all randomness is keyed by entity."""

    stream_loss: float = 0.0
    """Per message: the stream it travels on breaks."""
    step_failure: float = 0.0
    """Per step: it never comes back and is asked for again."""
    eviction: float = 0.0
    """Per item of a step: the worker has lost the session's cache."""
    silence: float = 0.0
    """Per forward: the drafter takes `silence_ms` longer."""
    silence_ms: float = 2000.0


@dataclass(slots=True)
class Setting:
    """One world's circumstances. `trace` is equal for equal arguments."""

    seed: int
    faults: Faults
    through_codec: bool
    """Whether every message is written to the wire format and read again."""
    check_every: int = 1
    """Laws that cost more than a moment are checked at every so many-th step; above 1 the driver checks the rest."""
    clock: VirtualClock = field(default_factory=VirtualClock)
    trace: list[tuple[int, str]] = field(default_factory=list)
    """(virtual time in ns, what happened)."""

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append((self.clock.now, what))
