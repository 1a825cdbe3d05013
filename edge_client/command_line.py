"""What the commands of the edge have in common: options, remarks, and how an interrupt ends them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from shared import interrupts

Servers = Annotated[
    list[str] | None,
    typer.Option(
        help="HOST:PORT of a cloud-server; for several, repeat it, or give a name with several addresses. "
        "[127.0.0.1:50051]"
    ),
]

# How a command that dials a server protects the connection; the commands put them together.
Tls = Annotated[bool, typer.Option("--tls", help="Encrypt, and trust the system's authorities.")]
TlsCa = Annotated[Path | None, typer.Option(help="Encrypt, and trust this authority alone, PEM.")]
TlsCert = Annotated[
    Path | None,
    typer.Option(help="Encrypt, and present this certificate, PEM; with --tls-key."),
]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key, PEM, without a passphrase.")]
TlsServerName = Annotated[
    str | None,
    typer.Option(help="Encrypt, and take this for the name that the server's certificate is for. [HOST]"),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="Send the token in this file with every call; never in plain text beyond this machine."
    ),
]
AllowInsecure = Annotated[
    bool,
    typer.Option(
        "--allow-insecure-beyond-loopback",
        help="Dial another machine in plain text: everybody on the way can read and change prompt and text.",
    ),
]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ends the command quietly when the user interrupts it."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(interrupts.INTERRUPTED) from None


def remark(text: str) -> None:
    """One line for people."""
    typer.echo(f"edge-client: {text}", err=True)
