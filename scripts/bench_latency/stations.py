"""What a cell needs to be running: its servers, its links, its edges, its peer. All are children that end with it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field

from edge_client.options import GenerateOptions
from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.deployment import Deployment
from scripts.bench_latency.peer_process import PeerAsk, PeerOptions
from scripts.bench_latency.plan import Arm, Cell, Place
from scripts.bench_latency.wire import OPEN, REFUSED, Answer, Ask
from scripts.processes import Child, ChildError, child, python
from scripts.wan.link import Choice, EmulatedLink, emulated_link
from scripts.wan.profiles import WanProfile
from shared.errors import UserError
from shared.session.front import CloudPolicies

READY_S = 180.0
"""Until a server has loaded, an edge has connected, a peer has imported what it needs."""
ANSWER_S = 60.0
"""For a generation, beside what its tokens may take."""
TOKEN_S = 2.0
"""The longest that a token may take on average: several round trips to a geostationary satellite."""

_ServerKey = tuple[CloudPolicies, tuple[str, ...]]
_EdgeKey = tuple[Place, WanProfile | None, _ServerKey]

DEPLOYED: _ServerKey = (CloudPolicies(), ())
"""One server for all arms."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge process and the link that it is behind."""

    process: Child
    server: Child | None
    """None: deployed elsewhere."""
    link: EmulatedLink | None

    def generate(self, options: GenerateOptions, *, picture: bool = False) -> Answer:
        """One generation.

        Raises:
            ChildError: it failed, or a process did; the message ends with the last words of whoever broke.
        """
        self.process.write(json.dumps(encode(Ask(options, picture)), allow_nan=False))
        answer = _answer(self.process, options.max_new_tokens)
        if answer.error:
            if self.server is not None:
                self.server.check()
            raise ChildError(f"a generation failed: {answer.error}")
        return answer


@dataclass(frozen=True, slots=True)
class PeerEdge:
    """A running peer process."""

    process: Child

    def generate(self, ask: PeerAsk) -> Answer:
        """One generation.

        Raises:
            ChildError: the process broke.
        """
        self.process.write(json.dumps(encode(ask)))
        return _answer(self.process, ask.tokens)


@dataclass(slots=True)
class Stations:
    """Everything of a cell that runs. Arms that need the same share it."""

    edges: dict[str, Edge] = field(default_factory=dict)
    """By the arm's key."""
    peer: PeerEdge | None = None
    choice: Choice | None = None
    """None: nothing is emulated."""


def open_stations(cell: Cell, deployment: Deployment, seed: int, stack: contextlib.ExitStack) -> Stations:
    """Start everything of `cell`; it ends with `stack`. To be called on the main thread, as every child's start.

    Raises:
        UserError: what was asked for is not possible here.
        ChildError: something does not come up.
    """
    stations = Stations()
    servers: dict[_ServerKey, Child] = {}
    edges: dict[_EdgeKey, Edge] = {}
    for arm in cell.arms:
        if arm.place is Place.PEER:
            if stations.peer is None:
                stations.peer = _open_peer(cell, deployment, stack)
            continue
        link = cell.link_of(arm) if arm.place is Place.EDGE and deployment.emulate else None
        served = (arm.cloud, arm.server) if deployment.server is None else DEPLOYED
        key = (arm.place, link, served)
        if key not in edges:
            server = None
            if deployment.server is None:
                if served not in servers:
                    command = deployment.server_command(cell.pair, arm)
                    servers[served] = stack.enter_context(child("server", command, ready_s=READY_S))
                server = servers[served]
            edges[key] = _open_edge(cell, arm, deployment, server, link, seed, stack)
        stations.edges[arm.key] = edges[key]
        used = edges[key].link
        if used is not None:
            stations.choice = used.choice
    return stations


def _open_edge(
    cell: Cell,
    arm: Arm,
    deployment: Deployment,
    server: Child | None,
    link: WanProfile | None,
    seed: int,
    stack: contextlib.ExitStack,
) -> Edge:
    address = server.address if server is not None else deployment.server
    if address is None:
        raise AssertionError("a server is either deployed or started here")
    command = python("-m", "scripts.bench_latency.edge_process")
    emulated = None
    if link is not None:
        emulated = stack.enter_context(emulated_link(link, deployment.enforcer, seed))
        address, command = emulated.edge_address(address), emulated.edge_command(command)
    process = stack.enter_context(child("edge", command, ready_s=None))
    process.write(json.dumps(encode(deployment.client_options(cell.pair, arm, address))))
    _wait_open(process)
    return Edge(process, server, emulated)


def _open_peer(cell: Cell, deployment: Deployment, stack: contextlib.ExitStack) -> PeerEdge:
    process = stack.enter_context(
        child("peer", python("-m", "scripts.bench_latency.peer_process"), ready_s=None)
    )
    pair = cell.pair
    folders = (deployment.target, deployment.drafter)
    process.write(
        json.dumps(encode(PeerOptions(*folders, deployment.threads, pair.step_floor_ms, pair.draft_floor_ms)))
    )
    _wait_open(process)
    return PeerEdge(process)


def _wait_open(process: Child) -> None:
    word, _, rest = process.line(READY_S).partition(" ")
    if word == REFUSED:
        raise UserError(rest)
    if word != OPEN:
        raise ChildError(f"{process.name} said {word!r} instead of {OPEN}")


def _answer(process: Child, tokens: int) -> Answer:
    return decode(Answer, json.loads(process.line(ANSWER_S + TOKEN_S * tokens)))
