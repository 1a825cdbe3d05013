"""Command line of the server: `cloud-server serve` and `cloud-server health`."""

from __future__ import annotations

from shared import interrupts

with interrupts.Silent():
    import asyncio
    import logging
    import os
    import sys
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated

    import typer

    from shared.errors import UserError

if TYPE_CHECKING:
    from cloud_server.worker import Worker

MOST_THREADS = 512
"""More take seconds to start and to end, and no machine has the cores."""
DEMO_TARGET = Path(__file__).resolve().parent.parent / "models" / "demo" / "target"
PROFILED = "profiled"

app = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def cli() -> None:
    """The cloud side of Slipstream: holds the target model, decides every token."""


@app.command()
def serve(
    *,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 picks a free one.")] = "127.0.0.1:50051",
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a causal language model, or profiled[:acceptance=0.8,step_ms=30]. [demo target]"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [cuda where there is one]")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. [float32 on cpu, bfloat16 on cuda]")
    ] = None,
    max_sessions: Annotated[int, typer.Option(min=1, help="Sessions beyond this are refused.")] = 64,
    patience_ms: Annotated[
        float,
        typer.Option(
            min=0, max=600_000, help="Longest time that an edge may have the cloud wait for a draft."
        ),
    ] = 5000.0,
    prompt_lookup: Annotated[
        bool,
        typer.Option(
            help="Guess from a session's own text, without a model, where a step has room to spare. Free of "
            "risk: it never changes the text. Off, a session without a drafter gets one token a step."
        ),
    ] = True,
    adaptive_patience: Annotated[
        bool,
        typer.Option(
            help="Wait for a draft that is about to arrive where measurements say that this is faster."
        ),
    ] = True,
    step_floor_ms: Annotated[
        float,
        typer.Option(
            min=0, help="Emulation: a verify step lasts at least this long, as a larger target's would."
        ),
    ] = 0.0,
    kv_cache_mb: Annotated[
        int | None,
        typer.Option(
            min=1, help="Memory for all sessions' keys and values. [1024; most of what a GPU has free]"
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="Threads of a step on a CPU. [all cores]")
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(
            min=0,
            help="After Ctrl-C or SIGTERM: seconds that open streams get to end; a second one stops at once.",
        ),
    ] = 8.0,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Encrypt: the server's certificate, PEM; with --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM, without a passphrase.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="Let only clients in that present a certificate of this authority, PEM."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="Let only clients in that bring one of these tokens: one per line, at least 16 characters."
        ),
    ] = None,
    allow_insecure_beyond_loopback: Annotated[
        bool,
        typer.Option(
            "--allow-insecure-beyond-loopback",
            help="Listen for other machines though TLS or the token is missing: without TLS everybody on the way can "
            "read and change prompts and texts, without a token everybody who reaches the port can use the model.",
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log to stderr. Never logs tokens.")
    ] = False,
) -> None:
    """Serve a target model until Ctrl-C. Prints one line `listening on HOST:PORT` when ready."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    with interrupts.Silent():
        import uvloop  # noqa: PLC0415 - what takes time is imported after the arguments are judged

        from cloud_server.app import ServeOptions, check_before_loading  # noqa: PLC0415
        from cloud_server.app import serve as serve_until_stopped  # noqa: PLC0415
        from cloud_server.security import ServerSecurity  # noqa: PLC0415
        from shared.messages import Limits  # noqa: PLC0415
        from shared.session.front import CloudPolicies  # noqa: PLC0415

    if model is None and not DEMO_TARGET.is_dir():
        raise UserError(
            "no demo target beside an installed package: name a model with --model FOLDER or hub id"
        )
    security = ServerSecurity(tls_cert, tls_key, tls_client_ca, token_file, allow_insecure_beyond_loopback)
    limits = Limits(max_sessions=max_sessions, max_patience_us=round(patience_ms * 1000))
    policies = CloudPolicies(prompt_lookup, adaptive_patience)
    options = ServeOptions(
        listen=listen, limits=limits, policies=policies, drain_s=drain_s, security=security
    )
    for warning in check_before_loading(options):
        print(f"cloud-server: {warning}", file=sys.stderr, flush=True)
    worker = _worker(model or str(DEMO_TARGET), device, dtype, step_floor_ms, kv_cache_mb, threads)
    uvloop.run(
        serve_until_stopped(worker, options, lambda address: print(f"listening on {address}", flush=True))
    )


@app.command()
def health(
    *,
    server: Annotated[str, typer.Option(help="HOST:PORT of the server.")] = "127.0.0.1:50051",
    within_s: Annotated[float, typer.Option(min=0.1, help="Seconds that it may take to answer.")] = 3.0,
    tls: Annotated[
        bool, typer.Option("--tls", help="The server speaks TLS; trust the system's authorities.")
    ] = False,
    tls_ca: Annotated[
        Path | None, typer.Option(help="The server speaks TLS; trust this authority, PEM.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Present this certificate, PEM; with --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    tls_server_name: Annotated[
        str | None, typer.Option(help="The name that the server's certificate is for. [HOST]")
    ] = None,
) -> None:
    """Exit with 0 if a server serves, with 1 if not. Needs no token."""
    with interrupts.Silent():
        from cloud_server.health import trouble  # noqa: PLC0415 - see `serve`
        from cloud_server.listening import host_and_port  # noqa: PLC0415
        from shared.security import ClientSecurity  # noqa: PLC0415

    host_and_port(server, "--server")
    found = trouble(server, ClientSecurity(tls, tls_ca, tls_cert, tls_key, tls_server_name), within_s)
    if found is not None:
        print(f"cloud-server: {found}", file=sys.stderr)
        raise typer.Exit(1)


def _worker(
    model: str,
    device: str | None,
    dtype: str | None,
    step_floor_ms: float,
    kv_cache_mb: int | None,
    threads: int | None,
) -> Worker:
    if model.partition(":")[0] == PROFILED:
        from cloud_server.profiled import ProfiledWorker  # noqa: PLC0415 - needs no torch
        from shared.profiled import parse_profile  # noqa: PLC0415

        return ProfiledWorker(parse_profile(model), step_floor_ms=step_floor_ms)
    with interrupts.Silent():
        import torch  # noqa: PLC0415 - seconds to import; wrong arguments are told before
        import transformers  # noqa: PLC0415

        from cloud_server.model import load_model  # noqa: PLC0415
        from cloud_server.verifier import Verifier  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    return Verifier(
        load_model(model, device, dtype),
        step_floor_ms=step_floor_ms,
        kv_limit_bytes=None if kv_cache_mb is None else kv_cache_mb << 20,
    )


def main() -> None:
    """Entry point of `cloud-server`: exit code 2 and one line for what the user can mend."""
    # gRPC's C core writes its own lines to stderr, beside the one that says the same; read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app()
    except UserError as error:
        print(f"cloud-server: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(
            f"cloud-server: {error.name} is not installed: install the server's packages with pip install '.[cloud]'",
            file=sys.stderr,
        )
        sys.exit(2)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(interrupts.INTERRUPTED)


if __name__ == "__main__":
    main()
