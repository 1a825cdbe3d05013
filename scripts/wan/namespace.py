"""Two network namespaces with a TUN device in each, and nothing that could outlive this process.

The namespaces have no names: they exist as long as somebody holds a descriptor to them or lives in them. The devices
are not persistent: they exist as long as their descriptors. When this process ends, however it ends, both are gone.
The host's own namespace is left as it is: no route, no address, no forwarding, no firewall rule.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
IFF_UP: Final = 0x1
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFADDR: Final = 0x8916
SIOCSIFNETMASK: Final = 0x891C
SIOCSIFMTU: Final = 0x8922
SIOCSIFTXQLEN: Final = 0x8943

TUN: Final = Path("/dev/net/tun")
DEVICE: Final = "wan0"
EDGE_ADDRESS: Final = "100.64.0.1"
CLOUD_ADDRESS: Final = "100.64.0.2"
"""Carrier-grade address space (RFC 6598). Each emulator has namespaces of its own: equal addresses never meet."""
NETMASK: Final = "255.255.255.252"
MTU: Final = 1500
TUN_QUEUE: Final = 4000
"""Packets that may wait until the router reads them: more than any profile's own queue, so that only that one drops."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One end of the link."""

    fd: int
    """Holds the namespace."""
    within: int | None = None
    """Holds the user namespace that has to be entered before; None: the one that everybody is in."""

    @property
    def path(self) -> str:
        """Where another process finds it, as long as this one lives; what is entered first stands before a comma."""
        fds = [self.fd] if self.within is None else [self.within, self.fd]
        return ",".join(f"/proc/{os.getpid()}/fd/{fd}" for fd in fds)

    def listen(self, address: str, home: Namespace) -> socket.socket:
        """A listening socket inside, on a free port; the calling thread comes back to `home`."""
        enter(self)
        try:
            return socket.create_server((address, 0), backlog=128)
        finally:
            enter(home)


def enter(namespace: Namespace) -> None:
    """Move the calling thread there.

    Raises:
        OSError: the kernel refuses.
    """
    _check(_LIBC.setns(namespace.fd, CLONE_NEWNET), "setns")


def here() -> Namespace:
    """The calling thread's."""
    return Namespace(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))


def make_namespace() -> Namespace:
    """A new one, with a loopback device and without IPv6; the calling thread is in it afterwards.

    Raises:
        OSError: the kernel refuses (no CAP_SYS_ADMIN).
    """
    unshare(CLONE_NEWNET)
    return furnish()


def unshare(kinds: int) -> None:
    """Move the calling thread to new namespaces of these kinds.

    Raises:
        OSError: the kernel refuses.
    """
    _check(_LIBC.unshare(kinds), "unshare")


def furnish() -> Namespace:
    """Make the calling thread's new network namespace usable: a loopback device, no IPv6."""
    ipv6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    if ipv6.exists():  # else the kernel has none
        ipv6.write_text("1")
    _device_up("lo")
    return here()


def make_tun(address: str) -> int:
    """A TUN device with that address in the calling thread's namespace; its descriptor does not block.

    Raises:
        OSError: the kernel refuses, or there is no /dev/net/tun.
    """
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si20x", DEVICE.encode(), MTU))
            # The kernel asks for the host's own root here; its default of 500 is enough where the router keeps up.
            with contextlib.suppress(PermissionError):
                fcntl.ioctl(control, SIOCSIFTXQLEN, struct.pack("16si20x", DEVICE.encode(), TUN_QUEUE))
            for request, text in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, NETMASK)):
                name = struct.pack("16sHH4s16x", DEVICE.encode(), socket.AF_INET, 0, socket.inet_aton(text))
                fcntl.ioctl(control, request, name)
        _device_up(DEVICE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _device_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = bytearray(struct.pack("16sH22x", name.encode(), 0))
        fcntl.ioctl(control, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | IFF_UP))


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")


@dataclass(frozen=True, slots=True)
class Ends:
    """Both ends of a link that somebody has to carry packets over, from one TUN descriptor to the other."""

    edge: Namespace
    cloud: Namespace
    edge_tun: int
    cloud_tun: int
    listen: Callable[[], socket.socket]
    """Makes a listening socket at the cloud's end, on a free port."""


def make_ends() -> Ends:
    """Two namespaces that see nothing but each other; the calling thread ends where it was.

    Raises:
        OSError: the kernel refuses (no CAP_SYS_ADMIN, or no /dev/net/tun).
    """
    home = here()
    edge = make_namespace()
    try:
        edge_tun = make_tun(EDGE_ADDRESS)
        cloud = make_namespace()
        cloud_tun = make_tun(CLOUD_ADDRESS)
    finally:
        enter(home)
    return Ends(edge, cloud, edge_tun, cloud_tun, lambda: cloud.listen(CLOUD_ADDRESS, home))
