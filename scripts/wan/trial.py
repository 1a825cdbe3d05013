"""What `scripts.wan.choose` runs to find out what this machine allows, in a process that may be spoilt by it."""

from __future__ import annotations

import errno
import sys

from scripts.wan.namespace import make_namespace
from scripts.wan.netem import command_in_place
from scripts.wan.tun import best_ends

NETEM_TRIAL = ("ip link add v0 type veth peer name v1", "tc qdisc add dev v0 root netem delay 1ms")


def try_netem() -> None:
    """Put a delay on a device in a namespace of this process's own, which vanishes with it.

    Raises:
        OSError: the kernel refuses, or there is no `ip` or `tc`.
    """
    make_namespace()
    for command in NETEM_TRIAL:
        command_in_place(command.split())


if __name__ == "__main__":
    try:
        {"tun": best_ends, "netem": try_netem}[sys.argv[1]]()
    except OSError as failure:
        print(f"{errno.errorcode.get(failure.errno or 0, '')}\t{failure.filename or ''}\t{failure.strerror}")
        sys.exit(1)
