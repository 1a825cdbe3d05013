"""What is measured: a pair, a link, so many clients, and the ways to serve them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from shared.profiled import Profile

STEP_MS: Final = 30.0
FLAT_NODES: Final = 64
"""Up to so many nodes a step is bound by reading the weights, and lasts the same."""
NODE_MS: Final = STEP_MS / FLAT_NODES
"""Beyond them it is bound by computing: twice the nodes take twice as long."""
ACCEPTANCE: Final = 0.8

EASY_LOAD: Final = 2.0
"""Clients with a drafter of `EASY_DRAFT_MS` that two cores carry without stretching the time."""
EASY_DRAFT_MS: Final = 3.0
MOST_STRETCH: Final = 16.0
MANY_CLIENTS: Final = 16
LEAST_FOR_MANY: Final = 4.0
"""Above `MANY_CLIENTS` the server's own share counts as well, whatever the drafters do."""


class Batching(StrEnum):
    """What a co-located drafter's forward on one sequence of each of several sessions costs."""

    FREE = "free"
    """As much as on a single sequence: generous, as if a small model were bound by nothing but its weights."""
    PAID = "paid"
    """Each further sequence costs `Profile.branch_cost` of a forward, as each further branch does at the edge."""


class Arm(StrEnum):
    """A way to serve."""

    CLOUD = "cloud"
    """A step for each token."""
    COLOCATED = "colocated"
    """Synchronous speculation with the drafter on the verifier's own device, which drafts before each step; its batch
    costs nothing (`Batching.FREE`)."""
    COLOCATED_PAID = "colocated-paid"
    """The same, whose batch costs what an edge's branches cost (`Batching.PAID`)."""
    SLIPSTREAM = "slipstream"
    """Drafters at the edges."""


NAMES: Final = {
    Arm.CLOUD: "cloud alone",
    Arm.COLOCATED: "SI co-located, batch free",
    Arm.COLOCATED_PAID: "SI co-located, batch paid",
    Arm.SLIPSTREAM: "Slipstream",
}
BATCHING: Final = {Arm.COLOCATED: Batching.FREE, Arm.COLOCATED_PAID: Batching.PAID}
"""The co-located arms, and what their drafter's batch costs."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One cell. Times are unstretched."""

    clients: int
    rtt_ms: float
    draft_ms: float
    """Of a drafter's forward on one node, at the edge and co-located alike."""
    tokens: int
    """Of one generation; a client begins the next when one has ended."""
    stretch: float
    """Step, drafter and link are that many times slower than they are said to be, and figures are divided by it."""

    @property
    def key(self) -> str:
        """For people and files."""
        return f"{self.clients} clients, RTT {self.rtt_ms:g} ms, drafter {self.draft_ms:g} ms"

    @property
    def pair(self) -> Profile:
        """Unstretched."""
        return Profile(
            acceptance=ACCEPTANCE,
            step_ms=STEP_MS,
            draft_ms=self.draft_ms,
            flat_nodes=FLAT_NODES,
            node_ms=NODE_MS,
        )

    @property
    def stretched(self) -> Setting:
        """As it is run: nothing is left to be stretched."""
        return replace(
            self, rtt_ms=self.rtt_ms * self.stretch, draft_ms=self.draft_ms * self.stretch, stretch=1.0
        )

    @property
    def source(self) -> str:
        """The pair as it is run, as servers and drafters take it."""
        pair = self.pair
        times = (("step_ms", pair.step_ms), ("draft_ms", pair.draft_ms), ("node_ms", pair.node_ms))
        stretched = ",".join(f"{name}={ms * self.stretch:.6g}" for name, ms in times)
        return f"profiled:acceptance={pair.acceptance:g},flat_nodes={pair.flat_nodes},{stretched}"


def stretch_for(clients: int, draft_ms: float) -> float:
    """How many times slower everything must run here so that two cores are no bottleneck; a power of two.

    What costs them is drafting: so many clients, so many forwards a second each.
    """
    load = clients * min(1.0, EASY_DRAFT_MS / draft_ms) / EASY_LOAD
    stretch = 1.0 if clients <= MANY_CLIENTS else LEAST_FOR_MANY
    while stretch < load and stretch < MOST_STRETCH:
        stretch *= 2.0
    return stretch
