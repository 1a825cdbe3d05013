"""When the edge drafts on and when it sends what it has drafted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Pacing(Protocol):
    """Asked after every fact. Counts are live nodes: `in_flight` were sent, `pending` were not."""

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """Whether another forward may start."""
        ...

    def may_send(self, in_flight: int, pending: int, exhausted: bool) -> bool:
        """Whether pending nodes go out now; `exhausted`: no further forward can add to them."""
        ...


@dataclass(frozen=True, slots=True)
class Streaming:
    """Never wait: every forward's nodes go out at once, while earlier ones are in flight."""

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """See `Pacing.may_draft`."""
        return True

    def may_send(self, in_flight: int, pending: int, exhausted: bool) -> bool:
        """See `Pacing.may_send`."""
        return pending > 0


@dataclass(frozen=True, slots=True)
class Block:
    """Classic speculative inference: draft `lookahead` tokens, send them as one message, wait for the verdict."""

    lookahead: int

    def may_draft(self, in_flight: int, pending: int) -> bool:
        """See `Pacing.may_draft`."""
        return in_flight == 0 and pending < self.lookahead

    def may_send(self, in_flight: int, pending: int, exhausted: bool) -> bool:
        """See `Pacing.may_send`."""
        return in_flight == 0 and pending > 0 and (pending >= self.lookahead or exhausted)
