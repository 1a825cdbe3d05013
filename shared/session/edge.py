"""EdgeSession: one generation at the edge. It owns the durable log, drafts ahead of it, and takes commits.

Laws kept here:

1. The log is the truth: only commits extend it; drafted tokens live in the tree.
5. Dead is silent: a commit that contradicts a draft is the normal case, and the late result of a forward on a dead
   node is dropped.
6. The edge keeps the durable log: after a lost stream it opens again with all of it, and the same facts follow.
7. Pure: time is an argument (ns); a call returns effects in the order in which they are to be performed. A driver
   performs at most one `Forward` at a time, and answers it with `drafted`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from shared.errors import Status
from shared.messages import (
    COST_UNITS_PER_NAT,
    Close,
    CloudMessage,
    Commit,
    Draft,
    Drain,
    EdgeMessage,
    Finish,
    FinishReason,
    Limits,
    ModelInfo,
    Open,
    Opened,
)
from shared.policy.expansion import Candidate, Expansion, Frontier
from shared.policy.pacing import Pacing
from shared.policy.reconnect import Reconnect
from shared.policy.window import Window
from shared.sampling import SamplingParams
from shared.session.log import TokenLog
from shared.session.rate import Allowance
from shared.session.tree import DraftTree, Node, settle
from shared.step import Fact

MAX_WIRE_COST = 255
SEEN_SHARE = 16
"""What was seen is reported that often per `run_ahead`: a long link with short steps must not run into it."""
RATE_SHARE = 0.9
BURST_SHARE = 0.5
"""Of the message rate that the cloud takes, and of a second of it at once: the rest is for what jitter compresses."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a stream at time `at` (ns); answered with `connected` or `lost`."""

    stream: int
    at: int


@dataclass(frozen=True, slots=True)
class SendUp:
    """Put a message on the stream."""

    stream: int
    message: EdgeMessage


