"""A world: edges, links, one server, one clock. It drives EdgeSession and CloudFront exactly as the asyncio drivers do.

Faults are part of the world, not of the machines: streams break, servers crash and come back, steps fail, caches are
evicted, drafters lie or fall silent. Whatever happens, `check` holds the outcome to the laws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shared import wire
from shared.errors import Status
from shared.link import LinkClock, LinkProfile
from shared.messages import CloudMessage, Commit, EdgeMessage, FinishReason, ModelInfo
from shared.pool import PoolScheduler
from shared.profiled import ProfiledPair, decode
from shared.session.cloud import CloudEffect, EndStream
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
from shared.sim.clock import MILLISECOND, VirtualClock
from shared.sim.models import SyntheticDrafter, SyntheticWorker
from shared.sim.random import Keyed
from shared.step import Step

MOST_BRANCHES = 16
"""No expansion in these worlds forwards more nodes at once."""


class LawBroken(AssertionError):
    """A world ended in a state that the laws exclude."""


@dataclass(slots=True)
class Faults:
    """What may go wrong, as probabilities per occasion; all randomness is keyed by entity."""

    stream_loss: float = 0.0
    """Per message: the stream it travels on breaks."""
    step_failure: float = 0.0
    """Per step: it never comes back and is asked for again."""
    eviction: float = 0.0
    """Per item of a step: the worker has lost the session's cache."""
    silence: float = 0.0
    """Per forward: the drafter takes `silence_ms` longer."""
    silence_ms: float = 2000.0


