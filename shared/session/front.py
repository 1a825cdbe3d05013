"""CloudFront: streams in, sessions behind them. The one object that a cloud driver talks to.

It keeps the rules that hold before a session exists (open first, open once, admission, drain) and turns a broken
rule into the end of that one stream; other sessions do not notice. Several streams may belong to one session: the one
that owns it, and those that are attached. A session is over with the last of them; without its owner, after a grace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from shared.errors import ContractViolation, Status
from shared.messages import Attach, Close, Draft, Drain, EdgeMessage, ModelInfo, Open, SessionNotice
from shared.policy.lookup import LookupCounts, PromptLookup
from shared.pool import PoolScheduler, Transfer
from shared.session.cloud import CloudEffect, CloudSession, EndStream, Send
from shared.session.cloud_effects import Announce
from shared.session.held import Held, HeldSessions, Ticket
from shared.session.joining import NO_SUCH_SESSION, check_attach
from shared.session.opening import check_open
from shared.session.parts import OpenParts
from shared.step import Step, StepOutcome

__all__ = ["OWNER_GRACE_S", "CloudFront", "CloudPolicies", "Ticket"]

OWNER_GRACE_S = 10.0
OWNER_GONE = "the owner of the session is gone: it is over"


@dataclass(frozen=True, slots=True)
class CloudPolicies:
    """What the cloud does for speed beside verifying drafts. Nothing here changes a token."""

    prompt_lookup: bool = True
    """Whether the cloud guesses by itself from a session's own log, where a step has room to spare."""
    guesses: Callable[[LookupCounts], PromptLookup] = PromptLookup
    """What it guesses with: one for each session."""
    adaptive_patience: bool = True
    """Whether the cloud waits for a draft where that is faster, and the edge leaves it to the cloud."""


@dataclass(slots=True)
class _Stream:
    ticket: Ticket
    opening: OpenParts | None = None
    """An `Open` whose last part has not come."""
    held: Held | None = None

    @property
    def session(self) -> CloudSession | None:
        return None if self.held is None else self.held.session


