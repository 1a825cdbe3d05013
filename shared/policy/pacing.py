"""When the edge drafts on, and when it sends what it has drafted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Protocol

from shared.messages import Commit
from shared.policy.uplink_share import UplinkShare
from shared.policy.window import Window

UNBOUNDED: Final = 1 << 30
"""Nodes: as many as the contract allows in a message."""
MS: Final = 1_000_000
SMOOTHING: Final = 8
"""An average forgets its past over so many values."""
LEAST_MARGIN: Final = 0.12
"""Of a step: messages leave at least so much earlier than they seem to have to. It costs nothing, and lateness does."""
NEAR: Final = 0.4
"""Of a step: a cloud that is no farther away may find it worth while to wait for drafts, and not for longer."""
UNKNOWN_GAP_MS: Final = 10.0
"""Between two messages, until the server's beat is known."""


class Pacing(Protocol):
    """Asked after every fact. Counts are live nodes: `in_flight` were sent, `pending` were not. Times are in ns."""

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """Whether another forward may start."""
        ...

    def may_send(self, in_flight: int, pending: int, *, exhausted: bool, now: int) -> bool:
        """Whether pending nodes go out now; `exhausted`: no further forward can add to them."""
        ...

    def room(self, now: int) -> int:
        """Nodes that the message which may go now should carry at most; at least 1."""
        ...

    def steps_ahead(self, now: int) -> int:
        """Tokens past the log as it is here that the cloud will have, at least, when a message sent now arrives."""
        ...

    def opened(self, now: int) -> None:
        """A stream stands, on which nothing was sent yet."""
        ...

    def answered(self, now: int, steps_at_once: int) -> None:
        """The cloud has opened the session; so many of its verify steps may run at the same time."""
        ...

    def drafted(self, duration: int) -> None:
        """A forward took so long (ns)."""
        ...

    def sent(self, nodes: int, now: int, *, fresh: bool) -> None:
        """A message with so many nodes went out; `fresh`: the cloud held none below the end."""
        ...

    def committed(self, commit: Commit, now: int) -> None:
        """A commit arrived."""
        ...


class Unpaced:
    """What a pacing that only looks at counts has to say of the rest."""

    def room(self, now: int) -> int:
        """See `Pacing.room`."""
        return UNBOUNDED

    def steps_ahead(self, now: int) -> int:
        """See `Pacing.steps_ahead`."""
        return 0

    def opened(self, now: int) -> None:
        """See `Pacing.opened`."""

    def answered(self, now: int, steps_at_once: int) -> None:
        """See `Pacing.answered`."""

    def drafted(self, duration: int) -> None:
        """See `Pacing.drafted`."""

    def sent(self, nodes: int, now: int, *, fresh: bool) -> None:
        """See `Pacing.sent`."""

    def committed(self, commit: Commit, now: int) -> None:
        """See `Pacing.committed`."""


@dataclass(frozen=True, slots=True)
class Streaming(Unpaced):
    """Never wait: every forward's nodes go out at once, while earlier ones are in flight."""

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """See `Pacing.may_draft`."""
        return True

    def may_send(self, in_flight: int, pending: int, *, exhausted: bool, now: int) -> bool:
        """See `Pacing.may_send`."""
        return pending > 0


@dataclass(frozen=True, slots=True)
class Block(Unpaced):
    """Classic speculative inference: draft `lookahead` tokens, send them as one message, wait for the verdict."""

    lookahead: int

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """See `Pacing.may_draft`."""
        return in_flight == 0 and pending < self.lookahead

    def may_send(self, in_flight: int, pending: int, *, exhausted: bool, now: int) -> bool:
        """See `Pacing.may_send`."""
        return in_flight == 0 and pending > 0 and (pending >= self.lookahead or exhausted)


