"""Calls that the server must refuse, and those beside them that it must not: by gRPC itself, without our client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc

ANSWER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what becomes of it."""

    who: str
    expected: grpc.StatusCode
    token: str | None
    authority: Path | None
    """Of the server's certificate; None: plain text."""
    client: Path | None = None
    """Folder of the client's certificate; None: it presents none."""


def token_callers(ours: Path, token: str) -> list[Caller]:
    """For a server with TLS and a token."""
    ca = ours / "ca.crt"
    return [
        Caller("with the token", grpc.StatusCode.OK, token, ca),
        Caller("without a token", grpc.StatusCode.UNAUTHENTICATED, None, ca),
        Caller("with a wrong token", grpc.StatusCode.UNAUTHENTICATED, "0" * len(token), ca),
        Caller("in plain text", grpc.StatusCode.UNAVAILABLE, token, None),
    ]


def certificate_callers(ours: Path, theirs: Path, token: str) -> list[Caller]:
    """For a server that wants certificates of our authority besides."""
    ca = ours / "ca.crt"
    return [
        Caller("with a certificate of ours", grpc.StatusCode.OK, token, ca, ours),
        Caller("without a certificate", grpc.StatusCode.UNAVAILABLE, token, ca),
        Caller("with a certificate of another authority", grpc.StatusCode.UNAVAILABLE, token, ca, theirs),
    ]


def call(server: str, caller: Caller) -> grpc.StatusCode:
    """How `GetModel` ends."""
    with _channel(server, caller) as channel:
        metadata = None if caller.token is None else (("authorization", f"Bearer {caller.token}"),)
        try:
            pb_grpc.SlipstreamStub(channel).GetModel(
                pb.GetModelRequest(), timeout=ANSWER_S, metadata=metadata
            )
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def _channel(server: str, caller: Caller) -> grpc.Channel:
    if caller.authority is None:
        return grpc.insecure_channel(server)
    certificate = key = None
    if caller.client is not None:
        certificate = (caller.client / "client.crt").read_bytes()
        key = (caller.client / "client.key").read_bytes()
    return grpc.secure_channel(
        server, grpc.ssl_channel_credentials(caller.authority.read_bytes(), key, certificate)
    )