class CloudFront:
    """All streams of one server. Every call returns the effects to perform, in order."""

    def __init__(
        self,
        info: ModelInfo,
        pool: PoolScheduler,
        policies: CloudPolicies | None = None,
        owner_grace_s: float = OWNER_GRACE_S,
    ) -> None:
        """`owner_grace_s`: for how long a session with attached drafters waits for its owner to come back."""
        self._info = info if pool.sp_degree == 1 else replace(info, sp_degree=pool.sp_degree)
        self._pool = pool
        self._policies = policies if policies is not None else CloudPolicies()
        self.lookup = LookupCounts()
        """What came of the cloud's own guesses."""
        self._streams: dict[int, _Stream] = {}
        self._watchers: set[int] = set()
        self._held = HeldSessions(owner_grace_s)
        self._draining = False

    @property
    def streams(self) -> int:
        """Streams that are connected, those that watch included."""
        return len(self._streams) + len(self._watchers)

    @property
    def busy(self) -> int:
        """Streams that belong to a session, or watch: all but those that wait for one, or wait to be read."""
        return sum(known.held is not None for known in self._streams.values()) + len(self._watchers)

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
            if isinstance(message, Attach):
                return self._attach(stream, known, message, now)
            session = _opened(known, message)
            if isinstance(message, Draft):
                session.draft(message, now=now, stream=stream)
                return []
            return self._close(stream, session, message)
        except ContractViolation as violation:
            return self.violated(stream, violation)

    def violated(self, stream: int, violation: ContractViolation) -> list[CloudEffect]:
        """The stream broke the contract (found here or by the codec): it ends, and a session that it owns with it."""
        known = self._streams.get(stream)
        if known is None:
            return []
        effects: list[CloudEffect] = [
            EndStream(stream, violation.status, violation.message, violation.retry_ms)
        ]
        if known.session is not None and known.session.stream == stream:
            effects += _ends(known.session.attached, Status.NOT_FOUND, OWNER_GONE)
        return self._ended(effects)

    def lost(self, stream: int, now: int) -> None:
        """The stream ended without `Close`. A session that it owned is freed at once, unless drafters are attached."""
        self._watchers.discard(stream)
        known = self._streams.get(stream)
        if known is None:
            return
        self._drop(stream)
        if known.held is not None and known.held.session.stream is None:
            self._held.without_owner(known.held, now)

    def half_closed(self, stream: int, now: int) -> list[CloudEffect]:
        """The edge ended its side without `Close`: as good as lost, but it may still read why."""
        if stream not in self._streams:
            return []
        self.lost(stream, now)
        detail = "the stream ended without Close: open again with the log"
        return [EndStream(stream, Status.CANCELLED, detail)]

    def watch(self, stream: int) -> list[CloudEffect]:
        """A stream that is told of every session, of the present ones at once; `lost` ends it."""
        if self._draining:
            return [EndStream(stream, Status.UNAVAILABLE, "this server is draining: watch another")]
        self._watchers.add(stream)
        return [_notice(stream, held) for held in self._held]

    def tick(self, now: int) -> list[CloudEffect]:
        """Time has passed (see `wake_at`): sessions whose owner did not come back are over."""
        effects: list[CloudEffect] = []
        for held in self._held.ending(now):
            effects += self._ended(_ends(held.session.attached, Status.NOT_FOUND, OWNER_GONE))
        return effects

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
        if known is None or known.session is None or known.session.stream != stream:
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
        """Take no new streams and ask the present ones to move on; those with a session are served until they end."""
        if self._draining:
            return []
        self._draining = True
        # Nothing comes before Opened, so a stream that has no session yet cannot be told to move on.
        waiting = [stream for stream, known in self._streams.items() if known.session is None]
        effects = _ends([*waiting, *self._watchers], Status.UNAVAILABLE, "this server is draining")
        served = [stream for stream in self._streams if stream not in waiting]
        return [*(Send(stream, Drain()) for stream in served), *self._ended(effects)]

    # ---- the workers' side ----

    @property
    def pool(self) -> PoolScheduler:
        """The pool, to be looked at: everything that changes it goes through here."""
        return self._pool

    def worker_joined(self, worker: int, kv_tokens: int | None, step_us: float = 0.0) -> None:
        """See `PoolScheduler.worker_joined`."""
        self._pool.worker_joined(worker, kv_tokens, step_us)

    def worker_draining(self, worker: int) -> None:
        """See `PoolScheduler.worker_draining`."""
        self._pool.worker_draining(worker)

    def worker_left(self, worker: int) -> list[CloudEffect]:
        """A worker is gone: its sessions go on elsewhere, and nothing is said of it, unless one of them is to blame."""
        detail = "every worker that was asked for this session died of it: ask the operator"
        return self._blame(self._pool.worker_left(worker), detail)

    def next_step(self, now: int) -> Step | None:
        """See `PoolScheduler.next_step`."""
        return self._pool.next_step(now)

    def wake_at(self) -> int | None:
        """When time itself is a fact, for `next_step` (see `PoolScheduler.wake_at`) or for `tick`; None: never."""
        due = (self._pool.wake_at(), self._held.wake_at())
        return min((at for at in due if at is not None), default=None)

    def complete(self, outcome: StepOutcome, now: int, worker: int = 0) -> list[CloudEffect]:
        """See `PoolScheduler.complete`."""
        return self._ended(self._pool.complete(outcome, now, worker))

    def failed(self, worker: int = 0) -> list[CloudEffect]:
        """The step is lost: its facts are asked for again, and nothing is said of it."""
        self._pool.failed(worker)
        return []

    def broken(self, detail: str, worker: int = 0) -> list[CloudEffect]:
        """The step broke the worker: the session whose fault that is ends loudly, once it can be told."""
        return self._blame(self._pool.broken(worker), detail)

    def next_transfer(self, now: int) -> Transfer | None:
        """See `PoolScheduler.next_transfer`."""
        return self._pool.next_transfer(now)

    def transferred(self, session: int, target: int, tokens: int | None, now: int) -> None:
        """See `PoolScheduler.transferred`."""
        self._pool.transferred(session, target, tokens, now)

    # ---- inside ----

    def _blame(self, culprit: int | None, detail: str) -> list[CloudEffect]:
        held = None if culprit is None else self._held.with_key(culprit)
        return [] if held is None else self._ended(_ends(held.session.streams, Status.INTERNAL, detail))

    def _open(self, stream: int, known: _Stream, message: Open, now: int) -> list[CloudEffect]:
        if known.session is not None:
            raise ContractViolation(
                Status.INVALID_ARGUMENT, "a second Open: a stream carries one session, open another stream"
            )
        if known.opening is None:
            known.opening = OpenParts(message, self._info, now=now)
        opening = known.opening.add(message, now)
        if opening is None:
            return []
        effects: list[CloudEffect] = []
        if opening.session_id:
            check_open(opening, self._info)
            held = self._held.find(opening.session_id, opening.secret)
            if held is not None and held.session.continued_by(opening):
                return self._reopen(stream, known, held, opening, now)
            if held is not None:
                effects += self._ended(_superseded(held.session))
        return effects + self._begin(stream, known, opening, now)

    def _begin(self, stream: int, known: _Stream, opening: Open, now: int) -> list[CloudEffect]:
        retry_ms = self._pool.refused(self._info.limits.max_sessions)
        if retry_ms is not None:
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED,
                f"{self._pool.sessions} sessions are open and there is no room for more: try again in "
                f"{retry_ms / 1000:.1f} s",
                retry_ms=retry_ms,
            )
        policies = self._policies
        session = CloudSession(
            stream,
            stream,
            opening,
            self._info,
            now=now,
            lookup=policies.guesses(self.lookup) if policies.prompt_lookup else None,
            # Where another worker can be asked meanwhile, nothing is gained by waiting.
            adaptive=policies.adaptive_patience and self._pool.sp_degree == 1,
        )
        ticket = known.ticket
        known.held, known.opening = Held(session, ticket), None
        self._held.add(known.held)
        self._pool.join(session)
        effects = self._ended(session.opened(ticket.session_id, ticket.secret))
        if not session.over:
            effects += [_notice(watcher, known.held) for watcher in self._watchers]
        return effects

    def _reopen(self, stream: int, known: _Stream, held: Held, opening: Open, now: int) -> list[CloudEffect]:
        session, ticket = held.session, held.ticket
        before = session.stream
        known.held, known.opening, held.ends_at = held, None, None
        effects = session.reopen(stream, opening, ticket.session_id, ticket.secret, now)
        if before is not None:
            del self._streams[before]
            effects = [*_taken_over(before), *effects]
        return effects

    def _attach(self, stream: int, known: _Stream, message: Attach, now: int) -> list[CloudEffect]:
        if known.held is not None or known.opening is not None:
            raise ContractViolation(
                Status.INVALID_ARGUMENT, "Attach is the first message of a stream: attach another stream"
            )
        check_attach(message, self._info)
        held = self._held.find(message.session_id, message.secret)
        if held is None:
            raise ContractViolation(Status.NOT_FOUND, NO_SUCH_SESSION)
        effects = held.session.attach(stream, now=now)
        known.held = held
        return effects

    def _close(self, stream: int, session: CloudSession, message: Close) -> list[CloudEffect]:
        if session.stream == stream:
            return self._ended(session.close(message))
        return self._ended(session.detach(stream, message))

    def _ended(self, effects: list[CloudEffect]) -> list[CloudEffect]:
        for effect in effects:
            if isinstance(effect, EndStream):
                self._drop(effect.stream)
        return effects

    def _drop(self, stream: int) -> None:
        self._watchers.discard(stream)
        known = self._streams.pop(stream, None)
        if known is None or known.held is None:
            return
        session = known.held.session
        session.leave(stream)
        if session.over or not session.streams:
            self._release(known.held)

    def _release(self, held: Held) -> None:
        """Nobody is left to whom its tokens would go, or its log is closed."""
        if not held.session.over:
            held.session.abandon()
        self._held.release(held)
        self._pool.leave(held.session.key)


def _opened(known: _Stream, message: Draft | Close) -> CloudSession:
    if known.session is None:
        raise ContractViolation(
            Status.INVALID_ARGUMENT,
            f"{type(message).__name__} before Open: the first message of a stream is Open, or Attach",
        )
    return known.session


def _ends(streams: Iterable[int], status: Status, detail: str) -> list[CloudEffect]:
    return [EndStream(stream, status, detail) for stream in streams]


def _taken_over(stream: int) -> list[CloudEffect]:
    return _ends((stream,), Status.FAILED_PRECONDITION, "the session was opened again on another stream")


def _superseded(session: CloudSession) -> list[CloudEffect]:
    """Its owner has opened another log in its place."""
    owner = () if session.stream is None else _taken_over(session.stream)
    return [*owner, *_ends(session.attached, Status.NOT_FOUND, OWNER_GONE)]


def _notice(watcher: int, held: Held) -> Announce:
    return Announce(watcher, SessionNotice(held.ticket.session_id, held.ticket.secret))
