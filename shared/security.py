"""What both sides need to talk in confidence: addresses of this machine, certificates, keys and tokens in files.

Files are named by paths and read once, at the start. Nothing here repeats a secret: no error, no warning, no repr.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.errors import UserError

SHORTEST_TOKEN: Final = 16
"""Characters: 16 random ones cannot be guessed over a network."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
"""What a header can carry as it is."""
_HASHED: Final = "[0-9a-f]" * 8 + ".[0-9]"
"""Files of a folder of authorities, as OpenSSL looks them up."""


@dataclass(frozen=True, slots=True)
class ClientSecurity:
    """How a client makes its connection confidential and says who it is. The default does neither."""

    tls: bool = False
    """Encrypt, and trust the authorities of the system; implied by each of the following four."""
    tls_ca: Path | None = None
    """PEM: trust this authority and no other."""
    tls_cert: Path | None = None
    """PEM: the certificate that the client presents; with `tls_key`."""
    tls_key: Path | None = None
    tls_server_name: str | None = None
    """The name that the server's certificate must be for; None: the one that is dialled."""
    token_file: Path | None = None
    """Holds the token that is sent with every call."""
    insecure_beyond_loopback: bool = False
    """Allow plain text to other machines: whoever is on the way reads and changes everything."""

    @property
    def encrypted(self) -> bool:
        """Whether TLS is asked for."""
        return self.tls or any((self.tls_ca, self.tls_cert, self.tls_key, self.tls_server_name))


@dataclass(frozen=True, slots=True)
class ClientSecrets:
    """The contents of what a `ClientSecurity` names."""

    roots: bytes | None = None
    """PEM; None: the connection is not encrypted."""
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)


def read_client(security: ClientSecurity) -> ClientSecrets:
    """The contents of all files.

    Raises:
        UserError: one cannot be read, is not what it should be, or lacks its other half.
    """
    token = None
    if security.token_file is not None:
        tokens = read_tokens(security.token_file)
        if len(tokens) != 1:
            raise UserError(
                f"--token-file {security.token_file} holds {len(tokens)} tokens: a client's file holds its own, one"
            )
        (token,) = tokens
    if not security.encrypted:
        return ClientSecrets(token=token)
    certificate = key = None
    if security.tls_cert is not None or security.tls_key is not None:
        certificate, key = read_pair(security.tls_cert, security.tls_key)
    roots = system_roots() if security.tls_ca is None else read_authority(security.tls_ca, "--tls-ca")
    return ClientSecrets(roots, certificate, key, security.tls_server_name, token)


def read_tokens(path: Path, flag: str = "--token-file") -> tuple[str, ...]:
    """Tokens, one per line; blank lines and lines that begin with # do not count. `flag` named the file.

    Raises:
        UserError: there is none, or one that is short or cannot be sent. Names its line, never the token.
    """
    try:
        lines = _read(path, flag).decode().splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{flag} {path} is not text: give one token per line") from error
    tokens: list[str] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if len(line) < SHORTEST_TOKEN:
            raise UserError(
                f"{flag} {path}: the token in line {number} has {len(line)} characters, at least "
                f"{SHORTEST_TOKEN} are wanted: draw one with `openssl rand -hex 32`"
            )
        if not _TOKEN.fullmatch(line):
            raise UserError(
                f"{flag} {path}: the token in line {number} has characters that cannot be sent: use ASCII "
                "letters and digits"
            )
        tokens.append(line)
    if not tokens:
        raise UserError(f"{flag} {path} holds no token: write one with `openssl rand -hex 32`")
    return tuple(tokens)


def read_pair(certificate: Path | None, key: Path | None) -> tuple[bytes, bytes]:
    """A certificate (chain) and its private key, in PEM.

    Raises:
        UserError: one is missing or no PEM, the key is encrypted, or it is another certificate's.
    """
    if certificate is None or key is None:
        given, other = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise UserError(f"{given} without {other}: give both, a certificate and its private key")
    pair = _read(certificate, "--tls-cert"), _read(key, "--tls-key")
    if b"-----BEGIN CERTIFICATE-----" not in pair[0]:
        raise UserError(f"--tls-cert {certificate} is not a certificate in PEM: see docs/security.md")
    if b"PRIVATE KEY-----" not in pair[1]:
        raise UserError(f"--tls-key {key} is not a private key in PEM: see docs/security.md")
    if b"ENCRYPTED" in pair[1]:
        raise UserError(
            f"--tls-key {key} is encrypted: give a key without a passphrase, readable by its user"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UserError(
                f"--tls-key {key} is not the key of --tls-cert {certificate}: give the two of one certificate"
            ) from error
        raise UserError(
            f"--tls-cert {certificate} and --tls-key {key} cannot be used ({_reason(error)}): see docs/security.md"
        ) from error
    return pair


def read_authority(path: Path, flag: str) -> bytes:
    """The certificates of authorities, in PEM.

    Raises:
        UserError: cannot be read, or holds none.
    """
    content = _read(path, flag)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise UserError(
            f"{flag} {path} is not a certificate in PEM ({_reason(error)}): see docs/security.md"
        ) from error
    return content


def system_roots() -> bytes:
    """The authorities that this system trusts, in PEM.

    gRPC's Python package would use a list of its own, which knows nothing of an authority that the system's
    administrator has added.

    Raises:
        UserError: the system keeps none.
    """
    context = ssl.create_default_context()
    found = [ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True)]
    folder = ssl.get_default_verify_paths().capath
    if (
        not found and folder is not None
    ):  # a folder is searched at need only, so that its content is not listed above
        found = [file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob(_HASHED))]
    if not found:
        raise UserError(
            "this system keeps no list of trusted authorities: install one (ca-certificates), or name the server's own "
            "with --tls-ca FILE"
        )
    return "\n".join(found).encode()


def readable_by_all(path: Path) -> bool:
    """Whether every user of this machine may read the file."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone, whichever of its addresses is taken.

    Raises:
        UserError: the name cannot be resolved.
    """
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        pass  # a name
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"the name {bare} cannot be resolved: check its spelling, or give an address"
        ) from error
    return all(ipaddress.ip_address(str(sockaddr[0])).is_loopback for *_, sockaddr in found)


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{flag} {path} cannot be read ({error.strerror}): check the path and its rights"
        ) from error


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no reason given").replace("_", " ").lower()
