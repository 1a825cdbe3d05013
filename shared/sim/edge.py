"""The edge side of a world: an EdgeSession with its drafter, its user, and the devices that help it.

Whatever happens, an edge that stays ends with the target's own text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.errors import Status
from shared.link import LinkProfile
from shared.messages import CloudMessage, Commit, FinishReason, ModelInfo, Opened
from shared.policy.servers import Balance
from shared.profiled import ProfiledPair, decode
from shared.session.edge import Done, EdgePolicies, EdgeSession, Emit, Failed, Request
from shared.sim.assistant import ASSISTANT_STREAMS, Assistant, AssistPlan
from shared.sim.clock import MILLISECOND
from shared.sim.device import Device
from shared.sim.link import CloudEnd
from shared.sim.models import SyntheticDrafter
from shared.sim.random import Keyed
from shared.sim.route import Route
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
    after: int | None = None
    """It starts that much later than the edge of this index has ended: one user's next generation."""
    vanish_ms: float | None = None
    """The edge dies here without a word."""
    close_after: int | None = None
    """The user has enough after that many tokens."""
    poisonous: bool = False
    """Every step with this session in it breaks the worker."""
    balance: Balance = Balance.FIRST
    """How it chooses among servers."""
    key: bytes | None = None
    """What decides where it goes, see `Servers.choose`; None: its index."""
    assistants: tuple[AssistPlan, ...] = ()


class Edge(Device):
    """One generation."""

    def __init__(
        self,
        setting: Setting,
        index: int,
        plan: EdgePlan,
        info: ModelInfo,
        servers: Sequence[CloudEnd],
        ended: Callable[[int], None],
    ) -> None:
        """`ended` is told the index when the generation is over."""
        self.session = EdgeSession(plan.request, info, plan.policies)
        super().__init__(
            setting,
            self.session,
            plan.drafter,
            Route(servers, plan.balance, index.to_bytes(4) if plan.key is None else plan.key),
            plan.up,
            plan.down,
            base=(index + 1) * STREAMS_PER_EDGE,
            random=Keyed(setting.seed, "edge", index),
        )
        self._ended = ended
        self._info = info
        self.index = index
        self.plan = plan
        self.started = 0
        """When the generation began."""
        self.emitted: list[tuple[int, int]] = []
        """(time, tokens) of every commit."""
        self.widest = self.session.capacity
        """The largest window so far."""
        self.assistants: list[Assistant] = []
        self._helped = ""
        """The session that assistants were called to last."""

    def start(self) -> None:
        """Begin the generation."""
        self.started = self._setting.clock.now
        if self.plan.vanish_ms is not None:
            self._setting.clock.after(round(self.plan.vanish_ms * MILLISECOND), self.vanish)
        super().start()

    def assist(self, plan: AssistPlan, session: tuple[str, str], cloud: CloudEnd) -> None:
        """Another device is to help with the session of this name and secret."""

        def attach() -> None:
            base = self._base + ASSISTANT_STREAMS * (len(self.assistants) + 1)
            assistant = Assistant(self._setting, plan, self._info, session, cloud, base)
            self.assistants.append(assistant)
            assistant.start()

        self._setting.clock.after(round(plan.delay_ms * MILLISECOND), attach)

    def describe(self) -> str:
        """Where this edge stands, for a failure's message."""
        return f"edge {self.index}: {len(self.session.log)} tokens, {self.outcome}"

    def check(self, pair: ProfiledPair, *, unlucky: bool, whole: bool) -> None:
        """Ended, and with what the target alone writes.

        `unlucky`: so many workers died that a session may be held to be the reason, and ended. `whole`: every step of
        a session asked for its end.
        """
        request = self.plan.request
        room = min(request.max_new_tokens, pair.profile.context_length - len(request.prompt))
        plain = decode(pair, request.prompt, room, frozenset(request.stop_tokens))
        for assistant in self.assistants:
            assistant.check((*request.prompt, *plain))
        if self.vanished:
            return
        blamed = isinstance(self.outcome, Failed) and self.outcome.status is Status.INTERNAL
        if blamed and (self.plan.poisonous or unlucky):
            return
        if not isinstance(self.outcome, Done):
            raise LawBroken(f"{self.describe()}: did not finish")
        if self.plan.poisonous:
            raise LawBroken(f"{self.describe()}: its steps break the worker, and it ended well")
        self._check_figures(whole=whole and not self.assistants)
        self._check_text(plain)

    def _check_text(self, plain: list[int]) -> None:
        written = self.session.log.completion
        if isinstance(self.outcome, Done) and self.outcome.reason is FinishReason.CLOSED:
            wanted = self.plan.close_after
            if wanted is None or self.outcome.completion_tokens != wanted:
                raise LawBroken(f"{self.describe()}: closed, but not after {wanted} tokens")
            plain = plain[: len(written)]
        if written != plain:
            raise LawBroken(
                f"{self.describe()}: wrote {written[:20]}..., the target alone writes {plain[:20]}..."
            )
        if self.session.live or self.session.in_flight:
            raise LawBroken(f"{self.describe()}: {self.session.live} nodes left at the edge")

    def _check_figures(self, *, whole: bool) -> None:
        counts = self.session.counts
        if self.plan.drafter is not None:
            wrong = counts.judged - counts.accepted
            if self.plan.drafter.perfect and (wrong or counts.stale):
                raise LawBroken(
                    f"{self.describe()}: each draft was right, {wrong} were rejected and {counts.stale} stale"
                )
            return
        if counts.judged:
            raise LawBroken(f"{self.describe()}: never drafted, and {counts.judged} drafts were judged")
        if counts.self_decoded > counts.steps or (whole and counts.self_decoded < counts.steps):
            raise LawBroken(
                f"{self.describe()}: nobody drafted, and {counts.self_decoded} of {counts.steps} steps had no draft"
            )

    # ---- as a device ----

    def _heard(self, server: int, message: CloudMessage) -> None:
        if isinstance(message, Commit):
            self._setting.note(f"edge {self.index} commit {message.position} {message.tokens}")
        if isinstance(message, Opened) and message.session_id != self._helped:
            self._helped = message.session_id
            for plan in self.plan.assistants:
                self.assist(plan, (message.session_id, message.secret), self._route.servers[server])

    def _check_bounds(self) -> None:
        """Memory is bounded by the window: its nodes, and those of a forward, may each have all their children."""
        expansion = self.plan.policies.expansion
        width = expansion.width if expansion is not None else 0
        bound = (self.widest + MOST_BRANCHES) * (1 + width)
        self.widest = max(self.widest, self.session.capacity)
        if self.session.live > bound:
            raise LawBroken(f"{self.session.live} nodes at the edge, the window bounds them to {bound}")

    def _emit(self, emit: Emit) -> None:
        self.emitted.append((self._setting.clock.now, len(emit.tokens)))
        written = len(self.session.log.completion)
        after = self.plan.close_after
        if after is not None and written >= after:
            position = self.session.log.prompt_length + after
            self._perform(self.session.close(self._setting.clock.now, position))

    def _over(self) -> None:
        self._ended(self.index)
