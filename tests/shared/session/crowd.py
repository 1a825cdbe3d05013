"""One owner and several assistants against the cloud's machines, in any order that their wires allow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from shared.errors import Status
from shared.messages import CloudMessage, EdgeMessage, FinishReason, Limits, Opened, SessionNotice
from shared.policy.batching import FlatBudget
from shared.policy.expansion import BestFirst
from shared.policy.pacing import Streaming
from shared.policy.reconnect import Reconnect
from shared.policy.window import FixedWindow
from shared.pool import PrefillLimits, one_worker
from shared.profiled import Profile, ProfiledPair, decode
from shared.sampling import SamplingParams
from shared.session.assist import AssistSession
from shared.session.cloud import CloudEffect, CloudSession, EndStream
from shared.session.cloud_effects import Announce, Send
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
LIMITS = Limits(max_nodes_per_message=3, max_live_nodes=9, max_depth=6, run_ahead=8, max_attached=2)
TICK = 3_000_000
GRACE_S = 0.3
WATCHER = 1_000_000


class Party:
    """An edge or an assistant, its drafter, and the two directions of its wire."""

    def __init__(self, crowd: Crowd, temper: Temper, window: int) -> None:
        self.crowd = crowd
        self.drafter = SyntheticDrafter(crowd.pair, temper, window)
        self.policies = EdgePolicies(
            FixedWindow(window), Streaming(), BestFirst(2, 2), Reconnect(patience=1e9), 1 << 30
        )
        self.machine: EdgeSession | AssistSession
        self.up: deque[EdgeMessage | None] = deque()
        """None: the stream has arrived at the cloud."""
        self.down: deque[CloudMessage | EndStream] = deque()
        self.stream = 0
        """The number of its stream at the cloud, where all numbers are different; 0: none."""
        self.number = 0
        """Its own number of that stream."""
        self.connecting: int | None = None
        self.broken = False
        self.dead = False
        self.forward: Forward | None = None
        self.outcome: Done | Failed | None = None
        self.emitted: list[int] = []

    def does(self, effects: list[EdgeEffect]) -> None:
        for effect in effects:
            assert self.outcome is None, "nothing follows the end"
            match effect:
                case Connect():
                    self.connecting = effect.stream
                case SendUp():
                    assert effect.stream == self.number
                    self.up.append(effect.message)
                case Forward():
                    assert self.forward is None, "at most one forward is out"
                    self.forward = effect
                case Emit():
                    self.emitted += effect.tokens
                case Done() | Failed():
                    self.outcome = effect
                case _:
                    raise AssertionError(effect)

    def connect(self) -> None:
        assert self.connecting is not None
        self.number, self.connecting = self.connecting, None
        self.crowd.streams += 1
        self.stream, self.broken = self.crowd.streams, False
        self.up.append(None)
        self.does(self.machine.connected(self.number, self.crowd.now))

    def deliver_up(self) -> None:
        message, front = self.up.popleft(), self.crowd.front
        if message is None:
            ticket = Ticket(f"s{self.stream}", f"secret {self.stream}")
            self.crowd.cloud_does(front.connect(self.stream, ticket))
        else:
            self.crowd.cloud_does(front.receive(self.stream, message, self.crowd.now))

    def deliver_down(self) -> None:
        message = self.down.popleft()
        if isinstance(message, EndStream):
            self.ended(message.status, message.detail)
        else:
            if isinstance(message, Opened):
                self.crowd.sessions.add(message.session_id)
            self.does(self.machine.receive(self.number, message, self.crowd.now))

    def drafted(self) -> None:
        assert self.forward is not None
        results, self.forward = self.drafter.forward(self.forward), None
        self.does(self.machine.drafted(results, self.crowd.now))

    def break_stream(self) -> None:
        self.up.clear()
        self.down.clear()
        self.broken = True
        self.crowd.unnoticed.append(self.stream)

    def notices(self) -> None:
        self.broken = False
        self.ended(Status.UNAVAILABLE, "gone")

    def ended(self, status: Status, detail: str) -> None:
        self.stream = 0
        self.does(self.machine.lost(self.number, status, detail, self.crowd.now))

    def die(self) -> None:
        if self.stream and not self.broken:
            self.break_stream()
        self.dead = True
        self.stream, self.forward, self.connecting = 0, None, None

    def possible(self) -> dict[str, Callable[[], None]]:
        if self.dead or self.outcome is not None:
            return {}
        actions: dict[str, tuple[bool, Callable[[], None]]] = {
            "connect": (self.connecting is not None, self.connect),
            "deliver_up": (bool(self.up) and not self.broken, self.deliver_up),
            "deliver_down": (bool(self.down) and not self.broken, self.deliver_down),
            "drafted": (self.forward is not None, self.drafted),
            "break": (bool(self.stream) and not self.broken, self.break_stream),
            "notices": (self.broken, self.notices),
        }
        return {name: act for name, (may, act) in actions.items() if may}


class Crowd:
    """Everybody, and the cloud. Assistants learn of sessions by watching, as with `assist --all`."""

    def __init__(self, random: Random, drafters: int) -> None:
        self.pair = ProfiledPair(Profile(acceptance=0.7, vocabulary_size=64, seed=random.randint(0, 9)))
        self.text = decode(self.pair, PROMPT, ROOM)
        self.random = random
        self.drafters = drafters
        info = model_info(self.pair.profile, LIMITS)
        self.info = info
        self.now = 0
        self.streams = 0
        self.unnoticed: list[int] = []
        self.sessions: set[str] = set()
        """Every one that the owner was told of."""
        self.step: Step | None = None
        self.worker = SyntheticWorker(self.pair)
        pool = one_worker(FlatBudget(random.choice((1, 3, 64)), 4), PrefillLimits(2, 4))
        self.front = CloudFront(info, pool, owner_grace_s=GRACE_S)
        self.front.watch(WATCHER)
        self.assistants: list[Party] = []
        self.owner = Party(self, random.choice(list(Temper)), random.randint(1, 9))
        request = Request(PROMPT, ROOM, SamplingParams())
        self.owner.machine = EdgeSession(request, info, self.owner.policies)
        self.owner.does(self.owner.machine.start(0))

    @property
    def parties(self) -> list[Party]:
        return [self.owner, *self.assistants]

    @property
    def session(self) -> CloudSession | None:
        return next((held.session for held in self.front._held), None)

    def cloud_does(self, effects: list[CloudEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Announce):
                self.come(effect.notice)
                continue
            party = next((one for one in self.parties if one.stream == effect.stream), None)
            if party is not None and not party.broken:
                party.down.append(effect.message if isinstance(effect, Send) else effect)

    def come(self, notice: SessionNotice) -> None:
        """A session was opened: assistants attach to it."""
        for _ in range(self.drafters):
            party = Party(self, self.random.choice(list(Temper)), self.random.randint(1, 9))
            party.machine = AssistSession(
                notice.session_id,
                notice.secret,
                self.info,
                lambda one=party: one.policies,
                Reconnect(patience=1e9),
            )
            self.assistants.append(party)
            party.does(party.machine.start(self.now))

    # ---- the cloud's own actions ----

    def begin_step(self) -> None:
        self.step = self.front.next_step(self.now)

    def end_step(self) -> None:
        assert self.step is not None
        step, self.step = self.step, None
        self.cloud_does(self.front.complete(self.worker.step(step, 10), self.now))

    def fail_step(self) -> None:
        self.step = None
        self.cloud_does(self.front.failed())

    def notice(self) -> None:
        self.front.lost(self.unnoticed.pop(0), self.now)

    def tick(self) -> None:
        self.cloud_does(self.front.tick(self.now))

    def possible(self) -> dict[str, Callable[[], None]]:
        actions: dict[str, tuple[bool, Callable[[], None]]] = {
            "begin_step": (self.step is None, self.begin_step),
            "end_step": (self.step is not None, self.end_step),
            "fail_step": (self.step is not None, self.fail_step),
            "cloud_notices": (bool(self.unnoticed), self.notice),
            "tick": (True, self.tick),
        }
        return {name: act for name, (may, act) in actions.items() if may}

    # ---- laws ----

    def check(self) -> None:
        owner = self.owner
        assert not isinstance(owner.outcome, Failed), owner.outcome
        assert owner.emitted == self.text[: len(owner.emitted)]
        for one in self.assistants:
            assert not isinstance(one.outcome, Failed) or one.outcome.status is not Status.INTERNAL, (
                one.outcome
            )
            log = list(one.machine.log if isinstance(one.machine, AssistSession) else ())
            assert log == [*PROMPT, *self.text][: len(log)]
            assert one.emitted == []
            if isinstance(one.outcome, Failed):
                assert one.outcome.status in (Status.NOT_FOUND, Status.RESOURCE_EXHAUSTED), one.outcome
        cloud = self.session
        if cloud is not None:
            self._check_cloud(cloud)

    def _check_cloud(self, cloud: CloudSession) -> None:
        assert cloud.streams
        assert cloud.stream is not None or cloud.attached
        drafters = [cloud.drafts_of(stream) for stream in cloud.streams]
        alive = {node.key for node in cloud.tree.nodes()}
        for drafts in drafters:
            assert drafts._ids.keys() <= alive
            assert drafts.remembered <= LIMITS.max_live_nodes
        assert len(cloud._nodes) == cloud.tree.live + 1
        assert cloud.tree.live - cloud.tree.looked_up <= (2 + LIMITS.max_attached) * LIMITS.max_live_nodes
        if cloud.end_due_at() is None:
            waits = len(cloud.log) - cloud.drafts.seen >= LIMITS.run_ahead
            assert waits or cloud.tree.root.key in cloud._in_flight
        assert all(_child_agrees(node) for node in cloud.tree.nodes())

    def finish(self) -> None:
        """No more faults: the owner comes to its end, and so does everybody who helped."""
        for _ in range(6000):
            if self.owner.outcome is not None and all(
                one.dead or one.outcome is not None for one in self.assistants
            ):
                return
            self.now += TICK
            for one in self.parties:
                can = one.possible()
                can.pop("break", None)
                for act in can.values():
                    act()
                    break
            while self.unnoticed:
                self.notice()
            self.tick()
            if self.step is not None:
                self.end_step()
            self.begin_step()
        raise AssertionError(f"no end: {self.owner.outcome}, {[one.outcome for one in self.assistants]}")


def _child_agrees(node: Node) -> bool:
    return node.fact is None or all(token == node.fact.token for token in node.children)


ORDINARY = ("connect", "deliver_up", "deliver_down", "drafted", "begin_step", "end_step")
FAULTS = ("fail_step", "break", "notices", "cloud_notices", "tick")


def play(seed: int, actions: int = 400) -> Crowd:
    """One script, which is a seed; every kind of action of every party has a weight of its own in it."""
    random = Random(seed)
    crowd = Crowd(random, drafters=random.randint(1, 3))
    weights: dict[tuple[int, str], float] = {}
    for _ in range(actions):
        can = {(0, name): act for name, act in crowd.possible().items()}
        for number, party in enumerate(crowd.parties, 1):
            can |= {(number, name): act for name, act in party.possible().items()}
            if number == 1 and len(party.emitted) > 9 and party.outcome is None:
                can[number, "close"] = lambda: crowd.owner.does(crowd.owner.machine.close(crowd.now))
            if number > 1 and not party.dead and party.outcome is None:
                can[number, "die"] = party.die
        for name in sorted(can.keys() - weights.keys()):
            rare = name[1] in ("die", "close")
            faults = (0.0, 0.0, 0.02) if rare else (0.0, 0.02, 0.3)
            weights[name] = random.choice((0.1, 0.3, 1.0, 3.0) if name[1] in ORDINARY else faults)
        names = sorted(name for name in can if weights[name])
        if not names:
            break
        (chosen,) = random.choices(names, [weights[name] for name in names])
        can[chosen]()
        crowd.now += random.choice((0, TICK // 3, TICK))
        crowd.check()
    return crowd


def end(crowd: Crowd) -> None:
    """Whatever has happened, the rest is well: the owner has the target's own text, and nothing is left."""
    crowd.finish()
    assert isinstance(crowd.owner.outcome, Done)
    closed = crowd.owner.outcome.reason is FinishReason.CLOSED
    assert closed or crowd.owner.emitted == crowd.text
    crowd.front.lost(WATCHER, crowd.now)
    while crowd.unnoticed:
        crowd.notice()
    for party in crowd.parties:
        if party.stream:
            crowd.front.lost(party.stream, crowd.now)
    assert (crowd.front.streams, crowd.front.sessions, list(crowd.front._held)) == (0, 0, [])
