"""EdgeSession and the cloud's machines with a scripted wire between them.

Every message, step, forward and fault is an action of its own, in any order that the wire allows. After each action
the two halves are compared node by node. A script is a seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from shared.errors import Status
from shared.messages import CloudMessage, EdgeMessage, FinishReason, Limits
from shared.policy.batching import FlatBudget
from shared.policy.expansion import BestFirst, chain
from shared.policy.pacing import Block, Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.window import FixedWindow
from shared.pool import PrefillLimits, one_worker
from shared.profiled import Profile, ProfiledPair, decode
from shared.sampling import SamplingParams
from shared.session.cloud import CloudEffect, CloudSession, EndStream
from shared.session.edge import (
    Connect,
    Done,
    EdgeEffect,
    EdgePolicies,
    EdgeSession,
    Emit,
    Failed,
    Forward,
    Request,
    SendUp,
)
from shared.session.front import CloudFront, Ticket
from shared.session.tree import Node
from shared.sim.models import SyntheticDrafter, SyntheticWorker, Temper
from shared.sim.predict import model_info
from shared.step import Step

PROMPT = (1, 2, 3, 4, 5)
ROOM = 24
LIMITS = Limits(max_nodes_per_message=3, max_live_nodes=9, max_depth=6, run_ahead=5, max_message_bytes=32)
TICK = 3_000_000
PATIENCE_US = 5_000


class Wire:
    """Both halves, and everything that is on its way between them."""

    def __init__(
        self, temper: Temper, *, block: bool, branches: int, window: int, stop: bool, nodes: int
    ) -> None:
        profile = Profile(acceptance=0.7, vocabulary_size=64, seed=window)
        self.pair = ProfiledPair(profile)
        text = decode(self.pair, PROMPT, ROOM)
        stops = (text[ROOM // 2],) if stop else ()
        self.text = decode(self.pair, PROMPT, ROOM, frozenset(stops))
        self.window = window
        policies = EdgePolicies(
            FixedWindow(window),
            Block(min(window, 3)) if block else Streaming(),
            chain() if block else BestFirst(branches, branches),
            Reconnect(patience=1e9),
            1 << 30,
        )
        info = model_info(profile, LIMITS)
        request = Request(PROMPT, ROOM, SamplingParams(), stops, PATIENCE_US if block else 0)
        self.edge = EdgeSession(request, info, policies)
        self.front = CloudFront(info, one_worker(FlatBudget(nodes, 4), PrefillLimits(2, 4)))
        self.drafter = SyntheticDrafter(self.pair, temper, window)
        self.worker = SyntheticWorker(self.pair)
        self.now = 0
        self.up: deque[EdgeMessage | None] = deque()
        """None: the stream has arrived at the cloud."""
        self.down: deque[CloudMessage | EndStream] = deque()
        self.stream = 0
        self.unnoticed: list[int] = []
        """Streams that broke, which the cloud has not noticed."""
        self.connecting: int | None = None
        self.broken = False
        """The stream broke, and the edge has not noticed."""
        self.forward: Forward | None = None
        self.step: Step | None = None
        self.outcome: Done | Failed | None = None
        self.emitted: list[int] = []
        self.edge_does(self.edge.start(0))

    # ---- performing ----

    def edge_does(self, effects: Iterable[EdgeEffect]) -> None:
        for effect in effects:
            assert self.outcome is None, "nothing follows the end"
            match effect:
                case Connect():
                    assert effect.at >= self.now
                    self.connecting = effect.stream
                case SendUp():
                    assert effect.stream == self.stream
                    self.up.append(effect.message)
                case Forward():
                    assert self.forward is None, "at most one forward is out"
                    self.forward = effect
                case Emit():
                    assert effect.position == len(PROMPT) + len(self.emitted)
                    self.emitted += effect.tokens
                case Done() | Failed():
                    self.outcome = effect

    def cloud_does(self, effects: Iterable[CloudEffect]) -> None:
        for effect in effects:
            if effect.stream == self.stream and not self.broken:
                self.down.append(effect if isinstance(effect, EndStream) else effect.message)

    # ---- what may happen ----

    def connect(self) -> None:
        assert self.connecting is not None
        self.stream, self.connecting = self.connecting, None
        self.broken = False
        self.up.append(None)
        self.edge_does(self.edge.connected(self.stream, self.now))

    def deliver_up(self) -> None:
        message = self.up.popleft()
        if message is None:
            self.cloud_does(self.front.connect(self.stream, Ticket(f"s{self.stream}", "x")))
        else:
            self.cloud_does(self.front.receive(self.stream, message, self.now))

    def deliver_down(self) -> None:
        message = self.down.popleft()
        if isinstance(message, EndStream):
            self.edge_does(self.edge.lost(self.stream, message.status, message.detail, self.now))
        else:
            self.edge_does(self.edge.receive(self.stream, message, self.now))

    def drafted(self) -> None:
        assert self.forward is not None
        results, self.forward = self.drafter.forward(self.forward), None
        self.edge_does(self.edge.drafted(results, self.now))

    def begin_step(self) -> None:
        self.step = self.front.next_step(self.now)

    def end_step(self) -> None:
        assert self.step is not None
        step, self.step = self.step, None
        self.cloud_does(self.front.complete(self.worker.step(step, 10), self.now))

    def fail_step(self) -> None:
        self.step = None
        self.cloud_does(self.front.failed())

    def break_stream(self) -> None:
        """What is on its way is lost; each side notices in its own time."""
        self.up.clear()
        self.down.clear()
        self.broken = True
        self.unnoticed.append(self.stream)

    def edge_notices(self) -> None:
        self.edge_does(self.edge.lost(self.stream, Status.UNAVAILABLE, "gone", self.now))
        self.broken = False
        self.stream = 0

    def cloud_notices(self) -> None:
        self.front.lost(self.unnoticed.pop(0), self.now)

    def close(self) -> None:
        self.edge_does(self.edge.close(self.now))

    def finish(self) -> None:
        """No more faults: it must come to its end."""
        for _ in range(2000):
            if self.outcome is not None:
                return
            if self.unnoticed:
                self.cloud_notices()
            elif self.broken:
                self.edge_notices()
            elif self.connecting is not None:
                self.connect()
            elif self.up:
                self.deliver_up()
            elif self.down:
                self.deliver_down()
            elif self.step is not None:
                self.end_step()
            elif self.forward is not None:
                self.drafted()
            else:
                self.now += TICK
                self.begin_step()
        raise AssertionError(f"no end: {len(self.edge.log)} tokens at the edge")

    # ---- laws ----

    @property
    def session(self) -> CloudSession | None:
        """The cloud's half of the stream of the moment."""
        return self.front.session_of(self.stream) if self.stream and not self.broken else None

    def check(self) -> None:
        assert not isinstance(self.outcome, Failed), self.outcome
        self._check_edge()
        cloud = self.session
        if cloud is not None and self.edge._closing is None and not cloud.over and self.outcome is None:
            self._check_halves(cloud)
            self._check_progress(cloud)

    def _check_edge(self) -> None:
        edge = self.edge
        written = edge.log.completion
        assert written == self.text[: len(written)]
        assert self.emitted == written
        alive = {node.key: node for node in edge.tree.nodes()}
        assert len(alive) == edge.tree.live
        assert edge._uplink._ids.keys() <= alive.keys()
        assert edge.in_flight <= min(self.window, LIMITS.max_live_nodes)

    def _check_halves(self, cloud: CloudSession) -> None:
        edge = self.edge
        assert cloud.log.tokens[: len(edge.log)] == edge.log.tokens
        ahead = tuple(cloud.log.tokens[len(edge.log) :])
        # The cloud's live nodes are a subset of the edge's: same tokens, same place.
        own = {_path(node, edge.tree.root) for node in edge.tree.nodes()}
        held = {ahead + _path(node, cloud.tree.root) for node in cloud.tree.nodes() if node.drafted}
        assert held <= own, f"the cloud holds {held - own}, which the edge never guessed there"
        # And an id means the same to both.
        by_id = {identity: key for key, identity in edge._uplink._ids.items()}
        nodes = {node.key: node for node in edge.tree.nodes()}
        for identity, node in cloud.drafts._nodes.items():
            mine = nodes[by_id[identity]]
            assert _path(mine, edge.tree.root) == ahead + _path(node, cloud.tree.root)
        assert cloud.drafts.remembered <= LIMITS.max_live_nodes
        assert len(cloud._nodes) == cloud.tree.live + 1
        assert cloud._in_flight <= cloud._nodes.keys()

    def _check_progress(self, cloud: CloudSession) -> None:
        """Law 4: the fact at the end is in flight, due, or waiting out something finite."""
        if cloud.end_due_at() is None:
            in_flight = cloud.tree.root.key in cloud._in_flight
            assert in_flight or len(cloud.log) - cloud.drafts.seen >= LIMITS.run_ahead
            assert not in_flight or self.step is not None


