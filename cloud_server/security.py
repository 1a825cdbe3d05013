"""Who may listen in and who may come in: TLS, client certificates and tokens of the server.

One interceptor stands before every service, so that one that is added later is closed by default. A call is judged
once, when it begins; messages are not.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health

from cloud_server.listening import host_and_port, taken
from shared.errors import UserError
from shared.security import is_loopback, read_authority, read_pair, read_tokens, readable_by_all

OPEN: Final = f"/{health.SERVICE_NAME}/Check"
"""The method that needs no token: what starts and stops servers asks for their health and holds no secrets. `Watch`
does: it keeps what it was asked with for as long as its stream lives.
"""
HEADER: Final = "authorization"
SCHEME: Final = "Bearer "
WANTED: Final = (
    "this server wants a token: send `authorization: Bearer TOKEN` (edge-client: --token-file FILE)"
)
UNKNOWN: Final = "this server does not know the token: ask whoever runs it for one"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """How a server protects its connections. The default does not, and is served on loopback only."""

    tls_cert: Path | None = None
    """PEM: the server's certificate, with those between it and its authority; with `tls_key`."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM: a client must present a certificate of this authority."""
    token_file: Path | None = None
    """One token per line: a call must bring one of them. Read once."""
    insecure_beyond_loopback: bool = False
    """Allow to listen for other machines without TLS, without a token, or without both."""
    assistants_token_file: Path | None = None
    """One token per line: who brings one of them may watch all sessions, and draft for them; what `token_file` opens
    is open to them too. None: nobody may watch. Read once.
    """

    @property
    def complete(self) -> bool:
        """Whether it may be served to other machines without further ado."""
        return self.tls_cert is not None and self.token_file is not None


class Tokens:
    """The tokens that open the server. Only their digests are kept."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = tuple(_digest(token) for token in tokens)

    def __repr__(self) -> str:
        return f"Tokens({len(self._digests)} tokens)"

    def refusal(self, metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
        """Why a call with this metadata is not let in; None: it is.

        Digests are of one length, and all of them are compared: the time tells neither how much of a token was right
        nor which one was meant.
        """
        values = [value for name, value in metadata if name == HEADER]
        if len(values) != 1 or not isinstance(values[0], str) or not values[0].startswith(SCHEME):
            return WANTED
        presented = _digest(values[0].removeprefix(SCHEME))
        known = 0
        for digest in self._digests:
            known |= hmac.compare_digest(digest, presented)
        return None if known else UNKNOWN


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Ends every call without a token with UNAUTHENTICATED before its service hears of it; see `OPEN`."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method == OPEN:
            return handler
        refusal = self._tokens.refusal(handler_call_details.invocation_metadata)
        return handler if refusal is None else _refusing(handler, refusal)


def interceptors(security: ServerSecurity) -> list[grpc.aio.ServerInterceptor]:
    """What stands before the services.

    Raises:
        UserError: see `read_tokens`.
    """
    if security.token_file is None:
        return []
    return [TokenInterceptor(Tokens((*read_tokens(security.token_file), *_assistants(security))))]


def watchers(security: ServerSecurity) -> Tokens | None:
    """Who may watch all sessions; None: nobody.

    Raises:
        UserError: see `read_tokens`.
    """
    return None if security.assistants_token_file is None else Tokens(_assistants(security))


def credentials(security: ServerSecurity) -> grpc.ServerCredentials | None:
    """For `add_secure_port`; None: plain text.

    Raises:
        UserError: see `read_pair` and `read_authority`.
    """
    if security.tls_cert is None and security.tls_key is None:
        if security.tls_client_ca is not None:
            raise UserError("--tls-client-ca without TLS: give --tls-cert and --tls-key too")
        return None
    certificate, key = read_pair(security.tls_cert, security.tls_key)
    clients = (
        None if security.tls_client_ca is None else read_authority(security.tls_client_ca, "--tls-client-ca")
    )
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=clients, require_client_auth=clients is not None
    )


def exposed(security: ServerSecurity) -> list[str]:
    """One line for each secret that every user of this machine may read."""
    named = (
        ("--tls-key", security.tls_key),
        ("--token-file", security.token_file),
        ("--assistants-token-file", security.assistants_token_file),
    )
    return [
        f"{flag} {path} can be read by every user of this machine: chmod 600 {path}"
        for flag, path in named
        if path is not None and readable_by_all(path)
    ]


def check(security: ServerSecurity, listen: str, host: str) -> None:
    """Whether `host`, of the address `listen`, may be listened on.

    Raises:
        UserError: other machines could connect, and nothing protects that.
    """
    if security.complete or security.insecure_beyond_loopback or is_loopback(host):
        return
    tls, token = "TLS (--tls-cert FILE --tls-key FILE)", "a token (--token-file FILE)"
    if security.tls_cert is None and security.token_file is None:
        missing = f"without {tls} and {token}"
    else:
        missing = f"without {tls if security.tls_cert is None else token}"
    raise UserError(
        f"--listen {listen} would let other machines connect {missing}: add what is missing, listen on 127.0.0.1, or "
        "say --allow-insecure-beyond-loopback"
    )


def bind(server: grpc.aio.Server, listen: str, security: ServerSecurity) -> str:
    """Have the server listen on HOST:PORT; returns the address with the port that it got.

    Raises:
        UserError: the address cannot or must not be listened on, or a file of `security` cannot be used.
    """
    host, _ = host_and_port(listen)
    check(security, listen, host)
    secure = credentials(security)
    try:
        bound = server.add_insecure_port(listen) if secure is None else server.add_secure_port(listen, secure)
    except RuntimeError as error:
        raise taken(listen) from error
    return f"{host}:{bound}"


def _assistants(security: ServerSecurity) -> tuple[str, ...]:
    file = security.assistants_token_file
    return () if file is None else read_tokens(file, "--assistants-token-file")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _refusing(handler: Handler, refusal: str) -> Handler:
    """A handler of the same kind that refuses."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal)

    if handler.request_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    else:
        make = (
            grpc.unary_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.unary_unary_rpc_method_handler
        )
    return make(refuse)
