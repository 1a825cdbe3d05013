"""HOST:PORT, as people write it."""

from __future__ import annotations

from shared.errors import UserError


def parse_address(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT as a pair; brackets around an IPv6 address are taken off.

    Raises:
        UserError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{option} {text}: expected HOST:PORT, such as 127.0.0.1:50051")
    return host.removeprefix("[").removesuffix("]"), int(port)
