"""The `netem` enforcer: the kernel's own emulator, on a namespace in the middle of the path.

    edge namespace  wan0 ---- e  middle namespace  c ---- wan0  cloud namespace

The middle one forwards. Its device towards the cloud delays what goes up, the one towards the edge what comes down:
never on a sender's own device, where TCP would feel the queue as back-pressure of its own host. As with `tun`, no
namespace has a name, and all end with this process.
"""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.wan.namespace import DEVICE, Namespace, enter, here, make_namespace
from scripts.wan.profiles import WanProfile
from scripts.wan.relay import Relay
from scripts.wan.select_loop import SelectLoop, be_punctual
from scripts.wan.traffic import Traffic
from scripts.wan.verbs import VerbReader
from shared.link import PACKET_BYTES, Jitter, LinkProfile, Schedule

TO_EDGE: Final = "e"
TO_CLOUD: Final = "c"
EDGE: Final = "100.64.0.1"
CLOUD: Final = "100.64.0.6"
SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where ip, tc and nsenter are, also for a user whose own path leaves out what only root needs."""
UNLIMITED_PACKETS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Condition:
    """What the schedules say at a time."""

    cut: bool
    """Nothing passes: an outage, or a hold."""
    away: bool
    """The path is longer."""


def topology(edge: str, cloud: str) -> list[str]:
    """Commands, run in the middle namespace, that lay the path; `edge` and `cloud` are the namespaces' paths."""
    found = []
    for device, place, near, far, other in (
        (TO_EDGE, edge, EDGE, "100.64.0.2", "100.64.0.4/30"),
        (TO_CLOUD, cloud, CLOUD, "100.64.0.5", "100.64.0.0/30"),
    ):
        inside = f"nsenter --net={place} ip"
        found += [
            f"ip link add {device} type veth peer name {DEVICE} netns {place}",
            f"ip address add {far}/30 dev {device}",
            f"ip link set {device} up",
            # The emulator is to see packets of the link's size and not the bundles of 64 KiB that a virtual cable
            # carries.
            f"{inside} link set {DEVICE} gso_max_segs 1 up",
            f"{inside} address add {near}/30 dev {DEVICE}",
            f"{inside} route add {other} via {far}",
        ]
    return found


def qdisc(verb: str, device: str, profile: LinkProfile, condition: Condition) -> str:
    """The command that puts one direction of the link on a device; `verb` is add or change."""
    delay_ms = profile.delay_ms + (profile.handover_ms if condition.away else 0.0)
    words = [f"tc qdisc {verb} dev {device} root netem limit {queue_packets(profile)} delay {delay_ms:g}ms"]
    if profile.jitter_ms:
        words.append(f"{profile.jitter_ms:g}ms")
        if profile.jitter is not Jitter.UNIFORM:  # which is netem's own without a table
            words.append(f"distribution {profile.jitter}")
    loss = 1.0 if condition.cut else profile.loss
    words.append(f"loss random {loss * 100:g}%")
    if profile.kbit_per_s:
        words.append(f"rate {profile.kbit_per_s:g}kbit")
    return " ".join(words)


def queue_packets(profile: LinkProfile) -> int:
    """In packets: netem counts what is on its way as well as what waits for the rate."""
    if not profile.kbit_per_s:
        return UNLIMITED_PACKETS
    on_the_way = profile.kbit_per_s * (profile.delay_ms + profile.jitter_ms + profile.handover_ms) / 8
    return round((on_the_way + profile.queue_bytes) / PACKET_BYTES)


def next_change(schedule: Schedule | None, age: int) -> int | None:
    """When an interval of the schedule begins or ends next (ns since the link began)."""
    if schedule is None:
        return None
    end = schedule.ends(age)
    if end is not None:
        return end
    offset, every = round(schedule.offset_s * 1e9), round(schedule.every_s * 1e9)
    return offset if age < offset else age + every - (age - offset) % every


