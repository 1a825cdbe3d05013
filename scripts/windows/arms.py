"""What is compared: modes of drafting, ways to size a window in each, routing, batching, and fleets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from edge_client.policies import DraftOptions, Mode, Shape, Sizing
from scripts.windows.load import Load, mixed
from shared.policy.batching import Batching, Fifo, FlatBudget, LengthAware, MeasuredBudget, NodeBudget
from shared.policy.routing import LeastWork, RandomRouting, RoundRobin, Routing, ShortestQueue
from shared.pool import PoolPolicies, PoolScheduler

STATIC_WINDOW: Final = 4
"""DSD's static baseline: window 4 everywhere."""
DSD_MOST: Final = 12
"""Its windows end here (`EmaWindow.most`)."""


class Drafts(StrEnum):
    """How drafts travel."""

    SYNC = "sync"
    """DSD's own mode: a block up, its verdict down."""
    CHAIN = "stream chain"
    """Drafts fly ahead, one candidate per place."""
    TREE = "stream tree"
    """Slipstream as it comes."""


class Sizer(StrEnum):
    """How a window is sized."""

    STATIC = "static 4"
    EMA = "ema"
    LEARNED = "learned"
    MEASURED = "measured"
    ORACLE = "oracle"
    """The best fixed window of the fleet, known afterwards."""


OPTIONS: Final[Mapping[Drafts, DraftOptions]] = MappingProxyType(
    {
        Drafts.SYNC: DraftOptions(mode=Mode.SYNC),
        Drafts.CHAIN: DraftOptions(shape=Shape.CHAIN),
        Drafts.TREE: DraftOptions(shape=Shape.TREE),
    }
)
SIZINGS: Final[Mapping[Sizer, Sizing]] = MappingProxyType(
    {Sizer.EMA: Sizing.EMA, Sizer.LEARNED: Sizing.LEARNED, Sizer.MEASURED: Sizing.MEASURED}
)
WINDOWS: Final[Mapping[Drafts, tuple[int, ...]]] = MappingProxyType(
    {
        Drafts.SYNC: (1, 2, 3, 4, 6, 8, 10, 12, 16),
        Drafts.CHAIN: (4, 8, 12, 16, 32, 64),
        Drafts.TREE: (4, 32, 64, 128, 256, 512),
    }
)
"""Where the oracle looks; `STATIC_WINDOW` is among them."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to draft."""

    drafts: Drafts
    sizer: Sizer
    window: int | None = None
    """Of a fixed one."""

    @property
    def name(self) -> str:
        """As it is shown."""
        sized = self.sizer.value if self.window is None else f"window {self.window}"
        return f"{self.drafts.value}, {sized}"

    @property
    def options(self) -> DraftOptions:
        """As the edge is told."""
        options = OPTIONS[self.drafts]
        if self.window is None:
            return replace(options, sizing=SIZINGS[self.sizer])
        if self.drafts is Drafts.SYNC:
            return replace(options, sizing=Sizing.FIXED, lookahead=self.window)
        return replace(options, sizing=Sizing.FIXED, window=self.window)


def fixed(drafts: Drafts, window: int) -> Arm:
    """A fixed window: one that the oracle tries, or the static one."""
    return Arm(drafts, Sizer.STATIC if window == STATIC_WINDOW else Sizer.ORACLE, window)


STATIC: Final = fixed(Drafts.SYNC, STATIC_WINDOW)
"""The named baseline."""
OURS: Final = Arm(Drafts.TREE, Sizer.MEASURED)


@dataclass(frozen=True, slots=True)
class Cloud:
    """How a pool is run."""

    routing: str
    batching: str
    sessions_per_step: int | None = None

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"{self.routing}, {self.batching}"

    def make_pool(self) -> PoolScheduler:
        """A pool that nobody has joined."""
        batching, budget = BATCHINGS[self.batching]
        policies = PoolPolicies(
            routing=ROUTINGS[self.routing], batching=batching, sessions_per_step=self.sessions_per_step
        )
        return PoolScheduler(budget, policies=policies)


ROUTINGS: Final[Mapping[str, Callable[[], Routing]]] = MappingProxyType(
    {
        "random": RandomRouting,
        "round-robin": RoundRobin,
        "shortest queue": ShortestQueue,
        "least work": LeastWork,
    }
)
BATCHINGS: Final[Mapping[str, tuple[Batching, Callable[[], NodeBudget]]]] = MappingProxyType(
    {
        "fifo": (Fifo(), FlatBudget),
        "length-aware": (LengthAware(), FlatBudget),
        "node-budgeted": (Fifo(), MeasuredBudget),
    }
)
PRODUCT: Final = Cloud("least work", "node-budgeted")

ACCEPTANCES: Final = (0.55, 0.7, 0.8, 0.9)
DRAFTS_MS: Final = (2.0, 4.0, 8.0)
RTTS_MS: Final = (10.0, 30.0, 60.0, 100.0)

MIXED: Final = Load("mixed", mixed(4, ACCEPTANCES[::3], DRAFTS_MS, (10.0, 100.0)))
FLEETS: Final[tuple[Load, ...]] = (
    MIXED,
    Load("near", mixed(4, ACCEPTANCES, DRAFTS_MS, (10.0,))),
    Load("far", mixed(4, ACCEPTANCES, DRAFTS_MS, (100.0,))),
    Load("easy", mixed(4, (0.9,), DRAFTS_MS, RTTS_MS)),
    Load("hard", mixed(4, (0.5,), DRAFTS_MS, RTTS_MS)),
    Load("slow drafters", mixed(4, ACCEPTANCES[1:2], (16.0,), RTTS_MS)),
    # A server learns in its first steps what they cost; with so many clients those are long ones.
    Load(
        "crowded",
        mixed(12, ACCEPTANCES, DRAFTS_MS, RTTS_MS),
        flat_nodes=16,
        node_ms=1.0,
        seconds=16.0,
        warm_up_s=4.0,
    ),
    Load("alone", mixed(1, (0.8,), (4.0,), (50.0,)), seconds=30.0),
)
POOL: Final = Load("pool", mixed(12, ACCEPTANCES, DRAFTS_MS, RTTS_MS), workers=2, seconds=8.0)
"""Where routing and batching have a choice: `POOL_STEP` sessions share a step."""
POOL_STEP: Final = 5