@dataclass(slots=True)
class EdgePlan:
    """One edge of a world."""

    request: Request
    policies: EdgePolicies
    drafter: SyntheticDrafter | None
    up: LinkProfile = field(default_factory=LinkProfile)
    down: LinkProfile = field(default_factory=LinkProfile)
    start_ms: float = 0.0
    vanish_ms: float | None = None
    """The edge dies here without a word."""
    close_after: int | None = None
    """The user has enough after that many tokens."""


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
    ) -> None:
        self.clock = VirtualClock()
        self.trace: list[tuple[int, str]] = []
        self.faults = faults if faults is not None else Faults()
        self.through_codec = through_codec
        self.seed = seed
        self.server = Server(self, pair, info, make_pool)
        self.edges = [Edge(self, index, plan, info) for index, plan in enumerate(edges)]
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

    def note(self, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append((self.clock.now, what))

    def check(self) -> None:
        """Every edge ended, with the text of plain decoding; nothing is left in the server."""
        for edge in self.edges:
            edge.check(self._pair)
        self.server.check_empty()


class Server:
    """The cloud side: a CloudFront and one worker."""

    def __init__(
        self, world: World, pair: ProfiledPair, info: ModelInfo, make_pool: Callable[[], PoolScheduler]
    ) -> None:
        self._world = world
        self._info = info
        self._make_pool = make_pool
        self._pair = pair
        self._random = Keyed(world.seed, "server")
        self._epoch = 0
        self._working = False
        self._timer = -1
        self.links: dict[int, Link] = {}
        self.up = True
        self.front = CloudFront(info, make_pool())
        self.worker = SyntheticWorker(pair)
        self.steps = 0

    def crash(self) -> None:
        """Everything the server knew is gone, and every stream with it."""
        self._world.note("server crash")
        self.up = False
        self._epoch += 1
        self._working = False
        for link in list(self.links.values()):
            link.break_off()
        self.links.clear()
        self.front = CloudFront(self._info, self._make_pool())
        self.worker = SyntheticWorker(self._pair)

    def restart(self) -> None:
        """The server is back, with nothing in its memory."""
        self._world.note("server restart")
        self.up = True

    def connect(self, number: int, link: Link) -> None:
        """A stream has arrived."""
        self.links[number] = link
        self._perform(self.front.connect(number, Ticket(f"s{number}", "secret")))

    def receive(self, number: int, message: EdgeMessage) -> None:
        """A message has arrived."""
        if number in self.links:
            self._perform(self.front.receive(number, message, self._world.clock.now))
            self.check_bounds(number)

    def lost(self, number: int) -> None:
        """The transport has noticed that a stream is gone."""
        if self.links.pop(number, None) is not None:
            self.front.lost(number)
            self._perform([])

    def check_progress(self) -> None:
        """Law 4: if anything is due, a step is out (the fact at an end never waits for nothing)."""
        wake = self.front.wake_at()
        if wake is not None and wake < self._world.clock.now and not self._working:
            raise LawBroken("an end is due and no step is out")
        if wake is not None and not self._working and not self._timer >= wake:
            raise LawBroken("a patience runs and no timer is set")

    def check_bounds(self, number: int) -> None:
        """Memory is bounded by the live tree and the log past the stream's root position."""
        session = self.front.session_of(number)
        if session is None:
            return
        stream = session.drafts
        if stream.remembered > self._info.limits.max_live_nodes:
            raise LawBroken(f"{stream.remembered} ids remembered for {stream.live} live nodes")

    def check_empty(self) -> None:
        """Nothing is left behind."""
        if self.front.streams or self.front.sessions:
            raise LawBroken(
                f"{self.front.streams} streams and {self.front.sessions} sessions left in the server"
            )
        if self.up and self.worker.held:
            raise LawBroken(f"{self.worker.held} sessions left in the worker's cache")

    def _perform(self, effects: list[CloudEffect]) -> None:
        for effect in effects:
            link = self.links.get(effect.stream)
            if link is None:
                continue
            if isinstance(effect, EndStream):
                del self.links[effect.stream]
                link.end(effect.status, effect.detail)
            else:
                link.down(effect.message)
        self._work()

    def _work(self) -> None:
        if self._working:
            return
        clock = self._world.clock
        step = self.front.next_step(clock.now)
        if step is not None:
            self._begin(step)
            return
        wake = self.front.wake_at()
        if wake is not None:
            self._timer = max(wake, clock.now)
            epoch = self._epoch
            clock.at(wake, lambda: self._work() if epoch == self._epoch else None)

    def _begin(self, step: Step) -> None:
        self._working = True
        self.steps += bool(step.items)
        duration = round(self._pair.profile.step_ms * MILLISECOND) if step.items else 0
        failed = self._random.chance(self._world.faults.step_failure)
        epoch = self._epoch

        def end() -> None:
            if epoch != self._epoch:
                return
            self._working = False
            if failed:
                self._world.note(f"step {step.number} failed")
                self._perform(self.front.failed())
                return
            for item in step.items:
                if self._random.chance(self._world.faults.eviction):
                    self.worker.forget(item.session)
            outcome = self.worker.step(step, duration // 1000)
            self._world.note(f"step {step.number}")
            self._perform(self.front.complete(outcome, self._world.clock.now))

        self._world.clock.after(duration, end)


class Link:
    """One stream: two directions in order, until it ends or breaks."""

    def __init__(self, world: World, edge: Edge, number: int) -> None:
        self._world = world
        self._edge = edge
        self.number = number
        self._up = LinkClock(edge.plan.up)
        self._down = LinkClock(edge.plan.down)
        self._random = Keyed(world.seed, "link", number)
        self.alive = True
        self.bytes_up = 0
        self.bytes_down = 0

    def begin(self) -> None:
        """The stream travels to the server (its first message will follow it)."""
        self._later(self._up, 100, self._arrive)

    def _arrive(self) -> None:
        if self._world.server.up:
            self._world.server.connect(self.number, self)
        else:
            self._fail("the server is down")

    def up(self, message: EdgeMessage) -> None:
        """Edge to cloud."""
        body = wire.edge_message_to_wire(message)
        size = body.ByteSize() + 40
        self.bytes_up += size
        sent = wire.edge_message_from_wire(body) if self._world.through_codec else message
        if self._breaks():
            return
        self._later(self._up, size, lambda: self._world.server.receive(self.number, sent))

    def down(self, message: CloudMessage) -> None:
        """Cloud to edge."""
        body = wire.cloud_message_to_wire(message)
        size = body.ByteSize() + 40
        self.bytes_down += size
        sent = wire.cloud_message_from_wire(body) if self._world.through_codec else message
        if self._breaks():
            return
        self._later(self._down, size, lambda: self._edge.receive(self.number, sent))

    def end(self, status: Status, detail: str) -> None:
        """The cloud ends the stream; what it sent before arrives before."""
        self._later(self._down, 40, lambda: self._ended(status, detail))

    def half_close(self) -> None:
        """The edge's transport ends its direction; what it sent before still arrives."""
        if self.alive:
            self._later(self._up, 40, lambda: self._world.server.lost(self.number))

    def break_off(self) -> None:
        """Both directions stop; each side notices in its own time."""
        if not self.alive:
            return
        self.alive = False
        clock = self._world.clock
        self._world.note(f"stream {self.number} broke")
        clock.after(
            round(self._random.uniform(0, 50) * MILLISECOND), lambda: self._world.server.lost(self.number)
        )
        clock.after(
            round(self._random.uniform(0, 50) * MILLISECOND),
            lambda: self._edge.lost(self.number, Status.UNAVAILABLE, "stream lost"),
        )

    def _ended(self, status: Status, detail: str) -> None:
        self.alive = False
        self._edge.lost(self.number, status, detail)

    def _fail(self, why: str) -> None:
        self.alive = False
        self._world.clock.after(MILLISECOND, lambda: self._edge.lost(self.number, Status.UNAVAILABLE, why))

    def _breaks(self) -> bool:
        if self.alive and self._random.chance(self._world.faults.stream_loss):
            self.break_off()
        return not self.alive

    def _later(self, clock: LinkClock, size: int, run: Callable[[], None]) -> None:
        at = clock.arrival(self._world.clock.now, size, self._random.uniform())
        self._world.clock.at(at, lambda: run() if self.alive else None)


class Edge:
    """The edge side: an EdgeSession, its drafter, and the stream of the moment."""

    def __init__(self, world: World, index: int, plan: EdgePlan, info: ModelInfo) -> None:
        self._world = world
        self.index = index
        self.plan = plan
        self.session = EdgeSession(plan.request, info, plan.policies)
        self.outcome: Done | Failed | None = None
        self.emitted: list[tuple[int, int]] = []
        """(time, tokens) of every commit."""
        self.bytes_up = 0
        self.bytes_down = 0
        self._random = Keyed(world.seed, "edge", index)
        self._link: Link | None = None
        self._vanished = False
        self.widest = self.session.capacity
        """The largest window so far."""

    def start(self) -> None:
        """Begin the generation."""
        if self.plan.vanish_ms is not None:
            self._world.clock.after(round(self.plan.vanish_ms * MILLISECOND), self._vanish)
        self._perform(self.session.start(self._world.clock.now))

    def receive(self, number: int, message: CloudMessage) -> None:
        """A message has arrived."""
        if self._vanished:
            return
        if isinstance(message, Commit):
            self._world.note(f"edge {self.index} commit {message.position} {message.tokens}")
        self._perform(self.session.receive(self._own(number), message, self._world.clock.now))

    def lost(self, number: int, status: Status, detail: str) -> None:
        """The transport says that the stream is gone."""
        if not self._vanished:
            self._perform(self.session.lost(self._own(number), status, detail, self._world.clock.now))

    def describe(self) -> str:
        """Where this edge stands, for a failure's message."""
        return f"edge {self.index}: {len(self.session.log)} tokens, {self.outcome}"

    def check(self, pair: ProfiledPair) -> None:
        """Ended, and with what the target alone writes."""
        if self._vanished:
            return
        if not isinstance(self.outcome, Done):
            raise LawBroken(f"{self.describe()}: did not finish")
        request = self.plan.request
        written = self.session.log.completion
        room = min(request.max_new_tokens, pair.profile.context_length - len(request.prompt))
        plain = decode(pair, request.prompt, room, frozenset(request.stop_tokens))
        if self.outcome.reason is FinishReason.CLOSED:
            wanted = self.plan.close_after
            if wanted is None or self.outcome.completion_tokens != wanted:
                raise LawBroken(f"{self.describe()}: closed, but not after {wanted} tokens")
            plain = plain[: len(written)]
        if written != plain:
            raise LawBroken(
                f"{self.describe()}: wrote {written[:20]}..., the target alone writes {plain[:20]}..."
            )
        if self.session.tree.live or self.session.in_flight:
            raise LawBroken(f"{self.describe()}: {self.session.tree.live} nodes left at the edge")

    def _own(self, number: int) -> int:
        # Streams are numbered across the world; a session numbers its own from 1.
        return number % 1_000_000

    def _vanish(self) -> None:
        self._vanished = True
        if self._link is not None:
            self._link.break_off()

    def _perform(self, effects: list[EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self._world.clock.at(effect.at, lambda stream=effect.stream: self._connect(stream))  # type: ignore[misc]
                case SendUp():
                    if self._link is not None and self._own(self._link.number) == effect.stream:
                        self._link.up(effect.message)
                case Forward():
                    self._forward(effect)
                case Emit():
                    self._emit(effect)
                case Done() | Failed():
                    self.outcome = effect
                    self._leave()
        self._check_bounds()

    def _check_bounds(self) -> None:
        """Memory is bounded by the window: its nodes, and those of a forward, may each have all their children."""
        expansion = self.plan.policies.expansion
        width = expansion.width if expansion is not None else 0
        bound = (self.widest + MOST_BRANCHES) * (1 + width)
        self.widest = max(self.widest, self.session.capacity)
        if self.session.tree.live > bound:
            raise LawBroken(f"{self.session.tree.live} nodes at the edge, the window bounds them to {bound}")

    def _connect(self, stream: int) -> None:
        if self._vanished or self.session.over:
            return
        self._leave()
        self._link = Link(self._world, self, (self.index + 1) * 1_000_000 + stream)
        self._link.begin()
        self._perform(self.session.connected(stream, self._world.clock.now))

    def _forward(self, forward: Forward) -> None:
        drafter = self.plan.drafter
        if drafter is None:
            raise LawBroken("a forward without a drafter")
        results = drafter.forward(forward)
        duration = drafter.profile.forward_ms(len(forward.paths))
        if self._random.chance(self._world.faults.silence):
            duration += self._world.faults.silence_ms
        self._world.clock.after(
            round(duration * MILLISECOND),
            lambda: (
                None
                if self._vanished
                else self._perform(self.session.drafted(results, self._world.clock.now))
            ),
        )

    def _emit(self, emit: Emit) -> None:
        self.emitted.append((self._world.clock.now, len(emit.tokens)))
        written = len(self.session.log.completion)
        after = self.plan.close_after
        if after is not None and written >= after:
            position = self.session.log.prompt_length + after
            self._perform(self.session.close(self._world.clock.now, position))

    def _leave(self) -> None:
        if self._link is not None:
            self.bytes_up += self._link.bytes_up
            self.bytes_down += self._link.bytes_down
            link, self._link = self._link, None
            link.half_close()
