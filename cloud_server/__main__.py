"""Command line of the server: `cloud-server serve`, `cloud-server worker` and `cloud-server health`."""

from __future__ import annotations

from shared import interrupts

with interrupts.Silent():
    import asyncio
    import enum
    import logging
    import os
    import sys
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated

    import typer

    from cloud_server import options as given
    from cloud_server.loading import WorkerSpec
    from shared.errors import UserError

if TYPE_CHECKING:
    from shared.pool import PoolPolicies

DEMO_TARGET = Path(__file__).resolve().parent.parent / "models" / "demo" / "target"


class WorkerKind(enum.StrEnum):
    """Where a server's own workers run."""

    THREAD = "thread"
    PROCESS = "process"


class RoutingName(enum.StrEnum):
    """See `shared.policy.routing`."""

    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    SHORTEST_QUEUE = "shortest-queue"
    LEAST_WORK = "least-work"


class BatchingName(enum.StrEnum):
    """See `shared.policy.batching`."""

    FIFO = "fifo"
    LENGTH_AWARE = "length-aware"
    MEASURED = "measured"


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
    model: given.Model = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Verifiers that share the sessions. [1; one per device; 0 with --cluster]"),
    ] = None,
    worker_kind: Annotated[
        WorkerKind | None,
        typer.Option(
            help="thread: in this process, with one copy of the weights. process: each on its own, restarted when it "
            "is lost. [thread; process with several --devices]"
        ),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Where workers compute, in turn, such as cuda:0,cuda:1.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Workers of other machines: HOST:PORT[,HOST:PORT...] of `cloud-server worker`, or ray[:N] to have "
            "Ray place them."
        ),
    ] = None,
    sp_degree: Annotated[
        int,
        typer.Option(min=1, max=64, help="Steps of one session that may be out at once, on several workers."),
    ] = 1,
    routing: Annotated[
        RoutingName, typer.Option(help="Which worker a session is given to.")
    ] = RoutingName.LEAST_WORK,
    batching: Annotated[
        BatchingName,
        typer.Option(
            help="What shares a step. measured: as many drafts as the measured cost of a step makes worth while."
        ),
    ] = BatchingName.MEASURED,
    sessions_per_step: Annotated[
        int | None, typer.Option(min=1, help="Most sessions that share a step. [all]")
    ] = None,
    hedge_factor: Annotated[
        float,
        typer.Option(
            min=0,
            help="A step that takes so many times as long as usual is asked of another worker. 0: never.",
        ),
    ] = 5.0,
    check_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of tokens that a second worker establishes once more, to compare."
        ),
    ] = 0.0,
    worker_deadline_s: Annotated[
        float,
        typer.Option(min=0.1, help="A worker process or machine that says nothing for so long is replaced."),
    ] = 5.0,
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
    step_floor_ms: given.StepFloorMs = 0.0,
    kv_cache_mb: given.KvCacheMb = None,
    threads: given.Threads = None,
    prefix_reuse: given.PrefixReuse = True,
    drain_s: Annotated[
        float,
        typer.Option(
            min=0,
            help="After Ctrl-C or SIGTERM: seconds that open streams get to end; a second one stops at once.",
        ),
    ] = 8.0,
    metrics_listen: Annotated[
        str | None, typer.Option(help="HOST:PORT for Prometheus, of this machine. [none]")
    ] = None,
    tls_cert: given.TlsCert = None,
    tls_key: given.TlsKey = None,
    tls_client_ca: given.TlsClientCa = None,
    token_file: given.TokenFile = None,
    assistants_token_file: Annotated[
        Path | None,
        typer.Option(
            help="Let those who bring one of these tokens see every session and draft for it: edge-client assist --all."
        ),
    ] = None,
    cluster_tls_ca: given.ClusterTlsCa = None,
    cluster_tls_cert: given.ClusterTlsCert = None,
    cluster_tls_key: given.ClusterTlsKey = None,
    cluster_tls_server_name: given.ClusterTlsServerName = None,
    cluster_token_file: given.ClusterTokenFile = None,
    cluster_worker_options: given.ClusterWorkerOptions = "",
    allow_insecure_beyond_loopback: given.InsecureBeyondLoopback = False,
    verbose: given.Verbose = False,
) -> None:
    """Serve a target model until Ctrl-C. Prints one line `listening on HOST:PORT` when ready."""
    _log(verbose=verbose)
    with interrupts.Silent():
        import uvloop  # noqa: PLC0415 - what takes time is imported after the arguments are judged

        from cloud_server.app import ServeOptions, check_before_loading  # noqa: PLC0415
        from cloud_server.app import serve as serve_until_stopped  # noqa: PLC0415
        from cloud_server.fleet.plan import make_places, plan  # noqa: PLC0415
        from cloud_server.security import ServerSecurity  # noqa: PLC0415
        from shared.messages import Limits  # noqa: PLC0415
        from shared.policy.batching import FlatBudget, MeasuredBudget  # noqa: PLC0415
        from shared.security import ClientSecurity  # noqa: PLC0415
        from shared.session.front import CloudPolicies  # noqa: PLC0415

    security = ServerSecurity(
        tls_cert, tls_key, tls_client_ca, token_file, allow_insecure_beyond_loopback, assistants_token_file
    )
    limits = Limits(max_sessions=max_sessions, max_patience_us=round(patience_ms * 1000))
    policies = CloudPolicies(prompt_lookup=prompt_lookup, adaptive_patience=adaptive_patience)
    options = ServeOptions(
        listen=listen,
        limits=limits,
        budget=MeasuredBudget if batching is BatchingName.MEASURED else FlatBudget,
        policies=policies,
        pool=_pool(routing, batching, hedge_factor, sp_degree, sessions_per_step, check_share),
        drain_s=drain_s,
        metrics_listen=metrics_listen,
        security=security,
    )
    planned = plan(
        WorkerSpec(_named(model), device, dtype, step_floor_ms, kv_cache_mb, threads, prefix_reuse),
        workers=workers,
        kind=None if worker_kind is None else worker_kind.value,
        devices=devices,
        cluster=cluster,
        worker_options=cluster_worker_options,
        security=ClientSecurity(
            tls_ca=cluster_tls_ca,
            tls_cert=cluster_tls_cert,
            tls_key=cluster_tls_key,
            tls_server_name=cluster_tls_server_name,
            token_file=cluster_token_file,
            insecure_beyond_loopback=allow_insecure_beyond_loopback,
        ),
        deadline_s=worker_deadline_s,
        verbose=verbose,
        sp_degree=sp_degree,
    )
    for warning in check_before_loading(options):
        print(f"cloud-server: {warning}", file=sys.stderr, flush=True)
    places = make_places(planned)
    uvloop.run(
        serve_until_stopped(places, options, lambda address: print(f"listening on {address}", flush=True))
    )


