"""AssistSession: a second device drafts for a session that belongs to another edge.

It is told the log, keeps a copy of its own, and drafts ahead of it with the same policies as any edge. What it keeps:

1. Its log is a copy: only commits extend it, and nothing of it is shown to anybody here.
2. It changes when a token is committed, never which. When it dies, the session goes on without it.
6. Nothing here has to be kept: after a lost stream it attaches again, and is told the log anew.
7. Pure, and called as an `EdgeSession` is: the same driver runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from shared.errors import Status
from shared.messages import (
    Attach,
    Attached,
    Close,
    CloudMessage,
    Commit,
    Drain,
    Finish,
    FinishReason,
    Limits,
    ModelInfo,
)
from shared.policy.expansion import Candidate
from shared.policy.reconnect import Reconnect
from shared.sampling import SamplingParams
from shared.session.edge import (
    JOINED,
    Connect,
    Done,
    EdgeCounts,
    EdgeEffect,
    EdgePolicies,
    EdgeSession,
    Emit,
    Failed,
    Forward,
    Request,
    SendUp,
)


class AssistSession:
    """Calling order: `start` once, then facts in any order until `Done` (the session is over) or `Failed`."""

    def __init__(
        self,
        session_id: str,
        secret: str,
        info: ModelInfo,
        make_policies: Callable[[], EdgePolicies],
        reconnect: Reconnect,
    ) -> None:
        """`make_policies` is asked once for each time that it is attached; `reconnect` replaces a lost stream."""
        self._attach = Attach(session_id, secret, info.model_fingerprint, info.tokenizer_fingerprint)
        self._info = info
        self._make_policies = make_policies
        self._reconnect = reconnect
        self.over = False
        self.counts = EdgeCounts()
        """Over all streams."""
        self._stream = 0
        self._connected = False
        self._asked_at = 0
        self._half: EdgeSession | None = None
        """The copy of the session as the stream of the moment tells it; None: not attached."""
        self._out: EdgeSession | None = None
        """Whose forward is out: perhaps an earlier copy's."""
        self._next: Forward | None = None
        """One that waits for it."""
        self._was_attached = False

    @property
    def sampling(self) -> SamplingParams:
        """How the session draws its tokens; of no meaning before it is attached."""
        return SamplingParams() if self._half is None else self._half.sampling

    @property
    def log(self) -> Sequence[int]:
        """The session's log as far as it is known here."""
        return () if self._half is None else self._half.log.tokens

    # ---- facts from the transport ----

    def start(self, now: int) -> list[EdgeEffect]:
        """Begin: connect."""
        return [self._connect(now)]

    def connected(
        self, stream: int, now: int, limits: Limits | None = None, server: str = ""
    ) -> list[EdgeEffect]:
        """The stream stands. `limits` are told again with `Attached`; there is one `server`."""
        if self.over or stream != self._stream:
            return []
        self._connected, self._asked_at = True, now
        return [SendUp(stream, self._attach)]

    def lost(
        self, stream: int, status: Status, message: str, now: int, retry_at: int | None = None
    ) -> list[EdgeEffect]:
        """The stream is gone, or could not be made; `retry_at`: when its server may be asked again (ns), if known."""
        if self.over or stream != self._stream:
            return []
        self._connected, self._half, self._next = False, None, None
        if status is Status.NOT_FOUND and self._was_attached:
            return self._done(FinishReason.CLOSED)
        if not status.transient or not self._reconnect.allows(now):
            self.over = True
            return [Failed(status, message)]
        self.counts.reconnects += 1
        return [self._connect(now if retry_at is None else max(now, retry_at))]

    def receive(self, stream: int, message: CloudMessage, now: int) -> list[EdgeEffect]:
        """One message of the cloud; one of an earlier stream is late and dropped."""
        if self.over or stream != self._stream:
            return []
        if isinstance(message, Drain):
            return []  # where the session goes, its owner decides; here it is served until it ends
        if isinstance(message, Commit):
            self._reconnect.progressed(now)
        if isinstance(message, Finish) and self._half is not None:
            return self._done(message.reason)  # why, its owner knows: perhaps it had enough
        if self._half is not None:
            return self._outward(self._half.receive(JOINED, message, now))
        if isinstance(message, Attached):
            return self._attached(message, now)
        self.over = True
        what = type(message).__name__
        return [Failed(Status.INTERNAL, f"the server sent {what} before Attached: report a bug")]

    # ---- facts from the drafter and the user ----

    def drafted(self, results: Sequence[Sequence[Candidate]], now: int) -> list[EdgeEffect]:
        """The forward that is out has its candidates. Those for a copy that was given up are dropped."""
        if self._out is None:
            raise ValueError("no forward is out")
        half, self._out = self._out, None
        effects = half.drafted(results, now)
        if half is self._half and not self.over:
            return self._outward(effects)
        waiting, self._next = self._next, None
        return [] if waiting is None else self._outward([waiting])

    def close(self, now: int, position: int | None = None) -> list[EdgeEffect]:
        """Stop drafting: the session goes on without this. `position` is its owner's to name, and left out."""
        if self.over:
            return []
        leaving: list[EdgeEffect] = [SendUp(self._stream, Close())] if self._connected else []
        return leaving + self._done(FinishReason.CLOSED)

    # ---- inside ----

    def _attached(self, attached: Attached, now: int) -> list[EdgeEffect]:
        """A new copy of the session: an edge's half that opens nothing."""
        request = Request(
            prompt=attached.tokens[: attached.prompt_length],
            max_new_tokens=attached.max_length - attached.prompt_length,
            sampling=attached.sampling,
            stop_tokens=attached.stop_tokens,
        )
        info = replace(self._info, limits=attached.limits)
        half = EdgeSession(request, info, self._make_policies(), attached.tokens)
        half.counts = self.counts
        self._half, self._was_attached = half, True
        return self._outward(half.joined(self._asked_at, now, attached.sp_degree))

    def _outward(self, effects: list[EdgeEffect]) -> list[EdgeEffect]:
        """What a copy asks for, as this session asks for it: on its own stream, one forward at a time."""
        outward: list[EdgeEffect] = []
        for effect in effects:
            match effect:
                case SendUp(_, message):
                    outward.append(SendUp(self._stream, message))
                case Forward() if self._out is not None:
                    self._next = effect
                case Forward():
                    self._out = self._half
                    outward.append(effect)
                case Done() | Failed():
                    self.over = True
                    outward.append(effect)
                case Emit():
                    pass  # shown where the session belongs
                case _:
                    raise ValueError(f"{effect} of a session that opens no streams of its own")
        return outward

    def _connect(self, now: int) -> Connect:
        self._stream += 1
        return Connect(self._stream, self._reconnect.next_attempt(now))

    def _done(self, reason: FinishReason) -> list[EdgeEffect]:
        self.over = True
        return [Done(reason, 0 if self._half is None else len(self._half.log.completion))]
