"""What a pool is run by. Nothing here changes a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.policy.admission import Admission
from shared.policy.batching import Batching, Fifo
from shared.policy.hedging import Hedging, NoHedging
from shared.policy.routing import LeastWork, Routing
from shared.policy.transfer import MeasuredTransfers, Transfers


@dataclass(frozen=True, slots=True)
class PrefillLimits:
    """How prompts are cut up: tokens of one chunk, and of all chunks in one step."""

    chunk: int = 256
    per_step: int = 512


@dataclass(frozen=True, slots=True)
class PoolPolicies:
    """One object of each kind serves a pool: the ones that measure are made for it, by factories.

    Raises:
        ValueError: a number is out of its range.
    """

    routing: Callable[[], Routing] = LeastWork
    batching: Batching = field(default_factory=Fifo)
    hedging: Hedging = field(default_factory=NoHedging)
    transfers: Callable[[], Transfers] = MeasuredTransfers
    admission: Admission | None = None
    """None: as many sessions as the limits of the contract say."""
    sp_degree: int = 1
    """Steps of one session that may be out at once, on as many workers (speculation parallelism)."""
    helpers: int | None = None
    """Workers that may be busy with other workers' sessions at once; None: all that have none of their own."""
    sessions_per_step: int | None = None
    check_share: float = 0.0
    """Share of committed tokens whose fact is established once more, by another worker."""

    def __post_init__(self) -> None:
        if self.sp_degree < 1:
            raise ValueError(f"sp_degree must be at least 1, not {self.sp_degree}")
        if self.helpers is not None and self.helpers < 0:
            raise ValueError(f"helpers must be at least 0, not {self.helpers}")
        if self.sessions_per_step is not None and self.sessions_per_step < 1:
            raise ValueError(f"sessions_per_step must be at least 1, not {self.sessions_per_step}")
        if not 0.0 <= self.check_share <= 1.0:
            raise ValueError(f"check_share must lie in 0..1, not {self.check_share}")
