"""One direction of one emulated connection: bytes on their way, in order, each with its time of arrival.

Pure: time (ns) is an argument and jitter is keyed, so that a lane is tested under a virtual clock. `proxy` drives it.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

from shared.link import SEGMENT_BYTES, Bottleneck, LinkClock, LinkProfile
from shared.profiled import mix, unit

UNLIMITED_BYTES: Final = 16 << 20
"""Room of a link without a rate: 16 MiB in 300 ms is still half a gigabit per second."""


class End(enum.Enum):
    """How a direction ends; it travels behind the bytes, like them."""

    CLOSED = "closed"
    """The sender said everything and still listens."""
    RESET = "reset"
    """The sender is gone."""


Item = bytes | End


def room_bytes(profile: LinkProfile) -> int:
    """How much a link holds before its sender has to wait: bandwidth-delay product plus its queue."""
    if not profile.kbit_per_s:
        return UNLIMITED_BYTES
    delay_ms = profile.delay_ms + profile.jitter_ms + profile.handover_ms
    return round(profile.kbit_per_s * delay_ms / 8) + profile.queue_bytes


class Lane:
    """A queue whose items come out at the link's arrival times and never before."""

    __slots__ = (
        "_clock",
        "_fate",
        "_items",
        "_offset",
        "_piece",
        "_profile",
        "_room",
        "_salt",
        "queued_bytes",
    )

    def __init__(
        self,
        profile: LinkProfile,
        salt: int,
        *,
        round_trip_ms: float | None = None,
        begun: int = 0,
        bottleneck: Bottleneck | None = None,
    ) -> None:
        """`salt` keys jitter and loss: lanes with equal salts treat equal bytes equally. The rest: see `LinkClock`."""
        self._clock = LinkClock(profile, round_trip_ms=round_trip_ms, begun=begun, bottleneck=bottleneck)
        self._profile = profile
        self._salt = salt
        self._fate = mix(salt ^ 1)
        # A millisecond's worth at high rates: one write per frame would cost more than it shows.
        self._piece = (
            max(SEGMENT_BYTES, round(profile.kbit_per_s / 8)) if profile.kbit_per_s else UNLIMITED_BYTES
        )
        self._room = room_bytes(profile)
        self._items: deque[tuple[int, Item]] = deque()
        self._offset = 0
        self.queued_bytes = 0

    @property
    def full(self) -> bool:
        """Whether the sender has to wait."""
        return self.queued_bytes >= self._room

    def push(self, now: int, item: Item) -> None:
        """Something enters the link."""
        if isinstance(item, bytes) and len(item) > self._piece:
            for start in range(0, len(item), self._piece):
                self._push(now, item[start : start + self._piece])
        else:
            self._push(now, item)

    def hold(self, until: int) -> None:
        """An outage: nothing leaves the link before `until`, what is on its way included."""
        self._clock.held_until = max(self._clock.held_until, until)

    def next_due(self) -> int | None:
        """When something comes out next; None: nothing is on its way."""
        return max(self._items[0][0], self._clock.held_until) if self._items else None

    def pop(self, now: int) -> Item | None:
        """The next item if it has arrived by `now`."""
        due = self.next_due()
        if due is None or due > now:
            return None
        item = self._items.popleft()[1]
        if isinstance(item, bytes):
            self.queued_bytes -= len(item)
        return item

    def _push(self, now: int, item: Item) -> None:
        size = len(item) if isinstance(item, bytes) else 0
        # Keyed by the place in the stream, not by a count of reads, which differs from run to run.
        draw = unit(self._salt, self._offset)
        fate = unit(self._fate, self._offset) if self._profile.loss and size else 1.0
        due = self._clock.arrival(now, size, draw, fate)
        self._offset += size
        self.queued_bytes += size
        self._items.append((due, item))
