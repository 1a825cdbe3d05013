"""What befalls the workers of a world: drawn before it begins, so that a world is its seed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shared.profiled import Profile

HICCUP = 20.0


class Misfortune(Enum):
    """How a worker's service may come to an end, or pause."""

    DRAIN = "drains"
    """It is told to stop, and goes when its sessions have moved."""
    CRASH = "crashes"
    """It is gone at once; the server notices a little later."""
    FREEZE = "freezes"
    """It answers nothing for a while, and everything afterwards; or is declared left by the deadline."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One worker of a world."""

    join_ms: float = 0.0
    profile: Profile | None = None
    """What its steps cost; None: what the pair's own profile says. Of acceptance and drafting nothing is read here."""
    kind: str = ""
    """What its hardware is called."""
    slowness: float = 1.0
    """Its steps last so many times as long as the profile says."""
    hiccup: float = 0.0
    """Per step: it lasts `HICCUP` times as long."""
    kv_tokens: int | None = None
    """Tokens of all sessions that it can hold; None: as many as there are."""
    misfortune: Misfortune | None = None
    misfortune_ms: float = 0.0
    """When, counted from its joining."""
    freeze_ms: float = 0.0
    returns_ms: float | None = None
    """How long after its end another takes its place, under a number of its own; None: nobody does, unless it was the
    last."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The workers of one server."""

    workers: tuple[WorkerPlan, ...]
    deadline_ms: float = 500.0
    """A worker that has not answered for so long is declared left."""
    noticed_ms: tuple[float, ...] = (0.0,)
    """A crash is noticed after one of these."""
    transfer_token_ms: float = 0.01
    """Moving the KV of one token takes so long."""
    transfer_failure: float = 0.0
    """Per transfer: it fails on the way, or arrives damaged and is refused."""
    poison_kills: bool = False
    """A poisonous session's step ends the worker's process instead of raising in it."""

    @property
    def several(self) -> bool:
        """Whether there is ever more than one."""
        return len(self.workers) > 1


LONE = FleetPlan((WorkerPlan(kv_tokens=1),))
"""One worker that nothing happens to; what it can hold is known to its pool alone."""
