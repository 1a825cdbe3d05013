"""The two ends of a link without root: namespaces within a user namespace of one's own, where the kernel allows that.

Who enters a user namespace cannot come back, and the relay has to stay on the host. So a child lives there: it makes
the devices, hands their descriptors over, and then makes listening sockets when it is asked for one. It ends with its
parent.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import signal
import socket
from pathlib import Path
from typing import Final, NoReturn

from scripts.wan.namespace import (
    CLONE_NEWNET,
    CLOUD_ADDRESS,
    EDGE_ADDRESS,
    Ends,
    Namespace,
    furnish,
    make_tun,
    unshare,
)

CLONE_NEWUSER: Final = 0x10000000
PR_SET_PDEATHSIG: Final = 1
MESSAGE: Final = 4096
DESCRIPTORS: Final = 5


def make_user_ends() -> Ends:
    """Two namespaces that see nothing but each other. To be called before there are threads: it forks.

    Raises:
        OSError: the kernel refuses.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _live(theirs)
    theirs.close()
    user, edge, cloud, edge_tun, cloud_tun = _take(ours, DESCRIPTORS)

    def listen() -> socket.socket:
        ours.send(b"listen")
        return socket.socket(fileno=_take(ours, 1)[0])

    ways = (Namespace(edge, within=user), Namespace(cloud, within=user))
    return Ends(*ways, edge_tun, cloud_tun, listen)


def _take(sock: socket.socket, count: int) -> list[int]:
    """Descriptors from the child, or what went wrong with it."""
    data, ancillary, _, _ = sock.recvmsg(MESSAGE, socket.CMSG_SPACE(count * array.array("i").itemsize))
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found = array.array("i")
            found.frombytes(content)
            return list(found)
    if not data:
        raise OSError("the process at the link's ends has ended")
    raise OSError(*json.loads(data))


def _give(sock: socket.socket, fds: list[int]) -> None:
    sock.sendmsg([b"ok"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def _live(sock: socket.socket) -> NoReturn:
    """The child's whole life."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _furnish_user()
        user = os.open("/proc/self/ns/user", os.O_RDONLY)
        edge = furnish()
        edge_tun = make_tun(EDGE_ADDRESS)
        unshare(CLONE_NEWNET)
        cloud = furnish()
        _give(sock, [user, edge.fd, cloud.fd, edge_tun, make_tun(CLOUD_ADDRESS)])
        while sock.recv(MESSAGE):
            with socket.create_server((CLOUD_ADDRESS, 0), backlog=128) as listener:
                _give(sock, [listener.fileno()])
    except OSError as error:
        with contextlib.suppress(OSError):  # nobody is left to be told
            sock.send(json.dumps([error.errno, error.strerror, error.filename]).encode())
    finally:
        os._exit(0)  # what the parent has registered for its own end is the parent's


def _furnish_user() -> None:
    """A user namespace in which this user is the same user, and network devices may be made."""
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
