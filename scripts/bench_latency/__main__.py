"""Command line of the latency benchmark: `python -m scripts.bench_latency [check | report FILE]`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from edge_client.command_line import AllowInsecure, Tls, TlsCa, TlsCert, TlsKey, TlsServerName, TokenFile
from edge_client.options import ClientOptions
from scripts.bench_latency.check import CheckSize, check_plan, judge
from scripts.bench_latency.check_report import show_verdicts, write_verdicts
from scripts.bench_latency.deployment import DEMO, Deployment
from scripts.bench_latency.execute import Journal, execute
from scripts.bench_latency.figures import differences, figures
from scripts.bench_latency.grid import FULL_RTTS_MS, STANDARD_PAIR, Asked, plan_of
from scripts.bench_latency.machine import command_line, machine
from scripts.bench_latency.plan import Plan
from scripts.bench_latency.presets import PRESETS
from scripts.bench_latency.records import Header, Results, read
from scripts.bench_latency.report import write_report
from scripts.bench_latency.tables import choice_in_words, show
from scripts.bench_latency.watch import Bar
from scripts.processes import ChildError
from scripts.wan.link import Enforcer, choose_enforcer
from scripts.wan.profiles import PROFILES
from shared.errors import UserError
from shared.security import ClientSecurity

RESULTS: Final = "bench-results"
RECORDS: Final = "runs.jsonl"
INTERRUPTED: Final = 130

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)

Out = Annotated[
    Path | None, typer.Option(help=f"Folder for the results; it may not hold any. [{RESULTS}/DATE-TIME]")
]
Jobs = Annotated[
    int,
    typer.Option(min=1, help="Cells side by side. More than 1 is for cells that only sleep, and noisier."),
]
Enforce = Annotated[
    Enforcer | None, typer.Option("--enforcer", help="What emulates the network. [the best that is possible]")
]


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    *,
    rtt: Annotated[
        list[float] | None, typer.Option(min=0, help="Round trip in ms; repeat for more cells.")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help=f"A network by name: {', '.join(PROFILES)}. May be repeated.")
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(help=f"demo, or a profiled pair such as {STANDARD_PAIR}. May be repeated. [both]"),
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"A published setting: {', '.join(PRESETS)}.")] = None,
    target: Annotated[Path | None, typer.Option(help="A target of your own; with --drafter.")] = None,
    drafter: Annotated[Path | None, typer.Option(help="A drafter of your own.")] = None,
    up_kbit: Annotated[float, typer.Option(min=0, help="Rate towards the cloud; 0: unlimited.")] = 0.0,
    down_kbit: Annotated[float, typer.Option(min=0, help="Rate towards the edge; 0: unlimited.")] = 0.0,
    loss_percent: Annotated[float, typer.Option(min=0, max=50, help="Packets lost.")] = 0.0,
    jitter_ms: Annotated[float, typer.Option(min=0, help="Greatest deviation of a round trip.")] = 0.0,
    step_floor_ms: Annotated[
        float | None,
        typer.Option(
            min=0, help="Emulation: a verify step lasts at least this long. [demo pair 40, others 0]"
        ),
    ] = None,
    draft_floor_ms: Annotated[
        float, typer.Option(min=0, help="Emulation: a drafter forward lasts at least this long.")
    ] = 0.0,
    prompts: Annotated[int | None, typer.Option(min=1, help="Prompts per cell. [3, with --full 6]")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Of the sampling; repeat for more. [0]")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=2, help="Per generation. [200, --full 400; demo 96, 160]")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.0,
    arm: Annotated[
        list[str] | None, typer.Option(help="Only this arm (and cloud alone). May be repeated.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Also transformers' generate, with the demo pair.")] = True,
    full: Annotated[
        bool,
        typer.Option("--full", help=f"RTT {', '.join(f'{one:g}' for one in FULL_RTTS_MS)} ms, long texts."),
    ] = False,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="The defaults against themselves with one thing changed.")
    ] = False,
    server: Annotated[
        str | None, typer.Option(help="HOST:PORT of a server that is deployed already.")
    ] = None,
    emulation: Annotated[bool, typer.Option(help="Put an emulated network in between.")] = True,
    enforcer: Enforce = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
    allow_insecure_beyond_loopback: AllowInsecure = False,
    jobs: Jobs = 1,
    out: Out = None,
) -> None:
    """Measure every way to write the same text over a network: each prompt by each arm in turn, texts compared.

    Exit code 1 if a text differs.
    """
    if context.invoked_subcommand is not None:
        return
    if (target is None) != (drafter is None) and server is None:
        raise UserError("--target and --drafter go together")
    pairs = [*(pair or ()), *(["own"] if drafter is not None else [])]
    asked = Asked(
        rtts_ms=rtt or (),
        profiles=profile or (),
        pairs=pairs,
        preset=preset,
        up_kbit=up_kbit,
        down_kbit=down_kbit,
        loss_percent=loss_percent,
        jitter_ms=jitter_ms,
        step_floor_ms=step_floor_ms,
        draft_floor_ms=draft_floor_ms,
        prompts=prompts,
        seeds=seed or (0,),
        tokens=tokens,
        temperature=temperature,
        full=full,
        ablation=ablation,
        peers=peers,
        deployed=server is not None,
        emulate=emulation,
        only=arm or (),
    )
    security = ClientSecurity(
        tls=tls,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_server_name=tls_server_name,
        token_file=token_file,
        insecure_beyond_loopback=allow_insecure_beyond_loopback,
    )
    deployment = Deployment(
        target=(target or DEMO / "target").resolve(),
        drafter=(drafter or DEMO / "drafter").resolve(),
        server=server,
        emulate=emulation,
        enforcer=enforcer,
        client=ClientOptions(security=security),
    )
    console = _console()
    results = _run(plan_of(asked), deployment, jobs, _folder(out), console)
    raise typer.Exit(_exit_code(results))


@app.command()
def check(
    *,
    only: Annotated[list[str] | None, typer.Option(help="A rule by its key. May be repeated. [all]")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Per generation.")] = 400,
    prompts: Annotated[int, typer.Option(min=1, help="Per cell and arm.")] = 5,
    enforcer: Enforce = None,
    jobs: Jobs = 1,
    out: Out = None,
) -> None:
    """Measure what must hold, and say PASS or FAIL for each.

    Exit code 1 if something fails.
    """
    plan = check_plan(only or (), CheckSize(prompts, tokens))
    console = _console()
    results = _run(plan, Deployment(enforcer=enforcer), jobs, _folder(out), console)
    code = _exit_code(results)
    failed = any(one.passed is False for one in judge(results))
    raise typer.Exit(code or int(failed))


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help=f"The {RECORDS} of a run.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for report and plots. [beside FILE]")] = None,
) -> None:
    """Make the report of what was measured before once more.

    Exit code 1 if a text differs.
    """
    results = read(file)
    folder = out if out is not None else file.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    _tell(results, folder, _console())
    raise typer.Exit(int(bool(differences(results))))


def _run(plan: Plan, deployment: Deployment, jobs: int, folder: Path, console: Console) -> Results:
    if jobs > 1:
        console.print(
            f"{jobs} cells run side by side on {os.cpu_count()} cores: right for cells that only sleep, and noisier "
            "than one at a time.",
            style="yellow",
            soft_wrap=True,
        )
    if deployment.emulate:
        console.print(
            f"Network emulated by {choice_in_words(choose_enforcer(deployment.enforcer))}.", soft_wrap=True
        )
    console.print(f"{plan.runs} runs in {len(plan.cells)} cells.")
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    header = Header(plan, command_line(sys.argv[1:]), machine(), began, jobs)
    with Journal(folder / RECORDS) as journal, Bar(console, plan) as watcher:
        results, broke = execute(header, deployment, journal, watcher)
    _tell(results, folder, console)
    if broke is not None:
        raise broke
    return results


def _tell(results: Results, folder: Path, console: Console) -> None:
    cells, found = figures(results), differences(results)
    show(results, cells, found, console)
    if results.header.plan.name == "check":
        verdicts = judge(results)
        show_verdicts(verdicts, console)
        write_verdicts(verdicts, folder / "check.json")
    write_report(results, cells, found, folder)
    console.print(f"Results, plots and report.html: {_near(folder)}", markup=False, soft_wrap=True)


def _exit_code(results: Results) -> int:
    if results.end is not None and results.end.outcome == "interrupted":
        return INTERRUPTED
    return 1 if differences(results) else 0


def _folder(out: Path | None) -> Path:
    folder = out if out is not None else Path(RESULTS) / time.strftime("%Y-%m-%d-%H%M%S")
    if (folder / RECORDS).exists():
        raise UserError(f"--out {folder}: it holds results already; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error
    return folder


def _near(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.resolve().relative_to(here)) if folder.resolve().is_relative_to(here) else str(folder)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 1: a text differs or something broke; 2: something that the user can mend; 130: Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)  # whoever asks it to end gets the partial report as well
    try:
        app(arguments)
    except UserError as error:
        print(f"bench_latency: {error}", file=sys.stderr)
        sys.exit(2)
    except ChildError as error:
        print(f"bench_latency: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