def _path(node: Node, root: Node) -> tuple[int, ...]:
    tokens: list[int] = []
    while node is not root:
        tokens.append(node.token)
        assert node.parent is not None
        node = node.parent
    return tuple(reversed(tokens))


ORDINARY = ("connect", "deliver_up", "deliver_down", "drafted", "begin_step", "end_step")
FAULTS = ("fail_step", "break", "edge_notices", "cloud_notices")


def possible(wire: Wire) -> dict[str, Callable[[], None]]:
    """What can happen next."""
    actions: dict[str, tuple[bool, Callable[[], None]]] = {
        "connect": (wire.connecting is not None, wire.connect),
        "deliver_up": (bool(wire.up), wire.deliver_up),
        "deliver_down": (bool(wire.down), wire.deliver_down),
        "drafted": (wire.forward is not None, wire.drafted),
        "begin_step": (wire.step is None, wire.begin_step),
        "end_step": (wire.step is not None, wire.end_step),
        "fail_step": (wire.step is not None, wire.fail_step),
        "break": (bool(wire.stream) and not wire.broken, wire.break_stream),
        "edge_notices": (wire.broken, wire.edge_notices),
        "cloud_notices": (bool(wire.unnoticed), wire.cloud_notices),
        "close": (len(wire.emitted) > 3, wire.close),
    }
    return {name: act for name, (may, act) in actions.items() if may and wire.outcome is None}


