"""Where servers are: what a user names, and the addresses that a name stands for."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge_client.security import host_and_port
from shared.errors import UserError

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Address:
    """One server."""

    dial: str
    """HOST:PORT or a target URI; what it is called in everything that a user reads."""
    named: str
    """What it was named by: the same, or a name that stands for several."""

    @property
    def host(self) -> str | None:
        """The name that its certificate is for, where that is not what is dialled."""
        found = host_and_port(self.named) if self.named != self.dial else None
        return None if found is None else found[0]


def split(servers: str) -> tuple[str, ...]:
    """The servers of a list with commas, each once.

    Raises:
        UserError: there is none, or one is neither HOST:PORT nor a target URI.
    """
    names = tuple(dict.fromkeys(name for part in servers.split(",") if (name := part.strip())))
    if not names:
        raise UserError("--server names no server: give HOST:PORT, such as 127.0.0.1:50051")
    for name in names:
        check_address(name)
    return names


def check_address(server: str) -> None:
    """Raises `UserError` unless `server` is HOST:PORT or a target URI."""
    if "://" in server or server.startswith("unix:"):
        return
    host, _, port = server.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UserError(f"--server {server}: expected HOST:PORT, such as 127.0.0.1:50051")


def resolve(server: str) -> tuple[Address, ...]:
    """The servers that a name stands for: one for each of its addresses, at the port that was given.

    A host with one address (or one of either family) is one server, dialled by its name; so is what is no host name at
    all. Of two families with several addresses the larger counts, for they are the same servers. None: the name cannot
    be resolved. Blocks.
    """
    by_name = (Address(server, server),)
    found = host_and_port(server)
    if found is None or "://" in server or _is_address(found[0]) or found[0] == "localhost":
        return by_name
    host, port = found
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    hosts = {
        family: sorted({str(address[0]) for kind, *_, address in answers if kind == family})
        for family in FAMILIES
    }
    family = max(FAMILIES, key=lambda family: len(hosts[family]))
    if len(hosts[family]) < 2:
        return by_name
    form = "{}:{}" if family == socket.AF_INET else "[{}]:{}"
    return tuple(Address(form.format(one, port), server) for one in hosts[family])


def listed(servers: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join([", ".join(servers[:-1]), servers[-1]] if len(servers) > 1 else servers)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
