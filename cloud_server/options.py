"""Options that several commands of `cloud-server` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

MOST_THREADS: Final = 512
"""More take seconds to start and to end, and no machine has the cores."""

Model = Annotated[
    str | None,
    typer.Option(
        help="Folder or hub id of a causal language model, or profiled[:acceptance=0.8,step_ms=30]. [demo target]"
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [cuda where there is one]")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16. [float32 on cpu, bfloat16 on cuda]")
]
StepFloorMs = Annotated[
    float,
    typer.Option(
        min=0, help="Emulation: a verify step lasts at least this long, as a larger target's would."
    ),
]
KvCacheMb = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Memory of each worker for all sessions' keys and values. [1024; most of what a GPU has free]",
    ),
]
PrefixReuse = Annotated[
    bool,
    typer.Option(
        help="Start a text that begins like another one from what is computed of that. Never changes a text; but how "
        "soon one begins tells whether somebody else has sent the same beginning."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_THREADS, help="Threads of a step on a CPU. [all cores, shared by the workers]"
    ),
]
TlsCert = Annotated[Path | None, typer.Option(help="Encrypt: the server's certificate, PEM; with --tls-key.")]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key, PEM, without a passphrase.")]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(help="Let only clients in that present a certificate of this authority, PEM."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="Let only clients in that bring one of these tokens: one per line, at least 16 characters."
    ),
]
InsecureBeyondLoopback = Annotated[
    bool,
    typer.Option(
        "--allow-insecure-beyond-loopback",
        help="Listen for other machines, or use workers there, though TLS or the token is missing: without TLS "
        "everybody on the way can read and change prompts and texts, without a token everybody who reaches the port "
        "can use the model.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log to stderr. Never logs tokens.")]

# How a server reaches workers of other machines.

ClusterTlsCa = Annotated[
    Path | None, typer.Option(help="Workers of --cluster speak TLS; trust this authority, PEM.")
]
ClusterTlsCert = Annotated[
    Path | None, typer.Option(help="Present this certificate to them, PEM; with --cluster-tls-key.")
]
ClusterTlsKey = Annotated[Path | None, typer.Option(help="Its private key, PEM.")]
ClusterTlsServerName = Annotated[
    str | None, typer.Option(help="The name that the workers' certificates are for. [HOST]")
]
ClusterWorkerOptions = Annotated[
    str,
    typer.Option(
        help="With --cluster ray: more options of `cloud-server worker`, such as its TLS and token, in one string."
    ),
]
ClusterTokenFile = Annotated[Path | None, typer.Option(help="The token that they want: one line.")]
