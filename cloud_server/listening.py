"""Where a server listens: what an address says, and whether it is to be had."""

from __future__ import annotations

import contextlib
import socket

from shared.errors import UserError


def host_and_port(address: str, flag: str = "--listen") -> tuple[str, int]:
    """The two halves of HOST:PORT, which `flag` gave; an IPv6 address keeps its brackets.

    Raises:
        UserError: it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"{flag} {address}: expected HOST:PORT, such as 127.0.0.1:50051")
    return host, int(port)


def taken(listen: str) -> UserError:
    """What to say when the address cannot be had."""
    return UserError(
        f"cannot listen on {listen}: the port is taken or the address is not this machine's; "
        "choose another with --listen, or port 0"
    )


def check_free(listen: str) -> None:
    """Whether the address can be listened on now: a model takes minutes to load, a taken port is told at once.

    Raises:
        UserError: it cannot.
    """
    host, port = host_and_port(listen)
    bare = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--listen {listen}: the name {bare} cannot be resolved, give an address") from error
    # As gRPC does: one address of a name is enough.
    if not any(_bindable(family, address) for family, _, _, _, address in found):
        raise taken(listen)


def _bindable(family: int, address: tuple[str | int | bytes, ...]) -> bool:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # connections that are just ending do no harm
        probe.bind(address)
        return True
    return False
