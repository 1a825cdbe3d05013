"""The `tun` enforcer: a router for packets between two namespaces, and a relay from the far one to servers anywhere."""

from __future__ import annotations

import time
from dataclasses import replace

from scripts.wan.namespace import CLOUD_ADDRESS, Ends, make_ends
from scripts.wan.profiles import WanProfile
from scripts.wan.relay import Relay
from scripts.wan.router import PacketLane, Router, packet_salt
from scripts.wan.select_loop import SelectLoop, be_punctual
from scripts.wan.traffic import Traffic
from scripts.wan.user_namespace import make_user_ends
from scripts.wan.verbs import VerbReader


class TunEmulator:
    """Owns the loop, the router and the relay; obeys the verbs."""

    def __init__(self, profile: WanProfile, seed: int, ends: Ends) -> None:
        begun = time.monotonic_ns()
        up, down = (
            PacketLane(way, packet_salt(seed, n), begun) for n, way in enumerate((profile.up, profile.down))
        )
        self._router = Router(ends.edge_tun, ends.cloud_tun, up, down)
        self._loop = SelectLoop(self._router)
        self._loop.read(ends.edge_tun, self._router.read_edge)
        self._loop.read(ends.cloud_tun, self._router.read_cloud)
        self._relay = Relay(self._loop, ends.listen)

    @property
    def traffic(self) -> Traffic:
        """Bytes of streams that the relay handed over, and packets that came out of the link."""
        return replace(
            self._relay.traffic, packets_up=self._router.up.counts, packets_down=self._router.down.counts
        )

    def reach(self, server: tuple[str, int]) -> str:
        """See `Relay.reach`."""
        return self._relay.reach(server)

    def hold(self, seconds: float) -> None:
        """For that long no packet comes out at either end."""
        self._router.hold(time.monotonic_ns() + round(seconds * 1e9))

    def cut(self) -> int:
        """See `Relay.cut`. Towards the edge the resets travel over the link."""
        return self._relay.cut()

    def run(self, verbs: int) -> None:
        """Carry packets until the descriptor `verbs` ends, obeying what comes from it."""
        VerbReader(self._loop, self, verbs)
        self._loop.run()


def best_ends() -> Ends:
    """With root's rights if this process has them, else within a user namespace.

    Raises:
        OSError: the kernel refuses both.
    """
    try:
        return make_ends()
    except PermissionError:
        return make_user_ends()


def serve_tun(profile: WanProfile, seed: int, verbs: int) -> None:
    """Make the link and run it until `verbs` ends. Says `listening on EDGE CLOUD HOST`: paths, an address.

    Raises:
        OSError: the kernel refuses namespaces or TUN devices.
    """
    be_punctual()
    ends = best_ends()
    emulator = TunEmulator(profile, seed, ends)
    print(f"listening on {ends.edge.path} {ends.cloud.path} {CLOUD_ADDRESS}", flush=True)
    emulator.run(verbs)
