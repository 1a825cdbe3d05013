"""Why no connection came about.

To gRPC every failed handshake is UNAVAILABLE, and a server that closes the connection for want of a certificate looks
like one that is not there. So after a failure the handshake is made once more with Python's own TLS, which says more.
Nothing but the handshake is sent: no token, no prompt.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from edge_client.security import ClientSecrets, ClientSecurity, host_and_port

WRONG_NAME: Final = frozenset({62, 64})
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
REFUSED_US: Final = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED")
"""In the names of the alerts with which a server turns a client's certificate down, or asks for one in vain."""


@dataclass(frozen=True, slots=True)
class _Peer:
    server: str
    host: str
    port: int
    deadline: float

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=self.left())

    def left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.05)


def diagnose(server: str, security: ClientSecurity, secrets: ClientSecrets, within_s: float) -> str | None:
    """What is wrong and what to do, in one line; None: nobody listens there, or nothing is wrong any more.

    Blocks for up to about `within_s` seconds: not for the event loop.
    """
    found = host_and_port(server)
    if found is None:
        return None
    host = found[0].removeprefix("[").removesuffix("]")
    peer = _Peer(server, host, found[1], time.monotonic() + within_s)
    try:
        peer.connect().close()
    except (socket.gaierror, UnicodeError):
        return f"the name {host} cannot be resolved: check --server"
    except OSError:
        return None
    return _encrypted(peer, security, secrets) if security.encrypted else _plain(peer)


def _plain(peer: _Peer) -> str | None:
    """We spoke plain text: does it speak TLS?"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # it is only asked whether it speaks TLS
    try:
        with peer.connect() as raw, context.wrap_socket(raw, server_hostname=peer.host):
            pass
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            return _mute(peer)
    except OSError:
        return _mute(peer)
    return (
        f"the server at {peer.server} speaks TLS: add --tls, or --tls-ca FILE where its authority is not one that this "
        "system knows"
    )


def _encrypted(peer: _Peer, security: ClientSecurity, secrets: ClientSecrets) -> str | None:
    """We spoke TLS: what does the server, or its certificate, lack?"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        if secrets.roots is not None:
            context.load_verify_locations(cadata=secrets.roots.decode("ascii", "ignore"))
        if security.tls_cert is not None:
            context.load_cert_chain(security.tls_cert, security.tls_key)
    except (
        OSError
    ):  # an SSLError is one: the files have changed since they were read, and nothing can be told
        return None
    name = secrets.server_name or peer.host
    try:
        with peer.connect() as raw, context.wrap_socket(raw, server_hostname=name) as secured:
            if secured.selected_alpn_protocol() != "h2":
                return f"the server at {peer.server} speaks TLS, but not gRPC: name another with --server HOST:PORT"
            # With TLS 1.3 the server looks at our certificate only now. One that takes us says something (SETTINGS).
            secured.settimeout(peer.left())
            return None if secured.recv(1) else _turned_down(peer, security)
    except ssl.SSLCertVerificationError as error:
        return _untrusted(peer, name, error)
    except ssl.SSLError as error:
        return _broken_off(peer, security, error.reason or "")
    except TimeoutError:
        return _mute(peer)
    except ConnectionError:
        return _no_tls(peer)
    except OSError:
        return None


def _broken_off(peer: _Peer, security: ClientSecurity, reason: str) -> str:
    if "ALERT" not in reason:
        return _no_tls(peer)
    if any(what in reason for what in REFUSED_US):
        return _turned_down(peer, security)
    return f"the server at {peer.server} ends the TLS handshake ({reason}): ask whoever runs it"


def _untrusted(peer: _Peer, name: str, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in WRONG_NAME:
        return (
            f"the certificate of the server at {peer.server} is not for {name}: dial the name that it is for, or give "
            "that with --tls-server-name NAME"
        )
    if error.verify_code == EXPIRED:
        return (
            f"the certificate of the server at {peer.server} has expired: ask whoever runs it for a new one"
        )
    if error.verify_code == NOT_YET_VALID:
        return f"the certificate of the server at {peer.server} is not valid yet: check this machine's clock"
    return (
        f"the certificate of the server at {peer.server} is not by an authority that is trusted here "
        f"({error.verify_message}): give its authority's certificate with --tls-ca FILE"
    )


def _turned_down(peer: _Peer, security: ClientSecurity) -> str:
    if security.tls_cert is None:
        return f"the server at {peer.server} wants a client certificate: give one with --tls-cert FILE --tls-key FILE"
    return (
        f"the server at {peer.server} does not accept the certificate of --tls-cert {security.tls_cert}: give one of "
        "the authority that it trusts (its --tls-client-ca)"
    )


def _no_tls(peer: _Peer) -> str:
    return (
        f"the server at {peer.server} does not speak TLS: start it with --tls-cert and --tls-key, or leave out the "
        "--tls options here"
    )


def _mute(peer: _Peer) -> str:
    return (
        f"no server answers at {peer.server}, though something listens there: see whether that is a Slipstream server "
        "and not stuck, or name another with --server HOST:PORT"
    )
