"""CloudFront: streams in, sessions behind them. The one object that a cloud driver talks to.

It keeps the rules that hold before a session exists (open first, open once, admission, drain) and turns a broken
rule into the end of that one stream; other sessions do not notice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.errors import ContractViolation, Status
from shared.messages import Close, Draft, Drain, EdgeMessage, ModelInfo, Open
from shared.policy.lookup import LookupCounts, PromptLookup
from shared.pool import PoolScheduler
from shared.session.cloud import CloudEffect, CloudSession, EndStream, Send
from shared.session.rate import Allowance
from shared.step import Step, StepOutcome


@dataclass(frozen=True, slots=True)
class Ticket:
    """What names a session to its edge; drawn by the driver, since machines know no randomness."""

    session_id: str
    secret: str


@dataclass(frozen=True, slots=True)
class CloudPolicies:
    """What the cloud does for speed beside verifying drafts. Nothing here changes a token."""

    prompt_lookup: bool = True
    """Whether the cloud guesses by itself from a session's own log, where a step has room to spare."""
    adaptive_patience: bool = True
    """Whether the cloud waits for a draft where that is faster, and the edge leaves it to the cloud."""


@dataclass(slots=True)
class _Opening:
    """An `Open` whose last part has not come."""

    first: Open
    allowance: Allowance
    tokens: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Stream:
    ticket: Ticket
    opening: _Opening | None = None
    session: CloudSession | None = None