@dataclass(slots=True)
class Coalescing:
    """Few messages, in time, and no queue of its own making.

    While a verify step runs, the cloud does not look at what arrives: nodes wait for each other and share the last
    message that is in time for the next step. Steps begin when commits leave, so the edge knows the beat; how long
    before it a message must leave is learned from which commits know of which messages, whatever the delay is made of.
    Where jitter is as long as a step, or the cloud runs several steps of a session at once, every message leaves at
    once. On a slow uplink a message leaves when the one before it has gone through, with the likeliest nodes of that
    moment: what would queue in the network, out of date on arrival, waits here, where it dies with the commit that
    contradicts it. The first nodes of a new end never wait.
    """

    share: UplinkShare = field(default_factory=UplinkShare)
    late_share: float = 0.03
    """Part of the messages that may miss the step that they were meant for."""
    caution_ms: float = 3.0
    """How much earlier messages leave after one was late."""
    sureness: float = 0.9
    """How much of what will be past on arrival, by steps of the measured length, is believed to be."""
    _margin: float = 3.0 * MS
    """A message leaves that long before it seems to have to (ns)."""
    _gap: float = 0.0
    """Time between commits, smoothed (ns); 0: none was seen."""
    _forward: float = 0.0
    """Duration of a forward, smoothed (ns)."""
    _round_trip: float = math.inf
    """Shortest time from a message to what shows that it arrived (ns). Where the path gets longer, the margin grows."""
    _opened_at: int = 0
    _no_beat: bool = False
    """The cloud begins another step whenever there is something to verify: no message is worth holding back."""
    _last_commit: int | None = None
    _last_sent: int | None = None
    _fresh_at: int | None = None
    """When nodes went to an end that the cloud held nothing below."""

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """See `Pacing.may_draft`."""
        return True

    def may_send(self, in_flight: int, pending: int, *, exhausted: bool, now: int) -> bool:
        """See `Pacing.may_send`."""
        if pending == 0 or self.share.room(now) == 0:
            return False
        if in_flight == 0 or exhausted or self._no_beat or self._awaited(now):
            return True
        if not self._gap:
            return self._last_sent is None or now - self._last_sent >= UNKNOWN_GAP_MS * MS
        # Another forward may be through before a message has to leave.
        return self._left(now) <= self._forward + self._margin

    def room(self, now: int) -> int:
        """See `Pacing.room`."""
        return min(UNBOUNDED, self.share.room(now))

    def steps_ahead(self, now: int) -> int:
        """See `Pacing.steps_ahead`. Each step commits a token, drafts or not."""
        return int(self.sureness * self.steps_in_air(now))

    def steps_in_flight(self) -> float:
        """Verify steps in a round trip; 0: nothing was measured."""
        return self._air / self._gap if self._gap else 0.0

    @property
    def round_trip_ms(self) -> float:
        """See `shared.policy.window.Beat`."""
        return self._air / MS

    @property
    def gap_ms(self) -> float:
        """See `shared.policy.window.Beat`."""
        return self._gap / MS

    @property
    def forward_ms(self) -> float:
        """See `shared.policy.window.Beat`."""
        return self._forward / MS

    def steps_in_air(self, now: int) -> float:
        """Verify steps from the commit that was seen last to the arrival of what is sent now."""
        if self._last_commit is None or not self._gap:
            return 0.0
        # A server that waits, or is held up, commits nothing meanwhile: one step more is all that is sure.
        return (self._air + min(now - self._last_commit, self._gap)) / self._gap

    def opened(self, now: int) -> None:
        """See `Pacing.opened`."""
        self.share.opened()
        self._opened_at = now
        self._last_commit = self._last_sent = self._fresh_at = None

    def answered(self, now: int, steps_at_once: int) -> None:
        """See `Pacing.answered`. Messages that keep to the beat all wait equally long: they alone would not tell."""
        self._no_beat = steps_at_once > 1
        self._round_trip = min(self._round_trip, now - self._opened_at)

    def drafted(self, duration: int) -> None:
        """See `Pacing.drafted`."""
        self._forward += (duration - self._forward) / SMOOTHING

    def sent(self, nodes: int, now: int, *, fresh: bool) -> None:
        """See `Pacing.sent`."""
        self._last_sent = now
        if fresh:
            self._fresh_at = now
        self.share.sent(nodes, now, now + self._left(now) + self._air)

    def committed(self, commit: Commit, now: int) -> None:
        """See `Pacing.committed`."""
        if self._last_commit is not None:
            # Commits that were held up come in a burst; no step was shorter than the server says it was.
            gap = float(max(now - self._last_commit, commit.verify_us * 1000))
            # One long silence, of a lost packet or stream, is no long step; nor is one short gap a short one.
            self._gap += (
                (min(max(gap, self._gap / 2), 2 * self._gap) - self._gap) / SMOOTHING if self._gap else gap
            )
        self._last_commit = now
        for message in self.share.received(commit.received, now):
            self._round_trip = min(self._round_trip, now - message.at)
            late = now > message.due + self._gap / 2
            moved = self._margin + self.caution_ms * MS * (late - self.late_share)
            self._margin = min(max(moved, LEAST_MARGIN * self._gap), self._gap)

    def _awaited(self, now: int) -> bool:
        """Whether a cloud with some patience may be waiting: near enough, and the end is a new one."""
        near = self._air < NEAR * self._gap
        return near and self._fresh_at is not None and now - self._fresh_at < NEAR * self._gap

    @property
    def _air(self) -> float:
        return self._round_trip if math.isfinite(self._round_trip) else 0.0

    def _left(self, now: int) -> float:
        """Time until what is to arrive before the next step begins must leave (ns); 0 as long as there is no beat."""
        if self._last_commit is None or not self._gap:
            return 0.0
        return self._gap - (now - self._last_commit + self._air) % self._gap


