"""Command line of the server: `cloud-server serve`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from cloud_server.worker import Worker
from shared.errors import UserError
from shared.messages import Limits
from shared.profiled import parse_profile

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
    step_floor_ms: Annotated[
        float,
        typer.Option(
            min=0, help="Emulation: a verify step lasts at least this long, as a larger target's would."
        ),
    ] = 0.0,
    kv_cache_mb: Annotated[int, typer.Option(min=1, help="Memory for all sessions' keys and values.")] = 1024,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of a step on a CPU. [all cores]")
    ] = None,
    drain_s: Annotated[float, typer.Option(min=0, help="Seconds that open streams get at shutdown.")] = 5.0,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log to stderr. Never logs tokens.")
    ] = False,
) -> None:
    """Serve a target model until Ctrl-C. Prints one line `listening on HOST:PORT` when ready."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )
    from cloud_server.app import ServeOptions  # noqa: PLC0415 - grpc is imported after the arguments are judged
    from cloud_server.app import serve as serve_until_stopped  # noqa: PLC0415

    if model is None and not DEMO_TARGET.is_dir():
        raise UserError(
            "no demo target beside an installed package: name a model with --model FOLDER or hub id"
        )
    worker = _worker(model or str(DEMO_TARGET), device, dtype, step_floor_ms, kv_cache_mb, threads)
    limits = Limits(max_sessions=max_sessions, max_patience_us=round(patience_ms * 1000))
    options = ServeOptions(listen=listen, limits=limits, drain_s=drain_s)
    uvloop.run(
        serve_until_stopped(worker, options, lambda address: print(f"listening on {address}", flush=True))
    )


def _worker(
    model: str,
    device: str | None,
    dtype: str | None,
    step_floor_ms: float,
    kv_cache_mb: int,
    threads: int | None,
) -> Worker:
    if model.partition(":")[0] == PROFILED:
        from cloud_server.profiled import ProfiledWorker  # noqa: PLC0415 - needs no torch

        return ProfiledWorker(parse_profile(model), step_floor_ms=step_floor_ms)
    import torch  # noqa: PLC0415 - seconds to import; wrong arguments are told before
    import transformers  # noqa: PLC0415

    from cloud_server.model import load_model  # noqa: PLC0415
    from cloud_server.verifier import Verifier  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
    return Verifier(
        load_model(model, device, dtype), step_floor_ms=step_floor_ms, kv_limit_bytes=kv_cache_mb << 20
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
        sys.exit(130)


if __name__ == "__main__":
    main()
