"""The edge side of a world: an EdgeSession, its drafter and its user, driven as `edge_client` drives them.

Drafters fall silent, edges vanish without a word. Whatever happens, an edge that stays ends with the target's own text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.errors import Status
from shared.link import LinkProfile
from shared.messages import CloudMessage, Commit, FinishReason, ModelInfo
from shared.profiled import ProfiledPair, decode
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
from shared.sim.clock import MILLISECOND
from shared.sim.link import CloudEnd, Link
from shared.sim.models import SyntheticDrafter
from shared.sim.random import Keyed
from shared.sim.setting import STREAMS_PER_EDGE, LawBroken, Setting

MOST_BRANCHES = 16
"""No expansion in these worlds forwards more nodes at once."""


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
    poisonous: bool = False
    """Every step with this session in it breaks the worker."""


class Edge:
    """The edge side: an EdgeSession, its drafter, and the stream of the moment."""

    def __init__(
        self, setting: Setting, index: int, plan: EdgePlan, info: ModelInfo, cloud: CloudEnd
    ) -> None:
        self._setting = setting
        self._cloud = cloud
        self.index = index
        self.plan = plan
        self.session = EdgeSession(plan.request, info, plan.policies)
        self.outcome: Done | Failed | None = None
        self.emitted: list[tuple[int, int]] = []
        """(time, tokens) of every commit."""
        self.bytes_up = 0
        self.bytes_down = 0
        self._random = Keyed(setting.seed, "edge", index)
        self._link: Link | None = None
        self._vanished = False
        self.widest = self.session.capacity
        """The largest window so far."""

    def start(self) -> None:
        """Begin the generation."""
        if self.plan.vanish_ms is not None:
            self._setting.clock.after(round(self.plan.vanish_ms * MILLISECOND), self._vanish)
        self._perform(self.session.start(self._setting.clock.now))

    def receive(self, number: int, message: CloudMessage) -> None:
        """A message has arrived."""
        if self._vanished:
            return
        if isinstance(message, Commit):
            self._setting.note(f"edge {self.index} commit {message.position} {message.tokens}")
        self._perform(self.session.receive(self._own(number), message, self._setting.clock.now))

    def lost(self, number: int, status: Status, detail: str) -> None:
        """The transport says that the stream is gone."""
        if not self._vanished:
            self._perform(self.session.lost(self._own(number), status, detail, self._setting.clock.now))

    def describe(self) -> str:
        """Where this edge stands, for a failure's message."""
        return f"edge {self.index}: {len(self.session.log)} tokens, {self.outcome}"

    def check(self, pair: ProfiledPair) -> None:
        """Ended, and with what the target alone writes."""
        if self._vanished:
            return
        if (
            self.plan.poisonous
            and isinstance(self.outcome, Failed)
            and self.outcome.status is Status.INTERNAL
        ):
            return
        if not isinstance(self.outcome, Done):
            raise LawBroken(f"{self.describe()}: did not finish")
        if self.plan.poisonous:
            raise LawBroken(f"{self.describe()}: its steps break the worker, and it ended well")
        counts = self.session.counts
        if self.plan.drafter is None and (counts.judged or counts.self_decoded != counts.steps):
            raise LawBroken(
                f"{self.describe()}: never drafted, and {counts.judged} of its drafts were judged"
            )
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
        return number % STREAMS_PER_EDGE

    def _vanish(self) -> None:
        self._vanished = True
        if self._link is not None:
            self._link.break_off()

    def _perform(self, effects: list[EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self._setting.clock.at(effect.at, lambda stream=effect.stream: self._connect(stream))  # type: ignore[misc]
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
        number = (self.index + 1) * STREAMS_PER_EDGE + stream
        self._link = Link(self._setting, number, self, self._cloud, self.plan.up, self.plan.down)
        self._link.begin()
        self._perform(self.session.connected(stream, self._setting.clock.now))

    def _forward(self, forward: Forward) -> None:
        drafter = self.plan.drafter
        if drafter is None:
            raise LawBroken("a forward without a drafter")
        results = drafter.forward(forward)
        duration = drafter.profile.forward_ms(len(forward.paths))
        if self._random.chance(self._setting.faults.silence):
            duration += self._setting.faults.silence_ms
        self._setting.clock.after(
            round(duration * MILLISECOND),
            lambda: (
                None
                if self._vanished
                else self._perform(self.session.drafted(results, self._setting.clock.now))
            ),
        )

    def _emit(self, emit: Emit) -> None:
        self.emitted.append((self._setting.clock.now, len(emit.tokens)))
        written = len(self.session.log.completion)
        after = self.plan.close_after
        if after is not None and written >= after:
            position = self.session.log.prompt_length + after
            self._perform(self.session.close(self._setting.clock.now, position))

    def _leave(self) -> None:
        if self._link is not None:
            self.bytes_up += self._link.bytes_up
            self.bytes_down += self._link.bytes_down
            link, self._link = self._link, None
            link.half_close()
