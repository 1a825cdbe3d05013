"""A world: edges, links, one server, one clock. It drives EdgeSession and CloudFront exactly as the asyncio drivers do.

Faults are part of the world, not of the machines: streams break, servers crash and come back, steps fail, caches are
evicted, drafters lie or fall silent. Whatever happens, `check` holds the outcome to the laws.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.messages import ModelInfo
from shared.pool import PoolScheduler
from shared.profiled import ProfiledPair
from shared.session.front import CloudPolicies
from shared.sim.clock import MILLISECOND
from shared.sim.edge import Edge, EdgePlan
from shared.sim.server import Server
from shared.sim.setting import Faults, LawBroken, Setting


class World:
    """Runs until every edge is done. `trace` is equal for equal arguments."""

    def __init__(
        self,
        pair: ProfiledPair,
        info: ModelInfo,
        make_pool: Callable[[], PoolScheduler],
        edges: list[EdgePlan],
        *,
        seed: int = 0,
        faults: Faults | None = None,
        server_outages: list[tuple[float, float]] | None = None,
        through_codec: bool = False,
        policies: CloudPolicies | None = None,
    ) -> None:
        setting = Setting(seed, faults if faults is not None else Faults(), through_codec)
        self.clock = setting.clock
        self.trace = setting.trace
        poisonous = frozenset(index for index, plan in enumerate(edges) if plan.poisonous)
        self.server = Server(setting, pair, info, make_pool, policies, poisonous)
        self.edges = [Edge(setting, index, plan, info, self.server) for index, plan in enumerate(edges)]
        self._pair = pair
        for start_ms, length_ms in server_outages or []:
            self.clock.at(round(start_ms * MILLISECOND), self.server.crash)
            self.clock.at(round((start_ms + length_ms) * MILLISECOND), self.server.restart)

    def run(self, max_events: int = 2_000_000) -> None:
        """Run to the end.

        Raises:
            LawBroken: an edge never ends, or ends with anything but the target's own text.
        """
        for edge in self.edges:
            self.clock.at(round(edge.plan.start_ms * MILLISECOND), edge.start)
        while self.clock.step():
            if self.clock.events > max_events:
                raise LawBroken(
                    f"no end after {max_events} events: {[edge.describe() for edge in self.edges]}"
                )
            self.server.check_progress()
        self.check()

    def check(self) -> None:
        """Every edge ended, with the text of plain decoding; nothing is left in the server."""
        for edge in self.edges:
            edge.check(self._pair)
        self.server.check_empty()
