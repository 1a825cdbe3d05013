"""What is run live and simulated: a pair, a link, so many clients, and how they draft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from edge_client.policies import DraftOptions, Mode, Shape, Sizing
from scripts.bench_latency.arms import PLAIN
from shared.profiled import Profile
from shared.session.front import CloudPolicies

STEP_MS: Final = 30.0
FLAT_NODES: Final = 64
NODE_MS: Final = STEP_MS / FLAT_NODES
"""As in the capacity benchmark: flat while the weights are read, then as long as the computing takes."""
DRAFT_MS: Final = 3.0
LOOKAHEAD: Final = 4


class Policy(StrEnum):
    """How the clients draft, and what is asked of the cloud."""

    CLOUD = "cloud alone"
    SYNC = "sync"
    CHAIN = "chain"
    TREE = "tree"
    CHAIN_WINDOW = "chain, window 8"
    CHAIN_PATIENT = "chain, patience 15 ms"
    TREE_WINDOW = "tree, window 16"
    TREE_EMA = "tree, window by EMA"
    TREE_PATIENT = "tree, patience 15 ms"


PATIENCE_MS: Final = 15.0
OPTIONS: Final[Mapping[Policy, DraftOptions]] = {
    Policy.CLOUD: DraftOptions(mode=Mode.CLOUD),
    Policy.SYNC: DraftOptions(mode=Mode.SYNC, lookahead=LOOKAHEAD),
    Policy.CHAIN: DraftOptions(shape=Shape.CHAIN),
    Policy.TREE: DraftOptions(shape=Shape.TREE),
    Policy.CHAIN_WINDOW: DraftOptions(shape=Shape.CHAIN, window=8, sizing=Sizing.FIXED),
    Policy.CHAIN_PATIENT: DraftOptions(shape=Shape.CHAIN, patience_ms=PATIENCE_MS),
    Policy.TREE_WINDOW: DraftOptions(shape=Shape.TREE, window=16, sizing=Sizing.FIXED),
    Policy.TREE_EMA: DraftOptions(shape=Shape.TREE, sizing=Sizing.EMA),
    Policy.TREE_PATIENT: DraftOptions(shape=Shape.TREE, patience_ms=PATIENCE_MS),
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One row. Times are unstretched."""

    policy: Policy
    rtt_ms: float
    acceptance: float
    clients: int = 1
    workers: int = 1
    sp_degree: int = 1
    draft_ms: float = DRAFT_MS
    """Of a drafter's forward on one node."""
    tokens: int = 120
    """Of one generation."""
    generations: int = 2
    """Of one client, one after the other."""
    stretch: float = 4.0
    """Step, drafter, link and patience last so many times as long as they are said to, live and simulated alike;
    figures are divided by it."""

    @property
    def key(self) -> str:
        """For people."""
        parts = [f"{self.policy.value}, RTT {self.rtt_ms:g} ms, acceptance {self.acceptance:g}"]
        parts += [f"{self.clients} clients"] if self.clients > 1 else []
        parts += [f"{self.workers} workers"] if self.workers > 1 else []
        parts += [f"SP {self.sp_degree}"] if self.sp_degree > 1 else []
        parts += [f"drafter {self.draft_ms:g} ms"] if self.draft_ms != DRAFT_MS else []
        return ", ".join(parts)

    @property
    def stretched_rtt_ms(self) -> float:
        """As it is run."""
        return self.rtt_ms * self.stretch

    @property
    def pair(self) -> Profile:
        """As it is run."""
        return Profile(
            acceptance=self.acceptance,
            step_ms=STEP_MS * self.stretch,
            draft_ms=self.draft_ms * self.stretch,
            flat_nodes=FLAT_NODES,
            node_ms=NODE_MS * self.stretch,
        )

    @property
    def source(self) -> str:
        """`pair` as servers and drafters take it."""
        pair = self.pair
        parts = (
            f"{name}={getattr(pair, name)!r}"
            for name in ("acceptance", "step_ms", "draft_ms", "flat_nodes", "node_ms")
        )
        return f"profiled:{','.join(parts)}"

    @property
    def draft(self) -> DraftOptions:
        """As it is run."""
        options = OPTIONS[self.policy]
        if options.patience_ms is None:
            return options
        return replace(options, patience_ms=options.patience_ms * self.stretch)

    @property
    def drafts(self) -> bool:
        """Whether there is a drafter."""
        return self.policy is not Policy.CLOUD

    @property
    def cloud(self) -> CloudPolicies:
        """The baselines' servers do nothing clever."""
        return PLAIN if self.policy in (Policy.CLOUD, Policy.SYNC) else CloudPolicies()
