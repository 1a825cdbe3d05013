"""Everything that a seeded world is made of, before it begins: so that parts of it can be taken away."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from shared.messages import ModelInfo
from shared.profiled import ProfiledPair
from shared.session.front import CloudPolicies
from shared.sim.assistant import AssistPlan
from shared.sim.edge import EdgePlan
from shared.sim.pools import PoolPlan
from shared.sim.setting import Faults
from shared.sim.world import Outage, World


@dataclass(frozen=True, slots=True)
class WorldPlan:
    """A world that has not begun. Its edges' policies have a state: each plan makes one world."""

    seed: int
    pair: ProfiledPair
    info: ModelInfo
    pool: PoolPlan
    edges: tuple[EdgePlan, ...]
    faults: Faults
    servers: int
    outages: tuple[Outage, ...]
    through_codec: bool
    policies: CloudPolicies
    near: Callable[[int], AssistPlan] | None
    """The device beside the server that helps with the session of the edge of that index."""

    @property
    def fingerprint(self) -> str:
        """Another one: another version draws another world from this seed. 16 hex digits."""
        edges = [(one.request, one.up, one.down, one.start_ms, len(one.assistants)) for one in self.edges]
        drawn = (
            self.pair.profile,
            self.info,
            self.pool.fleet,
            edges,
            self.faults,
            self.servers,
            self.outages,
        )
        return hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]

    def make(self) -> World:
        """The world."""
        return World(
            self.pair,
            self.info,
            self.pool.make_pool,
            list(self.edges),
            seed=self.seed,
            faults=self.faults,
            servers=self.servers,
            outages=self.outages,
            near=self.near,
            through_codec=self.through_codec,
            policies=self.policies,
            fleet=self.pool.fleet,
        )
