"""Where the policies of a session are chosen: one table, mode and shape to policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shared.policy.expansion import BestFirst, chain
from shared.policy.pacing import Block, Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.window import AdvisedWindow, FixedWindow
from shared.session.edge import EdgePolicies

DEFAULT_PATIENCE_MS: Final = 2_000.0
"""How long synchronous speculation has the cloud wait for a block, if nothing else is said."""


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


@dataclass(frozen=True, slots=True)
class DraftOptions:
    """How to draft. Only speed and cost depend on it."""

    mode: Mode = Mode.STREAM
    shape: Shape | None = None
    """None: a tree if the drafter can do several branches in one forward. Sync mode drafts chains."""
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
    patience_ms: float | None = None
    """How long the cloud is to wait for a draft before it decodes alone; None: not at all, in sync mode
    `DEFAULT_PATIENCE_MS` or as long as the server grants."""

    def __post_init__(self) -> None:
        for name in ("lookahead", "window", "branches", "width"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not self.max_cost > 0.0:
            raise ValueError(f"max_cost must be above 0, not {self.max_cost}")
        if self.patience_ms is not None and not 0.0 <= self.patience_ms < float("inf"):
            raise ValueError(f"patience_ms must be at least 0, not {self.patience_ms}")

    def shape_for(self, trees: bool) -> Shape | None:
        """The shape of the drafts with a drafter that does (or not) several branches at once; None: no drafts."""
        match self.mode:
            case Mode.CLOUD:
                return None
            case Mode.SYNC:
                return Shape.CHAIN
            case Mode.STREAM:
                return self.shape if self.shape is not None else Shape.TREE if trees else Shape.CHAIN

    def patience_for(self, granted_ms: float) -> float:
        """Milliseconds to ask for, where the server grants at most `granted_ms`."""
        if self.patience_ms is not None:
            return self.patience_ms
        return min(DEFAULT_PATIENCE_MS, granted_ms) if self.mode is Mode.SYNC else 0.0


WINDOWS: Final[dict[tuple[Mode, Shape | None], int]] = {
    # Siblings are cheap guesses, and most of a tree dies with each commit: it takes more of them to cover a round trip.
    (Mode.STREAM, Shape.TREE): 256,
    (Mode.STREAM, Shape.CHAIN): 64,
    (Mode.SYNC, Shape.CHAIN): 64,
    (Mode.CLOUD, None): 1,
}
"""Nodes in flight, where nothing else is asked for."""

_Maker = Callable[[DraftOptions, int, Reconnect, int], EdgePolicies]

_TABLE: Final[dict[tuple[Mode, Shape | None], _Maker]] = {
    (Mode.STREAM, Shape.TREE): lambda o, window, reconnect, context: EdgePolicies(
        AdvisedWindow(window), Streaming(), BestFirst(o.branches, o.width, o.max_cost), reconnect, context
    ),
    (Mode.STREAM, Shape.CHAIN): lambda _, window, reconnect, context: EdgePolicies(
        AdvisedWindow(window), Streaming(), chain(), reconnect, context
    ),
    (Mode.SYNC, Shape.CHAIN): lambda o, window, reconnect, context: EdgePolicies(
        FixedWindow(min(o.lookahead, window)),
        Block(min(o.lookahead, window)),
        chain(),
        reconnect,
        context,
    ),
    (Mode.CLOUD, None): lambda _, window, reconnect, context: EdgePolicies(
        FixedWindow(window), Streaming(), None, reconnect, context
    ),
}


def policies_for(
    options: DraftOptions, shape: Shape | None, reconnect: Reconnect, draft_context: int
) -> EdgePolicies:
    """Fresh policies for one session. `shape` is what `shape_for` says; None: this session never drafts."""
    mode = Mode.CLOUD if shape is None else options.mode
    window = WINDOWS[mode, shape] if options.window is None else options.window
    return _TABLE[mode, shape](options, window, reconnect, draft_context)
