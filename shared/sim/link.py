"""A stream between an edge and the cloud: ordered, late, lossy; each end notices its end in its own time.

A lost packet makes a stream wait (`shared.link`); a lost *stream* is the fault that this module adds (`stream_loss`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shared import wire
from shared.errors import Status
from shared.link import LinkClock, LinkProfile
from shared.messages import CloudMessage, EdgeMessage
from shared.sim.clock import MILLISECOND
from shared.sim.random import Keyed
from shared.sim.setting import Setting
from shared.wire.size import cloud_message_size, edge_message_size

HEADER_BYTES = 40


class EdgeEnd(Protocol):
    """What a stream tells the edge."""

    def receive(self, number: int, message: CloudMessage) -> None:
        """A message has arrived."""
        ...

    def lost(self, number: int, status: Status, detail: str, retry_ms: int | None = None) -> None:
        """The stream has ended, broken, or was never made. `retry_ms`: when a full server said to come again."""
        ...


class CloudEnd(Protocol):
    """What a stream tells the cloud."""

    @property
    def up(self) -> bool:
        """Whether anybody answers."""
        ...

    def connect(self, number: int, link: Link) -> None:
        """The stream has arrived."""
        ...

    def receive(self, number: int, message: EdgeMessage) -> None:
        """A message has arrived."""
        ...

    def lost(self, number: int) -> None:
        """The stream has ended or broken."""
        ...


class Link:
    """One stream: two directions in order, until it ends or breaks."""

    def __init__(
        self,
        setting: Setting,
        number: int,
        edge: EdgeEnd,
        cloud: CloudEnd,
        up: LinkProfile,
        down: LinkProfile,
    ) -> None:
        self._setting = setting
        self.number = number
        self._edge = edge
        self._cloud = cloud
        round_trip_ms = up.delay_ms + down.delay_ms
        self._up = LinkClock(up, round_trip_ms=round_trip_ms)
        self._down = LinkClock(down, round_trip_ms=round_trip_ms)
        self._random = Keyed(setting.seed, "link", number)
        self.alive = True
        self.bytes_up = 0
        self.bytes_down = 0

    def begin(self) -> None:
        """The stream travels to the server (its first message will follow it)."""
        self._later(self._up, 100, self._arrive)

    def _arrive(self) -> None:
        if self._cloud.up:
            self._cloud.connect(self.number, self)
        else:
            self._fail("the server is down")

    def up(self, message: EdgeMessage) -> None:
        """Edge to cloud."""
        size = edge_message_size(message) + HEADER_BYTES
        self.bytes_up += size
        sent = message
        if self._setting.through_codec:
            sent = wire.edge_message_from_wire(wire.edge_message_to_wire(message))
        if self._breaks():
            return
        self._later(self._up, size, lambda: self._cloud.receive(self.number, sent))

    def down(self, message: CloudMessage) -> None:
        """Cloud to edge."""
        size = cloud_message_size(message) + HEADER_BYTES
        self.bytes_down += size
        sent = message
        if self._setting.through_codec:
            sent = wire.cloud_message_from_wire(wire.cloud_message_to_wire(message))
        if self._breaks():
            return
        self._later(self._down, size, lambda: self._edge.receive(self.number, sent))

    def end(self, status: Status, detail: str, retry_ms: int | None = None) -> None:
        """The cloud ends the stream; what it sent before arrives before."""
        self._later(self._down, 40, lambda: self._ended(status, detail, retry_ms))

    def half_close(self) -> None:
        """The edge's transport ends its direction; what it sent before still arrives."""
        if self.alive:
            self._later(self._up, 40, lambda: self._cloud.lost(self.number))

    def break_off(self) -> None:
        """Both directions stop; each side notices in its own time."""
        if not self.alive:
            return
        self.alive = False
        clock = self._setting.clock
        self._setting.note(f"stream {self.number} broke")
        clock.after(round(self._random.uniform(0, 50) * MILLISECOND), lambda: self._cloud.lost(self.number))
        clock.after(
            round(self._random.uniform(0, 50) * MILLISECOND),
            lambda: self._edge.lost(self.number, Status.UNAVAILABLE, "stream lost"),
        )

    def _ended(self, status: Status, detail: str, retry_ms: int | None) -> None:
        self.alive = False
        self._edge.lost(self.number, status, detail, retry_ms)

    def _fail(self, why: str) -> None:
        self.alive = False
        self._setting.clock.after(MILLISECOND, lambda: self._edge.lost(self.number, Status.UNAVAILABLE, why))

    def _breaks(self) -> bool:
        if self.alive and self._random.chance(self._setting.faults.stream_loss):
            self.break_off()
        return not self.alive

    def _later(self, clock: LinkClock, size: int, run: Callable[[], None]) -> None:
        draw = self._random.uniform() if clock.profile.jitter_ms else self._random.skip()
        # Drawn only where it matters: a link without loss keeps the draws that it had before there was any.
        fate = self._random.uniform() if clock.profile.loss else 1.0
        at = clock.arrival(self._setting.clock.now, size, draw, fate)
        self._setting.clock.at(at, lambda: run() if self.alive else None)
