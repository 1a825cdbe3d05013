"""How a server reaches workers of other machines: channels, and what may be said over which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc

from cloud_server.listening import host_and_port
from shared.errors import UserError
from shared.security import ClientSecrets, ClientSecurity, is_loopback, read_client

FLAG: Final = "--cluster"
CHANNEL_OPTIONS: Final = (
    # States of sessions and logs are large, and both ends are ours.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.bdp_probe", 0),
    # Each attempt is a connection of its own, with no memory of those before.
    ("grpc.use_local_subchannel_pool", 1),
    # The "min" one is how long a connection may take to be made.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 250),
)


def secrets_for(addresses: Sequence[str], security: ClientSecurity) -> ClientSecrets:
    """What connections to these addresses are made with. Resolves names, so it may take its time.

    Raises:
        UserError: an address is not HOST:PORT, a file cannot be used, or prompts would go to another machine in plain
            text.
    """
    try:
        secrets = read_client(security)
    except UserError as error:
        # The flags of a client, by their names here.
        words = str(error).replace("--tls-", "--cluster-tls-").replace("--token-", "--cluster-token-")
        raise UserError(words) from error
    for address in addresses:
        host, _ = host_and_port(address, FLAG)
        if security.encrypted or is_loopback(host):
            continue
        if secrets.token is not None:
            raise UserError(
                f"{FLAG} {address}: a token is not sent in plain text, where everybody on the way could take it: add "
                "--cluster-tls-ca FILE"
            )
        if not security.insecure_beyond_loopback:
            raise UserError(
                f"{FLAG} {address} is another machine and the connection is not encrypted: add --cluster-tls-ca FILE, "
                "or say --allow-insecure-beyond-loopback"
            )
    return secrets


def open_channel(target: str, secrets: ClientSecrets) -> grpc.aio.Channel:
    """A channel to HOST:PORT or unix:PATH; nothing is sent yet."""
    options: list[tuple[str, str | int]] = [*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)]
    if secrets.server_name is not None:
        options.append(("grpc.ssl_target_name_override", secrets.server_name))
    if secrets.roots is None:
        return grpc.aio.insecure_channel(target, options=options)
    keys = grpc.ssl_channel_credentials(secrets.roots, secrets.key, secrets.certificate)
    return grpc.aio.secure_channel(target, keys, options=options)


def metadata(secrets: ClientSecrets) -> tuple[tuple[str, str], ...]:
    """What every call carries."""
    return () if secrets.token is None else (("authorization", f"Bearer {secrets.token}"),)
