"""A device that drafts: a session of its own or one that it is attached to, driven as `edge_client` drives both.

Drafters fall silent, devices vanish without a word, rogues break the contract.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.errors import Status
from shared.link import LinkProfile
from shared.messages import Attached, CloudMessage, Draft, EdgeMessage, Opened
from shared.session.assist import AssistSession
from shared.session.edge import Connect, Done, EdgeEffect, EdgeSession, Emit, Failed, Forward, Leave, SendUp
from shared.sim.clock import MILLISECOND
from shared.sim.link import Link
from shared.sim.models import SyntheticDrafter
from shared.sim.random import Keyed
from shared.sim.route import Route
from shared.sim.setting import LawBroken, Setting


@dataclass(slots=True)
class _Way:
    """A stream, and where it goes."""

    link: Link
    server: int
    opened: bool = False


class Device:
    """Runs one session. Its streams are numbered across the world from `base`; a session numbers its own from 1."""

    def __init__(
        self,
        setting: Setting,
        session: EdgeSession | AssistSession,
        drafter: SyntheticDrafter | None,
        route: Route,
        up: LinkProfile,
        down: LinkProfile,
        *,
        base: int,
        random: Keyed,
        rogue: bool = False,
    ) -> None:
        self._setting = setting
        self._session = session
        self._drafter = drafter
        self._route = route
        self._up = up
        self._down = down
        self._base = base
        self._random = random
        self._rogue = rogue
        self._connect: Connect | None = None
        """The last that was asked for, until its time has come."""
        self._ways: dict[int, _Way] = {}
        self.outcome: Done | Failed | None = None
        self.vanished = False
        self.bytes_up = 0
        self.bytes_down = 0
        """Of streams that were left."""
        self.drafting_ns = 0
        """Time that its drafter's forwards took, the one that is out included."""

    # ---- life ----

    def start(self) -> None:
        """Begin."""
        self._perform(self._session.start(self._setting.clock.now))

    def vanish(self) -> None:
        """It dies without a word."""
        self.vanished = True
        for way in self._ways.values():
            way.link.break_off()

    # ---- what a stream tells it ----

    def receive(self, number: int, message: CloudMessage) -> None:
        """A message has arrived."""
        if self.vanished:
            return
        stream, now = number - self._base, self._setting.clock.now
        way = self._ways.get(stream)
        if way is not None:
            way.opened |= isinstance(message, Opened | Attached)
            self._route.received(way.server, message, now)
            self._heard(way.server, message)
        self._perform(self._session.receive(stream, message, now))

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes up and down so far."""
        links = [way.link for way in self._ways.values()]
        up = self.bytes_up + sum(link.bytes_up for link in links)
        return up, self.bytes_down + sum(link.bytes_down for link in links)

    def lost(self, number: int, status: Status, detail: str, retry_ms: int | None = None) -> None:
        """The transport says that a stream is gone; `retry_ms`: its server is full, and said when to come again."""
        if self.vanished:
            return
        stream, now = number - self._base, self._setting.clock.now
        way = self._ways.get(stream)
        if way is not None:
            self._route.ended(way.server, status, now, opened=way.opened, retry_ms=retry_ms)
            self._leave(stream)
        retry_at = self._route.retry_at(now, {one.server for one in self._ways.values()})
        self._perform(self._session.lost(stream, status, detail, now, retry_at))

    def _heard(self, server: int, message: CloudMessage) -> None:
        """For who wants to look."""

    # ---- effects ----

    def _perform(self, effects: list[EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self._connect = effect
                    self._setting.clock.at(effect.at, lambda connect=effect: self._dial(connect))  # type: ignore[misc]
                case Leave(stream):
                    self._leave(stream)
                case SendUp():
                    self._send(effect)
                case Forward():
                    self._forward(effect)
                case Emit():
                    self._emit(effect)
                case Done() | Failed():
                    self.outcome = effect
                    self._leave_all()
                    self._over()
        self._check_bounds()

    def _emit(self, emit: Emit) -> None:
        """Tokens for the user."""

    def _over(self) -> None:
        """It has come to its end."""

    def _check_bounds(self) -> None:
        """What it holds is bounded."""

    def _dial(self, connect: Connect) -> None:
        if self.vanished or self._session.over or connect is not self._connect:
            return
        now, used = self._setting.clock.now, {way.server for way in self._ways.values()}
        server = self._route.dial(connect, now, used)
        if not connect.elsewhere:
            self._leave_all()
        if server is None:
            detail = "there is no other server"
            self._perform(self._session.lost(connect.stream, Status.UNAVAILABLE, detail, now))
            return
        cloud = self._route.servers[server]
        link = Link(self._setting, self._base + connect.stream, self, cloud, self._up, self._down)
        self._ways[connect.stream] = _Way(link, server)
        link.begin()
        self._perform(self._session.connected(connect.stream, now, server=str(server)))

    def _send(self, effect: SendUp) -> None:
        way = self._ways.get(effect.stream)
        if way is not None:
            way.link.up(self._tampered(effect.message))

    def _tampered(self, message: EdgeMessage) -> EdgeMessage:
        if not (self._rogue and isinstance(message, Draft) and message.tokens and self._random.chance(0.3)):
            return message
        return self._random.choice(
            (
                replace(message, first_node=message.first_node + 7),
                replace(message, seen=message.seen + 1000),
                replace(message, root_position=message.root_position + 1000),
                replace(message, tokens=tuple(token + (1 << 30) for token in message.tokens)),
            )
        )

    def _forward(self, forward: Forward) -> None:
        drafter = self._drafter
        if drafter is None:
            raise LawBroken("a forward without a drafter")
        results = drafter.forward(forward)
        duration = drafter.profile.forward_ms(len(forward.paths))
        if self._random.chance(self._setting.faults.silence):
            duration += self._setting.faults.silence_ms
        self.drafting_ns += round(duration * MILLISECOND)
        self._setting.clock.after(
            round(duration * MILLISECOND),
            lambda: (
                None
                if self.vanished
                else self._perform(self._session.drafted(results, self._setting.clock.now))
            ),
        )

    def _leave_all(self) -> None:
        for stream in list(self._ways):
            self._leave(stream)

    def _leave(self, stream: int) -> None:
        way = self._ways.pop(stream, None)
        if way is not None:
            self.bytes_up += way.link.bytes_up
            self.bytes_down += way.link.bytes_down
            self._route.left(way.server)
            way.link.half_close()
