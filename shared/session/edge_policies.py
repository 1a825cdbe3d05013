"""The policies of an edge's session."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.policy.agreement import Agreement, Claimed
from shared.policy.expansion import Expansion
from shared.policy.pacing import Pacing
from shared.policy.reconnect import Reconnect
from shared.policy.window import Window


@dataclass(slots=True)
class EdgePolicies:
    """Where speed comes from; no `expansion` means that this edge never drafts."""

    window: Window
    pacing: Pacing
    expansion: Expansion | None
    reconnect: Reconnect
    draft_context: int
    """Longest prefix that the drafter can take, in tokens."""
    agreement: Agreement = field(default_factory=Claimed)
    moves: bool = False
    """Whether there are other servers: one that goes away is left for another, else it serves until it ends."""