@dataclass(frozen=True, slots=True)
class Listening:
    """What a pacing that does not send to the server's beat has to say of it: it is measured all the same."""

    beat: Coalescing

    def room(self, now: int) -> int:
        """See `Pacing.room`."""
        return UNBOUNDED

    def steps_ahead(self, now: int) -> int:
        """See `Pacing.steps_ahead`."""
        return 0

    def opened(self, now: int) -> None:
        """See `Pacing.opened`."""
        self.beat.opened(now)

    def answered(self, now: int, steps_at_once: int) -> None:
        """See `Pacing.answered`."""
        self.beat.answered(now, steps_at_once)

    def drafted(self, duration: int) -> None:
        """See `Pacing.drafted`."""
        self.beat.drafted(duration)

    def sent(self, nodes: int, now: int, *, fresh: bool) -> None:
        """See `Pacing.sent`."""
        self.beat.sent(nodes, now, fresh=fresh)

    def committed(self, commit: Commit, now: int) -> None:
        """See `Pacing.committed`."""
        self.beat.committed(commit, now)


@dataclass(frozen=True, slots=True)
class AtOnce(Listening):
    """Every forward's nodes go out at once, as with `Streaming`, while the server's beat is still measured."""

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """See `Pacing.may_draft`."""
        return True

    def may_send(self, in_flight: int, pending: int, *, exhausted: bool, now: int) -> bool:
        """See `Pacing.may_send`."""
        return pending > 0


@dataclass(frozen=True, slots=True)
class Blocks(Listening):
    """Stop and wait as with `Block`, in blocks that are as long as a window says when they begin.

    A window's size changes with commits alone, and none comes between the first token of a block and its verdict.
    """

    window: Window

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """See `Pacing.may_draft`."""
        return in_flight == 0 and pending < self.window.size()

    def may_send(self, in_flight: int, pending: int, *, exhausted: bool, now: int) -> bool:
        """See `Pacing.may_send`."""
        return in_flight == 0 and pending > 0 and (pending >= self.window.size() or exhausted)
