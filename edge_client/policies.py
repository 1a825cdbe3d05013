"""Where the policies of a session are chosen: one table, mode and shape to policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shared.policy.agreement import Agreement, Calibrated, Claimed
from shared.policy.expansion import BestFirst, Expansion, MarginalGain, chain
from shared.policy.learned_window import Drafting, LearnedWindow, Watch, shipped
from shared.policy.pacing import AtOnce, Block, Blocks, Coalescing, Pacing, Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.window import (
    AdvisedWindow,
    EmaWindow,
    FixedWindow,
    MeasuredBlock,
    MeasuredWindow,
    Window,
)
from shared.session.edge import EdgePolicies

DEFAULT_PATIENCE_MS: Final = 2_000.0
"""How long synchronous speculation has the cloud wait for a block, if nothing else is said."""
MOST_ADAPTIVE_PATIENCE_MS: Final = 200.0
"""The server decides by what it measures, and by default it waits only where that is faster."""


class Mode(Enum):
    """Who waits for whom. The text is the same in each."""

    STREAM = "stream"
    """Nobody waits: drafts fly ahead, and the cloud decodes alone where it has none."""
    SYNC = "sync"
    """Classic speculative inference over the network: a block up, its verdict down."""
    CLOUD = "cloud"
    """The edge never drafts."""


class Shape(Enum):
    """What a draft may look like."""

    TREE = "tree"
    """Several candidates per place, the likeliest first."""
    CHAIN = "chain"
    """One candidate per place."""


class Spread(Enum):
    """How many branches of a tree go into one forward."""

    MARGINAL = "marginal"
    """As many as pay, by the measured cost of a forward."""
    FIXED = "fixed"
    """As many as there are."""


class Pace(Enum):
    """When drafts are sent."""

    COALESCED = "coalesced"
    """In time for the next verify step, and no faster than the uplink takes them."""
    AT_ONCE = "at-once"
    """After every forward."""


class Sizing(Enum):
    """How many nodes may be in flight."""

    MEASURED = "measured"
    """What the steps of a round trip can look at, by the server's advice; at most `window`."""
    ADVISED = "advised"
    """`window`, or less where the server advises less."""
    FIXED = "fixed"
    """`window`."""
    EMA = "ema"
    """DSD's rule: grows and shrinks with the acceptance, from 2 to 12."""
    LEARNED = "learned"
    """What a small network that was trained in the simulator makes of queue, acceptance, round trip and TPOT."""


