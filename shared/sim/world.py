"""A world: edges, links, a server and its workers, one clock.

It drives EdgeSession and CloudFront exactly as the asyncio drivers do. Faults are part of the world, not of the
machines: streams break, servers and workers crash and come back, steps fail, caches are evicted, drafters lie or fall
silent. Whatever happens, `check` holds the outcome to the laws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.messages import ModelInfo, SessionNotice
from shared.policy.hedging import NoHedging
from shared.pool import PoolScheduler
from shared.pool.scheduler import FATAL_LOSSES
from shared.profiled import ProfiledPair
from shared.session.front import CloudPolicies
from shared.sim.assistant import AssistPlan
from shared.sim.clock import MILLISECOND
from shared.sim.collecting import seldom_collecting
from shared.sim.edge import Edge, EdgePlan
from shared.sim.server import Server
from shared.sim.setting import STREAMS_PER_EDGE, Faults, LawBroken, Setting
from shared.sim.workers import FleetPlan


@dataclass(frozen=True, slots=True)
class Outage:
    """A server is gone, with all that it knew, and comes back."""

    start_ms: float
    length_ms: float
    server: int = 0
    notice_ms: float | None = None
    """It drains for so long before; None: it crashes."""


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
        servers: int = 1,
        outages: Sequence[Outage] = (),
        near: Callable[[int], AssistPlan] | None = None,
        through_codec: bool = False,
        policies: CloudPolicies | None = None,
        fleet: FleetPlan | None = None,
    ) -> None:
        """`fleet`: the workers that join the pool; None: `make_pool` makes pools with a worker 0. All `servers` are
        made alike, and every edge knows all of them. `near` makes the device that helps with a session of the edge of
        that index, as soon as a server is heard to have it.
        """
        setting = Setting(seed, faults if faults is not None else Faults(), through_codec)
        self.clock = setting.clock
        self.trace = setting.trace
        poisonous = frozenset(index for index, plan in enumerate(edges) if plan.poisonous)
        self.servers = [
            Server(setting, pair, info, make_pool, policies, poisonous, fleet, index=index)
            for index in range(servers)
        ]
        self.edges = [
            Edge(setting, index, plan, info, self.servers, self._start) for index, plan in enumerate(edges)
        ]
        self._pair = pair
        if near is not None:
            for server in self.servers:
                server.watch(self._helper(server, near))
        for outage in outages:
            server = self.servers[outage.server]
            if outage.notice_ms is not None:
                self.clock.at(round((outage.start_ms - outage.notice_ms) * MILLISECOND), server.drain)
            self.clock.at(round(outage.start_ms * MILLISECOND), server.crash)
            self.clock.at(round((outage.start_ms + outage.length_ms) * MILLISECOND), server.restart)

    def _helper(self, server: Server, near: Callable[[int], AssistPlan]) -> Callable[[SessionNotice], None]:
        def help_with(notice: SessionNotice) -> None:
            index = int(notice.session_id.removeprefix("s")) // STREAMS_PER_EDGE - 1
            self.edges[index].assist(near(index), (notice.session_id, notice.secret), server)

        return help_with

    @property
    def server(self) -> Server:
        """The first, or only one."""
        return self.servers[0]

    @seldom_collecting()
    def run(self, max_events: int = 2_000_000) -> None:
        """Run to the end.

        Raises:
            LawBroken: an edge never ends, or ends with anything but the target's own text.
        """
        self._start(None)
        while self.clock.step():
            if self.clock.events > max_events:
                raise LawBroken(
                    f"no end after {max_events} events: {[edge.describe() for edge in self.edges]}"
                )
            for server in self.servers:
                server.check_progress()
        self.check()

    def _start(self, after: int | None) -> None:
        for edge in self.edges:
            if edge.plan.after == after:
                self.clock.after(round(edge.plan.start_ms * MILLISECOND), edge.start)

    def check(self) -> None:
        """Every edge ended, with the text of plain decoding; nothing is left in the server."""
        unlucky = max(one.losses for one in self.servers) >= FATAL_LOSSES
        policies = self.server.front.pool.policies
        whole = policies.sp_degree == 1 and isinstance(policies.hedging, NoHedging)
        for edge in self.edges:
            edge.check(self._pair, unlucky=unlucky, whole=whole)
        for server in self.servers:
            server.check_empty()