@dataclass(frozen=True, slots=True)
class Forward:
    """One drafter forward: candidates for the children of each node; answered with `drafted`."""

    keys: tuple[int, ...]
    log: Sequence[int]
    """By reference: append-only."""
    log_length: int
    paths: tuple[tuple[int, ...], ...]
    """For each node the tokens from the end of `log[:log_length]` down to it; empty for the end itself."""
    width: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Tokens that are now final, for the user."""

    position: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The generation is complete. Nothing follows."""

    reason: FinishReason
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The generation cannot go on. Nothing follows."""

    status: Status
    message: str


EdgeEffect = Connect | SendUp | Forward | Emit | Done | Failed


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate.

    Raises:
        ValueError: the prompt is empty.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParams
    stop_tokens: tuple[int, ...] = ()
    patience_us: int = 0
    want_logprobs: bool = False

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt is empty: a target continues at least one token")


@dataclass(slots=True)
class EdgePolicies:
    """Where speed comes from; no `expansion` means that this edge never drafts."""

    window: Window
    pacing: Pacing
    expansion: Expansion | None
    reconnect: Reconnect
    draft_context: int
    """Longest prefix that the drafter can take, in tokens."""


@dataclass(slots=True)
class EdgeCounts:
    """What happened, for `stats`."""

    drafted: int = 0
    """Nodes that the drafter proposed."""
    sent: int = 0
    """Nodes that went up, those sent again after a reconnect included."""
    forwards: int = 0
    commits: int = 0
    reconnects: int = 0
    judged: int = 0
    accepted: int = 0
    verified: int = 0
    """Facts that the cloud evaluated."""
    stale: int = 0
    """Nodes that were dead on arrival in the cloud."""
    steps: int = 0
    self_decoded: int = 0


class EdgeSession:
    """One generation. Calling order: `start` once, then facts in any order until `Done` or `Failed`."""

    def __init__(self, request: Request, info: ModelInfo, policies: EdgePolicies) -> None:
        self._request = request
        self._info = info
        self._policies = policies
        self._limits: Limits = info.limits
        self.log = TokenLog(
            request.prompt,
            prompt_length=len(request.prompt),
            max_length=len(request.prompt) + request.max_new_tokens,
            context_length=info.context_length,
            stop_tokens=request.stop_tokens,
        )
        self.counts = EdgeCounts()
        self.over = False
        self.tree = DraftTree(self.log)
        self._frontier = Frontier()
        self._frontier.push(self.tree.root)
        self._pending = Frontier()
        self._ids: dict[int, int] = {}  # node key -> id on this stream: the nodes in flight
        self._forwarding: dict[int, Node] | None = None
        self._stream = 0
        self._connected = False
        self._closing: int | None = None
        self._next_id = 1
        self._seen_sent = 0
        self._allowance = self._full_allowance(0)
        self._reopening = False
        """A stream was lost, and none was opened since."""
        self._asked_at = 0
        """Log length at which the cloud was asked for a token at once, on this stream."""

    @property
    def in_flight(self) -> int:
        """Live nodes that were sent on this stream."""
        return len(self._ids)

    @property
    def capacity(self) -> int:
        """Nodes that may be in flight now: the window, within what the cloud allows."""
        return min(self._policies.window.size(), self._limits.max_live_nodes)

    @property
    def pending(self) -> int:
        """Live nodes that were not sent yet."""
        return self.tree.live - len(self._ids)

    # ---- facts from the transport ----

    def start(self, now: int) -> list[EdgeEffect]:
        """Begin: connect, and draft while the connection is being made."""
        return [self._connect(now), *self._pump(now)]

    def connected(self, stream: int, now: int) -> list[EdgeEffect]:
        """The stream stands. Opens with the log: for the cloud every connection is the first (law 6)."""
        if self.over or stream != self._stream:
            return []
        self._connected = True
        self._next_id = 1
        self._seen_sent = len(self.log)
        self._asked_at = 0
        self._allowance = self._full_allowance(now)
        self._ids.clear()
        self._pending = Frontier()
        for node in self.tree.nodes():
            self._pending.push(node)
        return [*(SendUp(stream, part) for part in self._openings()), *self._pump(now)]

    def lost(self, stream: int, status: Status, message: str, now: int) -> list[EdgeEffect]:
        """The stream is gone, or could not be made."""
        if self.over or stream != self._stream:
            return []
        self._connected = False
        if self._closing is not None:
            return self._done(FinishReason.CLOSED, self._closing)
        if self.log.closed is not None:  # the last commit arrived, only the farewell is missing
            return self._done(self.log.closed, len(self.log))
        if status is Status.OK:
            return self._fail(Status.INTERNAL, "the server ended the stream without a Finish: report a bug")
        # A full server may not have noticed yet that the stream before is gone.
        full_of_itself = status is Status.RESOURCE_EXHAUSTED and self._reopening
        if not (status.transient or full_of_itself) or not self._policies.reconnect.allows(now):
            return self._fail(status, message)
        self._reopening = True
        self.counts.reconnects += 1
        return [self._connect(now), *self._pump(now)]

    def receive(self, stream: int, message: CloudMessage, now: int) -> list[EdgeEffect]:
        """One message of the cloud; one of an earlier stream is late and dropped."""
        if self.over or stream != self._stream:
            return []
        if isinstance(message, Opened):
            self._reopening = False
            self._limits = message.limits
            return self._pump(now)
        if isinstance(message, Commit):
            return self._commit(message, now)
        if isinstance(message, Drain):
            return []  # one address: served until the stream ends, then opened again
        if isinstance(message, Finish):
            if self._closing is not None:
                return self._done(FinishReason.CLOSED, self._closing)
            if self.log.closed is None:
                return self._fail(
                    Status.INTERNAL,
                    f"the server finished ({message.reason.value}) but the log of {len(self.log)} tokens is open: "
                    "report a bug",
                )
            return self._done(self.log.closed, len(self.log))
        assert_never(message)

    # ---- facts from the drafter and the user ----

    def drafted(self, results: Sequence[Sequence[Candidate]], now: int) -> list[EdgeEffect]:
        """The forward that is out has its candidates, one list per key, likeliest first."""
        if self._forwarding is None:
            raise ValueError("no forward is out")
        nodes, self._forwarding = list(self._forwarding.values()), None
        expansion = self._policies.expansion
        if self.over or expansion is None:
            return []
        for node, candidates in zip(nodes, results, strict=True):
            if node.alive:
                self._adopt(node, candidates[: expansion.width], expansion)
        return self._pump(now)

    def close(self, now: int, position: int | None = None) -> list[EdgeEffect]:
        """The user has what it wants: tokens from log `position` on do not count.

        Raises:
            ValueError: `position` is outside the completion.
        """
        if self.over or self._closing is not None:
            return []
        if position is not None and not self.log.prompt_length <= position <= len(self.log):
            raise ValueError(f"position {position} is outside {self.log.prompt_length}..{len(self.log)}")
        self._closing = len(self.log) if position is None else position
        self._forget(self.tree.clear())
        if not self._connected:
            return self._done(FinishReason.CLOSED, self._closing)
        return [SendUp(self._stream, Close(self._closing))]

    # ---- inside ----

    def _commit(self, commit: Commit, now: int) -> list[EdgeEffect]:
        if self._closing is not None:
            return []
        if commit.position != len(self.log) or self.log.closed is not None:
            return self._fail(
                Status.INTERNAL,
                f"the server committed at position {commit.position}, this log ends at {len(self.log)}: report a bug",
            )
        self._policies.window.committed(commit)
        self._policies.reconnect.progressed(now)
        self._count(commit)
        for token in commit.tokens:
            if self.log.closed is not None:
                return self._fail(
                    Status.INTERNAL, "the server committed beyond the end of the log: report a bug"
                )
            root = self.tree.root
            self._ids.pop(root.key, None)
            self._forget(self.tree.learn(root, Fact(token)))
            done = settle(self.log, self.tree)
            self._forget(done.killed)
            self._ids.pop(self.tree.root.key, None)
            if not done.promoted:
                self._frontier.push(self.tree.root)
        effects: list[EdgeEffect] = [Emit(commit.position, commit.tokens)]
        return effects + self._pump(now)

    def _count(self, commit: Commit) -> None:
        counts = self.counts
        counts.commits += 1
        counts.judged += commit.judged
        counts.accepted += commit.accepted
        counts.verified += commit.facts
        counts.stale += commit.stale
        counts.steps += commit.steps
        counts.self_decoded += commit.self_decoded

    def _adopt(self, node: Node, candidates: Sequence[Candidate], expansion: Expansion) -> None:
        for candidate in candidates:
            if candidate.token in node.children:
                continue  # a drafter may repeat itself; the node is in both frontiers already
            child = self.tree.add(node, candidate.token, candidate.cost)
            self.counts.drafted += 1
            self._pending.push(child)
            if candidate.token not in self.log.stop_tokens:  # nothing follows a stop token
                self._frontier.push(child)

    def _pump(self, now: int) -> list[EdgeEffect]:
        """Send what may be sent, then draft on: everything that is waiting is derived here, nothing is stored."""
        if self.over or self._closing is not None or self.log.closed is not None:
            return []
        effects: list[EdgeEffect] = []
        self._send(effects, now)
        if self._forwarding is None:
            forward = self._next_forward()
            if forward is not None:
                effects.append(forward)
        return effects

    def _send(self, effects: list[EdgeEffect], now: int) -> None:
        if not self._connected:
            return
        messages: list[Draft] = []
        exhausted = self._forwarding is None and not self._may_expand()
        # A drafter faster than the message rate: its nodes wait for the next fact and share a message. One always
        # comes, since the cloud's patience is finite. What the cloud itself may wait for goes at once.
        room = int(self._allowance.left(now))
        if self._policies.pacing.may_send(self.in_flight, self.pending, exhausted):
            # More than one message only where the contract caps a message.
            while len(messages) < room and (nodes := self._sendable()):
                messages.append(self._draft_message(nodes))
        if self._waited_for_in_vain(exhausted):
            self._asked_at = len(self.log)
            messages.append(self._draft_message([], step_now=True))
        elif len(self.log) - self._seen_sent >= max(1, self._limits.run_ahead // SEEN_SHARE):
            messages.append(self._draft_message([]))
        for message in messages:
            self._allowance.take(now)
            effects.append(SendUp(self._stream, message))

    def _full_allowance(self, now: int) -> Allowance:
        rate = float(self._limits.max_messages_per_second)
        return Allowance(RATE_SHARE * rate, max(1.0, BURST_SHARE * rate), now=now)

    def _waited_for_in_vain(self, exhausted: bool) -> bool:
        """Whether the cloud waits out its patience for a draft of this end that will not come (said once an end)."""
        return (
            exhausted
            and self.in_flight == 0
            and self._request.patience_us > 0
            and self._asked_at != len(self.log)
        )

    def _sendable(self) -> list[Node]:
        room = self.capacity - self.in_flight
        room = min(room, self._limits.max_nodes_per_message)
        nodes: list[Node] = []
        while len(nodes) < room and self._pending and self._worthwhile(self._pending.peek()):
            node = self._pending.pop()
            if node is not self.tree.root:  # committed before it was sent
                nodes.append(node)
        return nodes

    def _draft_message(self, nodes: list[Node], *, step_now: bool = False) -> Draft:
        nodes.sort(key=lambda node: node.key)  # parents first
        first = self._next_id
        self._next_id += len(nodes)
        for identity, node in enumerate(nodes, start=first):
            self._ids[node.key] = identity
        self.counts.sent += len(nodes)
        self._seen_sent = len(self.log)
        return Draft(
            first_node=first if nodes else 0,
            root_position=len(self.log),
            tokens=tuple(node.token for node in nodes),
            parent_offsets=tuple(self._offset(node) for node in nodes),
            costs=tuple(_wire_cost(node.cost) for node in nodes),
            seen=len(self.log),
            step_now=step_now,
        )

    def _offset(self, node: Node) -> int:
        parent = node.parent
        if parent is None or parent is self.tree.root:
            return 0
        return self._ids[node.key] - self._ids[parent.key]

    def _worthwhile(self, node: Node) -> bool:
        expansion = self._policies.expansion
        depth = node.position - self.tree.root.position
        return (
            expansion is not None
            and node.path_cost - self.tree.root.path_cost <= expansion.max_cost
            and depth <= self._limits.max_depth
        )

    def _within(self, node: Node) -> bool:
        """Whether a forward on the node can lead to a commit."""
        return (
            self._worthwhile(node)
            and node.position + 1 < self.log.limit
            and node.position + 1 <= self._policies.draft_context
            and node.position - self.tree.root.position < self._limits.max_depth
        )

    def _may_expand(self) -> bool:
        return (
            self._policies.expansion is not None
            and bool(self._frontier)
            and self._within(self._frontier.peek())
        )

    def _next_forward(self) -> Forward | None:
        expansion = self._policies.expansion
        if expansion is None or not self._policies.pacing.may_draft(self.in_flight, self.pending):
            return None
        if (self.in_flight if self._connected else self.tree.live) >= self.capacity:
            return None
        # A window's nodes with all their children are no more than this: the rest waits for the message rate.
        if self.tree.live >= self.capacity * (1 + expansion.width):
            return None
        nodes = expansion.choose(self._frontier, self._within)
        if not nodes:
            return None
        self._forwarding = {node.key: node for node in nodes}
        self.counts.forwards += 1
        return Forward(
            keys=tuple(self._forwarding),
            log=self.log.tokens,
            log_length=len(self.log),
            paths=tuple(self._path(node) for node in nodes),
            width=expansion.width,
        )

    def _path(self, node: Node) -> tuple[int, ...]:
        tokens: list[int] = []
        while node is not self.tree.root:
            tokens.append(node.token)
            if node.parent is None:
                raise ValueError(f"{node} does not hang from the end")
            node = node.parent
        return tuple(reversed(tokens))

    def _forget(self, killed: Iterable[Node]) -> None:
        for node in killed:
            self._ids.pop(node.key, None)

    def _openings(self) -> list[Open]:
        request, tokens = self._request, tuple(self.log.tokens)
        # A part stays well under the message limit: a token takes at most 5 bytes on the wire.
        size = max(1, self._limits.max_message_bytes // 8)
        parts = [tokens[i : i + size] for i in range(0, len(tokens), size)]
        return [
            Open(
                tokens=part,
                prompt_length=self.log.prompt_length,
                max_length=self.log.max_length,
                sampling=request.sampling,
                stop_tokens=request.stop_tokens,
                model_fingerprint=self._info.model_fingerprint,
                tokenizer_fingerprint=self._info.tokenizer_fingerprint,
                patience_us=request.patience_us,
                want_logprobs=request.want_logprobs,
                more=index + 1 < len(parts),
            )
            for index, part in enumerate(parts)
        ]

    def _connect(self, now: int) -> Connect:
        self._stream += 1
        return Connect(self._stream, self._policies.reconnect.next_attempt(now))

    def _done(self, reason: FinishReason, length: int) -> list[EdgeEffect]:
        self.over = True
        self._forget(self.tree.clear())
        return [Done(reason, length - self.log.prompt_length)]

    def _fail(self, status: Status, message: str) -> list[EdgeEffect]:
        self.over = True
        self._forget(self.tree.clear())
        return [Failed(status, message)]


def _wire_cost(cost: float) -> int:
    return round(min(cost * COST_UNITS_PER_NAT, MAX_WIRE_COST))
