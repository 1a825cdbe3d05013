"""From what a command line says to a server that can be looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from scripts.conformance.server import Server
from scripts.conformance.server.client import DEADLINE_S, Metadata


class UnreachableError(Exception):
    """Nobody answers, or the command line does not say what is to be looked at and how to come there."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to come to a server."""

    server: str
    """HOST:PORT."""
    ca: Path | None = None
    """PEM: speak TLS, and trust this authority; None: plain text."""
    cert: Path | None = None
    """PEM: what to present."""
    key: Path | None = None
    token_file: Path | None = None
    """Holds the token to send with every call."""
    watch_token_file: Path | None = None
    """Holds one that lets in to WatchSessions."""


@contextlib.contextmanager
def dial(access: Access) -> Iterator[Server]:
    """A connection while the block is entered.

    Raises:
        UnreachableError: a file cannot be read, or no server of ours answers.
    """
    if access.ca is None and (access.cert is not None or access.key is not None):
        raise UnreachableError("a certificate is presented over TLS: name the server's authority with --ca")
    options = [("grpc.max_receive_message_length", -1)]  # Attached may be larger than any limit
    if access.ca is None:
        channel = grpc.insecure_channel(access.server, options=options)
    else:
        pair = _read(access.key), _read(access.cert)
        channel = grpc.secure_channel(
            access.server, grpc.ssl_channel_credentials(_read(access.ca), *pair), options=options
        )
    watching = None if access.watch_token_file is None else _bearer(access.watch_token_file)
    with channel:
        server = Server(channel, () if access.token_file is None else _bearer(access.token_file), watching)
        try:
            grpc.channel_ready_future(channel).result(timeout=DEADLINE_S)
            _ = server.model
        except grpc.FutureTimeoutError:
            raise UnreachableError(f"no server answers at {access.server}") from None
        except grpc.RpcError as error:
            raise UnreachableError(
                f"{access.server} does not say what it is: {error.code().name} {error.details()}"
            ) from error
        yield server


def _bearer(path: Path) -> Metadata:
    token = (_read(path) or b"").decode().strip()
    return (("authorization", f"Bearer {token}"),)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreachableError(f"{path} cannot be read ({error.strerror})") from error