class Belief(Enum):
    """What is believed of the drafter's own estimates."""

    CALIBRATED = "calibrated"
    """As much as they were worth so far."""
    CLAIMED = "claimed"
    """All."""


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """How to draft. Only speed and cost depend on it."""

    mode: Mode = Mode.STREAM
    shape: Shape | None = None
    """None: a tree. Sync mode drafts chains."""
    lookahead: int = 4
    """Sync mode: tokens in a block."""
    window: int | None = None
    """Nodes in flight at most; the server may advise fewer. In sync mode it bounds the block. None: `WINDOWS`."""
    branches: int = 8
    """Tree: nodes in one forward at most."""
    width: int = 8
    """Tree: candidates for one place at most."""
    max_cost: float = 6.0
    """Tree: nats below the end of the log beyond which a node is worth nothing."""
    spread: Spread = Spread.MARGINAL
    pace: Pace = Pace.COALESCED
    sizing: Sizing | None = None
    """None: measured. In sync mode it is the length of the blocks: `lookahead` if none is given, or if it is fixed or
    advised."""
    belief: Belief = Belief.CALIBRATED
    patience_ms: float | None = None
    """How long the cloud is to wait for a draft before it decodes alone. None: as long as it finds worth while, at most
    `MOST_ADAPTIVE_PATIENCE_MS`; in sync mode `DEFAULT_PATIENCE_MS`, or as long as the server grants."""

    def __post_init__(self) -> None:
        for name in ("lookahead", "window", "branches", "width"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not self.max_cost > 0.0:
            raise ValueError(f"max_cost must be above 0, not {self.max_cost}")
        if self.patience_ms is not None and not 0.0 <= self.patience_ms < float("inf"):
            raise ValueError(f"patience_ms must be at least 0, not {self.patience_ms}")

    def shape_for(self) -> Shape | None:
        """The shape of the drafts; None: there are none."""
        match self.mode:
            case Mode.CLOUD:
                return None
            case Mode.SYNC:
                return Shape.CHAIN
            case Mode.STREAM:
                return Shape.TREE if self.shape is None else self.shape

    def patience_for(self, granted_ms: float) -> tuple[float, float]:
        """What to ask for where at most `granted_ms` are granted: a fixed patience, and the most of an adaptive one."""
        if self.patience_ms is not None:
            return self.patience_ms, 0.0
        if self.mode is Mode.SYNC:
            return min(DEFAULT_PATIENCE_MS, granted_ms), 0.0
        return 0.0, min(MOST_ADAPTIVE_PATIENCE_MS, granted_ms)


WINDOWS: Final[dict[Shape, int]] = {
    # Siblings are cheap guesses, and most of a tree dies with each commit: it takes more of them to cover a round trip.
    Shape.TREE: 512,
    Shape.CHAIN: 64,
}
"""Nodes in flight at most, where nothing else is asked for."""


def policies_for(
    options: DraftOptions, shape: Shape | None, reconnect: Reconnect, draft_context: int
) -> EdgePolicies:
    """Fresh policies for one session. `shape` is what `shape_for` says; None: this session never drafts."""
    if shape is None or options.mode is Mode.CLOUD:
        return EdgePolicies(FixedWindow(1), Streaming(), None, reconnect, draft_context)
    most = WINDOWS[shape] if options.window is None else options.window
    if options.mode is Mode.SYNC:
        window, pacing = _blocks(options, most)
        return EdgePolicies(window, pacing, chain(), reconnect, draft_context)
    beat = Coalescing()  # the edge's knowledge of the server's steps, whether or not it sends to their beat
    return EdgePolicies(
        _WINDOWS[options.sizing or Sizing.MEASURED](most, beat, shape),
        _PACINGS[options.pace](beat),
        chain() if shape is Shape.CHAIN else _EXPANSIONS[options.spread](options),
        reconnect,
        draft_context,
        _AGREEMENTS[options.belief](),
    )


_EXPANSIONS: Final[dict[Spread, Callable[[DraftOptions], Expansion]]] = {
    Spread.MARGINAL: lambda options: MarginalGain(options.branches, options.width, options.max_cost),
    Spread.FIXED: lambda options: BestFirst(options.branches, options.width, options.max_cost),
}
_PACINGS: Final[dict[Pace, Callable[[Coalescing], Pacing]]] = {
    Pace.COALESCED: lambda beat: beat,
    Pace.AT_ONCE: AtOnce,
}
_WINDOWS: Final[dict[Sizing, Callable[[int, Coalescing, Shape], Window]]] = {
    Sizing.MEASURED: lambda most, beat, _: MeasuredWindow(most, beat.steps_in_flight),
    Sizing.ADVISED: lambda most, _, __: AdvisedWindow(most),
    Sizing.FIXED: lambda most, _, __: FixedWindow(most),
    Sizing.EMA: lambda _, __, ___: EmaWindow(),
    Sizing.LEARNED: lambda most, beat, shape: LearnedWindow(shipped(_DRAFTINGS[shape]), most, Watch(beat)),
}
_DRAFTINGS: Final[dict[Shape, Drafting]] = {Shape.TREE: Drafting.TREE, Shape.CHAIN: Drafting.CHAIN}
_AGREEMENTS: Final[dict[Belief, Callable[[], Agreement]]] = {
    Belief.CALIBRATED: Calibrated,
    Belief.CLAIMED: Claimed,
}


def _blocks(options: DraftOptions, most: int) -> tuple[Window, Pacing]:
    """How long the blocks of synchronous speculation are."""
    beat = Coalescing()
    window: Window
    match options.sizing:
        case Sizing.EMA:
            window = EmaWindow(most=min(EmaWindow().most, most))
        case Sizing.LEARNED:
            window = LearnedWindow(shipped(Drafting.BLOCK), most, Watch(beat))
        case Sizing.MEASURED:
            window = MeasuredBlock(most, beat)
        case _:
            block = min(options.lookahead, most)
            return FixedWindow(block), Block(block)
    return window, Blocks(beat, window)
