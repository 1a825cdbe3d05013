"""How the edge protects its connection: TLS, its certificate, its token, and what it does not send in the clear."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

import grpc

from shared.errors import UserError
from shared.security import ClientSecrets, ClientSecurity, is_loopback, read_client

__all__ = ["ClientSecrets", "ClientSecurity", "host_and_port", "metadata", "open_channel", "secure"]

LOCAL_SCHEMES: Final = ("unix:", "unix-abstract:")
"""Targets that no network is between."""


def host_and_port(server: str) -> tuple[str, int] | None:
    """Of HOST:PORT, also at the end of a target URI; None: the target names no host, or not in this form."""
    host, _, port = server.rpartition("/")[2].rpartition(":")
    if server.startswith(LOCAL_SCHEMES) or not host or not port.isdecimal():
        return None
    return host, int(port)


def secure(server: str, security: ClientSecurity) -> ClientSecrets:
    """What a connection to `server` is made with. Resolves names, so it may take its time.

    Raises:
        UserError: a file cannot be used, the name cannot be resolved, or plain text would go to another machine.
    """
    secrets = read_client(security)
    if security.encrypted or _is_local(server):
        return secrets
    if secrets.token is not None:
        raise UserError(
            f"a token is not sent to {server} in plain text, where everybody on the way could take it: add --tls, or "
            "--tls-ca FILE"
        )
    if not security.insecure_beyond_loopback:
        raise UserError(
            f"{server} is another machine and the connection is not encrypted: add --tls, or --tls-ca FILE; or say "
            "--allow-insecure-beyond-loopback"
        )
    return secrets


def open_channel(
    server: str, secrets: ClientSecrets, options: Sequence[tuple[str, str | int]]
) -> grpc.aio.Channel:
    """A channel to `server`; nothing is sent yet."""
    options = list(options)
    if secrets.server_name is not None:
        options.append(("grpc.ssl_target_name_override", secrets.server_name))
    if secrets.roots is None:
        # Only loopback is dialled in plain text, or what the user knows to be safe: an HTTP proxy of the environment
        # is no part of that way, and could read it all.
        options.append(("grpc.enable_http_proxy", 0))
        return grpc.aio.insecure_channel(server, options=options)
    keys = grpc.ssl_channel_credentials(secrets.roots, secrets.key, secrets.certificate)
    return grpc.aio.secure_channel(server, keys, options=options)


def metadata(secrets: ClientSecrets) -> tuple[tuple[str, str], ...]:
    """What every call carries."""
    return () if secrets.token is None else (("authorization", f"Bearer {secrets.token}"),)


def _is_local(server: str) -> bool:
    if server.startswith(LOCAL_SCHEMES):
        return True
    found = host_and_port(server)
    if found is None:
        return False
    bare = found[0].removeprefix("[").removesuffix("]")
    here = is_loopback(bare)  # also tells a name that cannot be resolved
    # A name is looked up again at every connection, and may mean another machine then.
    return here and (bare == "localhost" or _is_address(bare))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