class NetemEmulator:
    """Lays the path, changes it when the schedules say so, relays at the far end; obeys the verbs."""

    def __init__(self, profile: WanProfile) -> None:
        """Raises: OSError: a command fails; says which and its words."""
        self._ways = ((TO_CLOUD, profile.up), (TO_EDGE, profile.down))
        self._begun = time.monotonic_ns()
        self._held_until: int | None = None
        self._home = here()
        self.edge, self.cloud = _aside(self._home), _aside(self._home)
        self._middle = make_namespace()
        try:
            for setting in ("all", "default"):  # of this namespace alone
                Path(f"/proc/sys/net/ipv4/conf/{setting}/rp_filter").write_text("0")
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            for command in topology(self.edge.path, self.cloud.path):
                command_in_place(command.split())
            self._condition = self._now()
            for device, way in self._ways:
                command_in_place(qdisc("add", device, way, self._condition).split())
        finally:
            enter(self._home)
        self._loop = SelectLoop(self)
        self._relay = Relay(self._loop, lambda: self.cloud.listen(CLOUD, self._home))

    @property
    def traffic(self) -> Traffic:
        """Bytes of streams that the relay handed over; packets are the kernel's own business."""
        return self._relay.traffic

    def reach(self, server: tuple[str, int]) -> str:
        """See `Relay.reach`."""
        return self._relay.reach(server)

    def hold(self, seconds: float) -> None:
        """For that long everything is lost: netem knows no pause without a loss."""
        self._held_until = time.monotonic_ns() + round(seconds * 1e9)
        self.run_due()

    def cut(self) -> int:
        """See `Relay.cut`."""
        return self._relay.cut()

    def next_due(self) -> int | None:
        """When the link's condition changes next."""
        now = time.monotonic_ns()
        _, way = self._ways[0]
        changes = [next_change(schedule, now - self._begun) for schedule in (way.outage, way.handover)]
        due = [self._begun + change for change in changes if change is not None]
        if self._held_until is not None:
            due.append(self._held_until)
        return min(due, default=None)

    def run_due(self) -> None:
        """Tell the kernel what holds now, if that is new."""
        if self._held_until is not None and time.monotonic_ns() >= self._held_until:
            self._held_until = None
        condition = self._now()
        if condition != self._condition:
            self._condition = condition
            enter(self._middle)
            try:
                for device, way in self._ways:
                    command_in_place(qdisc("change", device, way, condition).split())
            finally:
                enter(self._home)

    def run(self, verbs: int) -> None:
        """Until the descriptor `verbs` ends, obeying what comes from it."""
        VerbReader(self._loop, self, verbs)
        self._loop.run()

    def _now(self) -> Condition:
        now = time.monotonic_ns()
        _, way = self._ways[0]  # schedules are the network's: equal in both directions
        out, away = (
            schedule is not None and schedule.ends(now - self._begun) is not None
            for schedule in (way.outage, way.handover)
        )
        return Condition(cut=out or self._held_until is not None, away=away)


def serve_netem(profile: WanProfile, verbs: int) -> None:
    """Make the link and run it until `verbs` ends. Says `listening on EDGE CLOUD HOST`: paths, an address.

    Raises:
        OSError: the kernel or one of `ip`, `tc`, `nsenter` refuses.
    """
    be_punctual()
    emulator = NetemEmulator(profile)
    print(f"listening on {emulator.edge.path} {emulator.cloud.path} {CLOUD}", flush=True)
    emulator.run(verbs)


def command_in_place(command: Sequence[str]) -> None:
    """Run it in the calling thread's namespace.

    Raises:
        OSError: it fails; says what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": SYSTEM_PATH})
    if done.returncode != 0:
        raise OSError(errno.ENOSYS, f"`{' '.join(command)}`: {' '.join(done.stderr.split())}")


def _aside(home: Namespace) -> Namespace:
    try:
        return make_namespace()
    finally:
        enter(home)