def play(seed: int, actions: int = 250) -> Wire:
    """One script: which way things happen, and how often, is the seed's.

    Every action has a weight of its own in every script, so that some starve the edge, some the cloud, some break
    streams all the time: lags that even odds would never build up.
    """
    random = Random(seed)
    wire = Wire(
        random.choice(list(Temper)),
        block=random.random() < 0.25,
        branches=random.randint(1, 3),
        window=random.randint(1, 12),
        stop=random.random() < 0.3,
        nodes=random.choice((1, 3, 64)),
    )
    weights = {name: random.choice((0.1, 0.3, 1.0, 3.0)) for name in ORDINARY}
    weights |= {name: random.choice((0.0, 0.02, 0.3)) for name in FAULTS}
    weights["close"] = random.choice((0.0, 0.0, 0.01))
    for _ in range(actions):
        can = possible(wire)
        names = [name for name in can if weights[name]]
        if not names:
            break
        (name,) = random.choices(names, [weights[name] for name in names])
        can[name]()
        wire.now += random.choice((0, TICK // 3, TICK))
        wire.check()
    return wire


def end(wire: Wire) -> None:
    """Whatever has happened, the rest is well: it comes to its end, with the target's own text."""
    wire.finish()
    assert isinstance(wire.outcome, Done)
    if wire.outcome.reason is not FinishReason.CLOSED:
        assert wire.edge.log.completion == wire.text
    assert wire.edge.tree.live == wire.edge.in_flight == 0