class CloudFront:
    """All streams of one server. Every call returns the effects to perform, in order."""

    def __init__(self, info: ModelInfo, pool: PoolScheduler, policies: CloudPolicies | None = None) -> None:
        self._info = info
        self._pool = pool
        self._policies = policies if policies is not None else CloudPolicies()
        self.lookup = LookupCounts()
        """What came of the cloud's own guesses."""
        self._streams: dict[int, _Stream] = {}
        self._draining = False

    @property
    def streams(self) -> int:
        """Streams that are connected."""
        return len(self._streams)

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return self._pool.sessions

    def session_of(self, stream: int) -> CloudSession | None:
        """The session behind a stream, for tests and metrics."""
        known = self._streams.get(stream)
        return known.session if known is not None else None

    def connect(self, stream: int, ticket: Ticket) -> list[CloudEffect]:
        """A stream has begun; `stream` is a number never used before."""
        if self._draining:
            return [EndStream(stream, Status.UNAVAILABLE, "this server is draining: connect to another")]
        self._streams[stream] = _Stream(ticket)
        return []

    def receive(self, stream: int, message: EdgeMessage, now: int) -> list[CloudEffect]:
        """One message of a stream. A message on a stream that has ended is late, not wrong."""
        known = self._streams.get(stream)
        if known is None:
            return []
        try:
            if isinstance(message, Open):
                return self._open(stream, known, message, now)
            session = _opened(known, message)
            if isinstance(message, Draft):
                session.draft(message, now=now)
                return []
            return self._close(stream, session, message)
        except ContractViolation as violation:
            return self.violated(stream, violation)

    def violated(self, stream: int, violation: ContractViolation) -> list[CloudEffect]:
        """The stream broke the contract (found here or by the codec): it ends, and its session with it."""
        if stream not in self._streams:
            return []
        self._drop(stream)
        return [EndStream(stream, violation.status, violation.message)]

    def lost(self, stream: int) -> None:
        """The stream ended without `Close`: its session is freed at once."""
        if stream in self._streams:
            self._drop(stream)

    def crowded(self) -> list[CloudEffect]:
        """Too many streams have no session: the one that has waited longest makes room.

        Not the newest: streams that never open anything would keep everybody else out.
        """
        for stream, known in self._streams.items():
            if known.session is None:
                return self.violated(
                    stream,
                    ContractViolation(
                        Status.RESOURCE_EXHAUSTED,
                        "too many streams wait without a session: open again in a few seconds",
                    ),
                )
        return []

    def overdue(self, stream: int) -> list[CloudEffect]:
        """The time for the stream's `Open` is over."""
        known = self._streams.get(stream)
        if known is None or known.session is not None:
            return []
        return self.violated(
            stream,
            ContractViolation(
                Status.DEADLINE_EXCEEDED, "no complete Open in time: send it when the stream begins"
            ),
        )

    def silent(self, stream: int) -> list[CloudEffect]:
        """Its edge has said nothing for long. A session that only the edge could move on does not rest for ever."""
        known = self._streams.get(stream)
        if known is None or known.session is None:
            return []
        unseen = len(known.session.log) - known.session.drafts.seen
        if unseen < self._info.limits.run_ahead:
            return []
        return self.violated(
            stream,
            ContractViolation(
                Status.DEADLINE_EXCEEDED,
                f"{unseen} tokens were not reported as seen for too long: open again with the log",
            ),
        )

    def drain(self) -> list[CloudEffect]:
        """Take no new streams and ask the present ones to move on; they are served until they end."""
        if self._draining:
            return []
        self._draining = True
        return [Send(stream, Drain()) for stream in self._streams]

    # ---- the worker's side ----

    def next_step(self, now: int) -> Step | None:
        """See `PoolScheduler.next_step`."""
        return self._pool.next_step(now)

    def wake_at(self) -> int | None:
        """See `PoolScheduler.wake_at`."""
        return self._pool.wake_at()

    def complete(self, outcome: StepOutcome, now: int) -> list[CloudEffect]:
        """See `PoolScheduler.complete`."""
        return self._ended(self._pool.complete(outcome, now))

    def failed(self) -> list[CloudEffect]:
        """The step is lost: its facts are asked for again, and nothing is said of it."""
        self._pool.failed()
        return []

    def broken(self, detail: str) -> list[CloudEffect]:
        """The step broke the worker: the session whose fault that is ends loudly, once it can be told."""
        culprit = self._pool.broken()
        if culprit is None:
            return []
        effects: list[CloudEffect] = []
        for stream, known in list(self._streams.items()):
            if known.session is not None and known.session.key == culprit:
                effects += self.violated(stream, ContractViolation(Status.INTERNAL, detail))
        return effects

    # ---- inside ----

    def _open(self, stream: int, known: _Stream, message: Open, now: int) -> list[CloudEffect]:
        if known.session is not None:
            raise ContractViolation(
                Status.INVALID_ARGUMENT, "a second Open: a stream carries one session, open another stream"
            )
        opening = self._collect(known, message, now)
        if opening is None:
            return []
        if self._pool.sessions >= self._info.limits.max_sessions:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"all {self._info.limits.max_sessions} sessions are taken: try again in a few seconds",
            )
        policies = self._policies
        session = CloudSession(
            stream,
            stream,
            opening,
            self._info,
            now=now,
            lookup=PromptLookup(self.lookup) if policies.prompt_lookup else None,
            adaptive=policies.adaptive_patience,
        )
        known.session, known.opening = session, None
        self._pool.join(session)
        return self._ended(session.opened(known.ticket.session_id, known.ticket.secret))

    def _collect(self, known: _Stream, part: Open, now: int) -> Open | None:
        """The whole `Open`, once its last part has come."""
        limits = self._info.limits
        if known.opening is None:
            rate = float(limits.max_messages_per_second)
            known.opening = _Opening(part, Allowance(rate, rate, now=now))
        opening = known.opening
        if opening.allowance.left(now) < 1.0:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"more than {limits.max_messages_per_second} messages a second: send a log in few parts",
            )
        opening.allowance.take(now)
        opening.tokens += part.tokens
        if len(opening.tokens) >= self._info.context_length:
            raise ContractViolation(
                Status.OUT_OF_RANGE,
                f"the log fills the context of {self._info.context_length} tokens: shorten the prompt",
            )
        return None if part.more else replace(opening.first, tokens=tuple(opening.tokens), more=False)

    def _close(self, stream: int, session: CloudSession, message: Close) -> list[CloudEffect]:
        effects = session.close(message)
        self._pool.leave(session.key)
        return self._ended(effects)

    def _ended(self, effects: list[CloudEffect]) -> list[CloudEffect]:
        for effect in effects:
            if isinstance(effect, EndStream):
                self._drop(effect.stream)
        return effects

    def _drop(self, stream: int) -> None:
        session = self._streams.pop(stream).session
        if session is not None:
            if not session.over:
                session.abandon()
            self._pool.leave(session.key)


def _opened(known: _Stream, message: Draft | Close) -> CloudSession:
    if known.session is None:
        raise ContractViolation(
            Status.INVALID_ARGUMENT,
            f"{type(message).__name__} before Open: the first message of a stream is Open",
        )
    return known.session