@app.command()
def worker(
    *,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 picks a free one.")] = "127.0.0.1:50061",
    model: given.Model = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    step_floor_ms: given.StepFloorMs = 0.0,
    kv_cache_mb: given.KvCacheMb = None,
    threads: given.Threads = None,
    prefix_reuse: given.PrefixReuse = True,
    tls_cert: given.TlsCert = None,
    tls_key: given.TlsKey = None,
    tls_client_ca: given.TlsClientCa = None,
    token_file: given.TokenFile = None,
    allow_insecure_beyond_loopback: given.InsecureBeyondLoopback = False,
    until_stdin_ends: Annotated[
        bool,
        typer.Option("--until-stdin-ends", help="Stop also when standard input ends: for who starts it."),
    ] = False,
    verbose: given.Verbose = False,
) -> None:
    """Compute for a server on another machine, which names this one with --cluster. Prints one line `listening on
    HOST:PORT` when ready. After Ctrl-C or SIGTERM its sessions are moved elsewhere first; a second one stops at once.
    """
    _log(verbose=verbose)
    with interrupts.Silent():
        import uvloop  # noqa: PLC0415 - see `serve`

        from cloud_server.fleet.serving import check_before_loading, serve_worker  # noqa: PLC0415
        from cloud_server.loading import make_workers  # noqa: PLC0415
        from cloud_server.security import ServerSecurity  # noqa: PLC0415

    security = ServerSecurity(tls_cert, tls_key, tls_client_ca, token_file, allow_insecure_beyond_loopback)
    for warning in check_before_loading(listen, security):
        print(f"cloud-server: {warning}", file=sys.stderr, flush=True)
    spec = WorkerSpec(_named(model), device, dtype, step_floor_ms, kv_cache_mb, threads, prefix_reuse)
    (made,) = make_workers(spec)
    uvloop.run(
        serve_worker(
            made,
            spec.place,
            listen,
            security,
            lambda address: print(f"listening on {address}", flush=True),
            until_stdin_ends=until_stdin_ends,
        )
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


def _named(model: str | None) -> str:
    if model is not None:
        return model
    if not DEMO_TARGET.is_dir():
        raise UserError(
            "no demo target beside an installed package: name a model with --model FOLDER or hub id"
        )
    return str(DEMO_TARGET)


def _log(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
    )


def _pool(
    routing: RoutingName,
    batching: BatchingName,
    hedge_factor: float,
    sp_degree: int,
    sessions_per_step: int | None,
    check_share: float,
) -> PoolPolicies:
    from shared.policy import batching as batchings  # noqa: PLC0415 - see `serve`
    from shared.policy import routing as routings  # noqa: PLC0415
    from shared.policy.hedging import HedgeAfter, NoHedging  # noqa: PLC0415
    from shared.pool import PoolPolicies  # noqa: PLC0415

    table: dict[RoutingName, type[routings.Routing]] = {
        RoutingName.RANDOM: routings.RandomRouting,
        RoutingName.ROUND_ROBIN: routings.RoundRobin,
        RoutingName.SHORTEST_QUEUE: routings.ShortestQueue,
        RoutingName.LEAST_WORK: routings.LeastWork,
    }
    order = batchings.LengthAware() if batching is BatchingName.LENGTH_AWARE else batchings.Fifo()
    return PoolPolicies(
        routing=table[routing],
        batching=order,
        hedging=HedgeAfter(hedge_factor) if hedge_factor else NoHedging(),
        sp_degree=sp_degree,
        sessions_per_step=sessions_per_step,
        check_share=check_share,
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
