"""EdgeSession: one generation at the edge. It owns the durable log, drafts ahead of it, and takes commits.

What outlives a stream is here; what belongs to one stream is its `Uplink`. Laws kept here:

1. The log is the truth: only commits extend it; drafted tokens live in the tree.
5. Dead is silent: a commit that contradicts a draft is the normal case, and the late result of a forward on a dead
   node is dropped.
6. The edge keeps the durable log: after a lost stream it opens again with all of it, and the same facts follow; so
   it does at another server when its own goes away (`moving`).
7. Pure: time is an argument (ns); a call returns effects in the order in which they are to be performed. A driver
   performs at most one `Forward` at a time, and answers it with `drafted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from shared.errors import Status
from shared.messages import (
    Attached,
    Close,
    CloudMessage,
    Commit,
    Drain,
    Finish,
    FinishReason,
    Limits,
    ModelInfo,
    Opened,
)
from shared.policy.expansion import Candidate
from shared.sampling import SamplingParams
from shared.session.drafting import Drafting
from shared.session.edge_counts import EdgeCounts
from shared.session.edge_effects import Connect, Done, EdgeEffect, Emit, Failed, Forward, Leave, SendUp
from shared.session.edge_policies import EdgePolicies
from shared.session.log import TokenLog
from shared.session.moving import Ending, Loss, Streams
from shared.session.request import Request
from shared.session.tree import DraftTree, Node, follow
from shared.session.uplink import Uplink

__all__ = [
    "Connect",
    "Done",
    "EdgeCounts",
    "EdgeEffect",
    "EdgePolicies",
    "EdgeSession",
    "Emit",
    "Failed",
    "Forward",
    "Leave",
    "Request",
    "SendUp",
]

JOINED = 1
"""The number of the one stream of a session that is joined, not opened."""
SEEN_SHARE = 16
"""What was seen is reported that often per `run_ahead`: a long link with short steps must not run into it."""


class EdgeSession:
    """One generation. Calling order: `start` once, then facts in any order until `Done` or `Failed`."""

    def __init__(
        self, request: Request, info: ModelInfo, policies: EdgePolicies, log: Sequence[int] | None = None
    ) -> None:
        """`log`: what the log of a session that is joined holds already, the prompt included."""
        self._request = request
        self._info = info
        self._policies = policies
        self._limits: Limits = info.limits
        self.log = TokenLog(
            request.prompt if log is None else log,
            prompt_length=len(request.prompt),
            max_length=len(request.prompt) + request.max_new_tokens,
            context_length=info.context_length,
            stop_tokens=request.stop_tokens,
        )
        self.counts = EdgeCounts()
        self.over = False
        self.tree = DraftTree(self.log)
        self._drafting = Drafting(
            self.log,
            self.tree,
            expansion=policies.expansion,
            pacing=policies.pacing,
            agreement=policies.agreement,
            draft_context=policies.draft_context,
        )
        self._forwarding: dict[int, Node] | None = None
        self._forwarded_at = 0
        self._streams = Streams()
        self._uplink = Uplink(self.log, self.tree, self._limits, now=0)
        """Of the stream that stands or stood last; before the first nothing was sent on it."""
        self._closing: int | None = None
        self._opened: Opened | None = None
        """What the session was opened with last."""
        self._opened_by = ""
        """By which server."""
        self._servers: dict[int, str] = {}
        """Where the stream goes that stands or stood last, and the one that is left for it."""

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are drawn."""
        return self._request.sampling

    @property
    def in_flight(self) -> int:
        """Live nodes that were sent on this stream."""
        return self._uplink.in_flight

    @property
    def capacity(self) -> int:
        """Nodes that may be in flight now: the window, within what the cloud allows."""
        return min(self._policies.window.size(), self._limits.max_live_nodes)

    @property
    def live(self) -> int:
        """Live drafts: nodes, and candidates whose turn to become one has not come."""
        return self.tree.live + self.tree.reserved

    @property
    def pending(self) -> int:
        """Live drafts that were not sent yet."""
        return self.live - self._uplink.in_flight

    # ---- facts from the transport ----

    def start(self, now: int) -> list[EdgeEffect]:
        """Begin: connect, and draft while the connection is being made."""
        return [self._streams.ask(self._policies.reconnect.next_attempt(now)), *self._pump(now)]

    def joined(self, asked_at: int, now: int, sp_degree: int = 1) -> list[EdgeEffect]:
        """In the place of `start`: stream `JOINED` stands, asked for at `asked_at`, and the cloud has the log."""
        self._streams.ask(now)
        self._streams.made(JOINED, self._uplink, self._limits)
        self._streams.opened = True
        self._uplink = Uplink(self.log, self.tree, self._limits, now=now)
        self._policies.pacing.opened(asked_at)
        self._policies.pacing.answered(now, max(1, sp_degree))
        return self._pump(now)

    def connected(
        self, stream: int, now: int, limits: Limits | None = None, server: str = ""
    ) -> list[EdgeEffect]:
        """The stream stands. Opens with the log: for the cloud every connection is the first (law 6).

        `limits`: what its server accepts, where that is known before it says so itself. `server`: which one it is.
        """
        if self.over or not self._streams.made(stream, self._uplink, self._limits):
            return []
        self._limits = self._limits if limits is None else limits
        self._uplink = Uplink(self.log, self.tree, self._limits, now=now)
        self._policies.pacing.opened(now)
        self._drafting.reopened()
        left = self._streams.leaving
        self._servers = {stream: server} | ({left.stream: self._servers[left.stream]} if left else {})
        # Only the server that has the session may still have it, and no other is to know its secret.
        before = self._opened if server == self._opened_by and left is None else None
        openings = self._request.openings(self.log, self._info, self._limits, before)
        return [*(SendUp(stream, part) for part in openings), *self._pump(now)]

    def lost(
        self, stream: int, status: Status, message: str, now: int, retry_at: int | None = None
    ) -> list[EdgeEffect]:
        """The stream is gone, or could not be made; `retry_at` as in `moving.Ending`."""
        if self.over:
            return []
        match self._streams.lost(stream):
            case Loss.LATE:
                return []
            case Loss.UNMADE:
                return self._try_another(now, retry_at)
            case Loss.NEW:
                return self._stay(now, retry_at)
            case Loss.CURRENT:
                return self._gone(self._streams.ending(status, retry_at), message, now)

    def receive(self, stream: int, message: CloudMessage, now: int) -> list[EdgeEffect]:
        """One message of the cloud; one of an earlier stream is late and dropped."""
        if self.over or not self._streams.counts(stream, message):
            return []
        if self._closing is None and not self._streams.in_order(message):
            what = type(message).__name__
            return self._fail(Status.INTERNAL, f"the server sent {what} out of its order: report a bug")
        if isinstance(message, Opened):
            self._streams.was_opened()
            self._limits, self._opened, self._opened_by = message.limits, message, self._servers[stream]
            self._policies.pacing.answered(now, max(1, message.sp_degree))
            return [*self._left(), *self._pump(now)]
        if isinstance(message, Commit):
            return self._commit(message, now)
        if isinstance(message, Attached):
            return self._fail(Status.INTERNAL, "the server attached a stream that opened a log: report a bug")
        if isinstance(message, Drain):
            # With one address: served until the stream ends, then opened again.
            return self._move(message.target, now) if self._policies.moves or message.target else []
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
        duration = now - self._forwarded_at
        self._policies.pacing.drafted(duration)
        expansion = self._policies.expansion
        if self.over or expansion is None:
            return []
        expansion.forwarded(len(nodes), duration)
        for node, candidates in zip(nodes, results, strict=True):
            if node.alive:
                self.counts.drafted += self._drafting.adopt(node, candidates)
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
        self._clear()
        if not self._streams.connected:
            return self._done(FinishReason.CLOSED, self._closing)
        self._streams.moving = False
        return [*self._left(), SendUp(self._streams.current, Close(self._closing))]

    # ---- from one stream to another ----

    def _gone(self, ending: Ending, message: str, now: int) -> list[EdgeEffect]:
        if self._closing is not None:
            return self._done(FinishReason.CLOSED, self._closing)
        if self.log.closed is not None:  # the last commit arrived, only the farewell is missing
            return self._done(self.log.closed, len(self.log))
        if ending.status is Status.OK:
            return self._fail(Status.INTERNAL, "the server ended the stream without a Finish: report a bug")
        reconnect = self._policies.reconnect
        if not ending.worth_another(reconnect, now):
            return self._fail(ending.status, message)
        self._streams.reopening |= ending.status.transient
        self.counts.reconnects += 1
        asked = [] if self._streams.follow() else [self._streams.ask(ending.next_attempt(reconnect, now))]
        return [*asked, *self._pump(now)]

    def _move(self, target: str, now: int) -> list[EdgeEffect]:
        streams = self._streams
        if streams.moving or streams.leaving or self._closing is not None or self.log.closed is not None:
            return []
        return [streams.ask_elsewhere(now, target)]

    def _left(self) -> list[EdgeEffect]:
        """The stream that was being left is needed no more."""
        old = self._streams.left()
        if old is None:
            return []
        self.counts.moves += 1
        return [SendUp(old, Close()), Leave(old)]

    def _stay(self, now: int, retry_at: int | None) -> list[EdgeEffect]:
        """The new server did not take the session: on where it was left off, and perhaps to a third."""
        old = self._streams.stay()
        if old is None:
            return []
        self._uplink, self._limits = old.uplink, old.limits
        self._policies.pacing.opened(now)
        self._drafting.reopened()
        effects = [effect for message in old.held for effect in self.receive(old.stream, message, now)]
        return effects if self.over else effects + (self._try_another(now, retry_at) or self._pump(now))

    def _try_another(self, now: int, retry_at: int | None) -> list[EdgeEffect]:
        return self._move("", now) if retry_at is not None and retry_at <= now else []

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
        self._policies.pacing.committed(commit, now)
        self._policies.reconnect.progressed(now)
        self.counts.add(commit)
        for token in commit.tokens:
            if self.log.closed is not None:
                return self._fail(
                    Status.INTERNAL, "the server committed beyond the end of the log: report a bug"
                )
            self._drafting.judge(token)
            before = self.tree.root.key
            heir, killed = follow(self.log, self.tree, token)
            self._forget(killed)
            if heir is not None:
                self._uplink.forget((heir,))
            self._drafting.moved(before)
        effects: list[EdgeEffect] = [Emit(commit.position, commit.tokens)]
        return effects + self._pump(now)

    def _forget(self, nodes: list[Node]) -> None:
        self._uplink.forget(nodes)
        self._drafting.forget(nodes)

    def _pump(self, now: int) -> list[EdgeEffect]:
        """Send what may be sent, then draft on: everything that is waiting is derived here, nothing is stored."""
        if self.over or self._closing is not None or self.log.closed is not None:
            return []
        effects: list[EdgeEffect] = []
        exhausted = self._forwarding is None and not self._drafting.may_expand(self._limits)
        self._send(effects, now, idle=exhausted)
        if self._forwarding is None:
            forward = self._next_forward(now)
            if forward is not None:
                effects.append(forward)
            elif not exhausted:  # nothing will add to what is pending, and nothing will ask again soon
                self._send(effects, now, idle=True)
        self._report(effects, now, exhausted=exhausted)
        return effects

    def _send(self, effects: list[EdgeEffect], now: int, *, idle: bool) -> None:
        """`idle`: no forward is out, and none will be before the next fact."""
        pacing, uplink = self._policies.pacing, self._uplink
        # A drafter faster than the message rate: its nodes wait for the next fact and share a message. One always
        # comes, since the cloud's patience is finite. More than one message only where the contract caps a message,
        # and pacing does not mind.
        while (
            self._streams.connected
            and pacing.may_send(self.in_flight, self.pending, exhausted=idle, now=now)
            and uplink.may_draft(now)
            and (
                nodes := self._drafting.next_message(
                    uplink, self.capacity - self.in_flight, self._limits, now
                )
            )
        ):
            self.counts.sent += len(nodes)
            pacing.sent(len(nodes), now, fresh=self.in_flight == 0)
            effects.append(SendUp(self._streams.current, uplink.draft(nodes, now=now)))

    def _report(self, effects: list[EdgeEffect], now: int, *, exhausted: bool) -> None:
        """Say what the cloud waits to hear: that no draft will come, or what was seen here."""
        if not self._streams.connected:
            return
        uplink = self._uplink
        if self._waited_for_in_vain(exhausted):
            effects.append(SendUp(self._streams.current, uplink.draft([], now=now, step_now=True)))
        elif uplink.unreported >= max(1, self._limits.run_ahead // SEEN_SHARE):
            effects.append(SendUp(self._streams.current, uplink.draft([], now=now)))

    def _waited_for_in_vain(self, exhausted: bool) -> bool:
        """Whether the cloud waits out its patience for a draft of this end that will not come (said once an end)."""
        return exhausted and self.in_flight == 0 and self._request.patience_us > 0 and not self._uplink.asked

    def _next_forward(self, now: int) -> Forward | None:
        expansion = self._policies.expansion
        if expansion is None or not self._policies.pacing.may_draft(self.in_flight, self.pending):
            return None
        if (self.in_flight if self._streams.connected else self.live) >= self.capacity:
            return None
        # A window's nodes with all their children are no more than this: the rest waits for the message rate.
        if self.live >= self.capacity * (1 + expansion.width):
            return None
        nodes = self._drafting.next_forward(self._limits)
        if not nodes:
            return None
        self._forwarding = {node.key: node for node in nodes}
        self._forwarded_at = now
        self.counts.forwards += 1
        return Forward(
            keys=tuple(self._forwarding),
            log=self.log.tokens,
            log_length=len(self.log),
            paths=tuple(self._drafting.path(node) for node in nodes),
            width=expansion.width,
        )

    def _clear(self) -> None:
        self._forget(self.tree.clear())
        self._drafting.clear()

    def _done(self, reason: FinishReason, length: int) -> list[EdgeEffect]:
        self.over = True
        self._clear()
        return [Done(reason, length - self.log.prompt_length)]

    def _fail(self, status: Status, message: str) -> list[EdgeEffect]:
        self.over = True
        self._clear()
        return [Failed(status, message)]
