"""Command line of the WAN emulator: `python -m scripts.wan proxy|verify|profiles`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.processes import ChildError
from scripts.wan.profiles import PROFILES, Handover, WanProfile, find_profile
from scripts.wan.proxy import DelayProxy, run
from shared.errors import UserError

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
)

Profile = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(PROFILES)}; other options replace its figures.")
]
Rtt = Annotated[float | None, typer.Option(min=0, help="Round trip, half of it each way.")]
Jitter = Annotated[float | None, typer.Option(min=0, help="Greatest deviation of a round trip.")]
Up = Annotated[float | None, typer.Option(min=0, help="Rate towards the target; 0: unlimited.")]
Down = Annotated[float | None, typer.Option(min=0, help="Rate back; 0: unlimited.")]


@app.command()
def proxy(
    *,
    target: Annotated[str, typer.Option(help="HOST:PORT to connect to.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 picks a free one.")] = "127.0.0.1:0",
    profile: Profile = None,
    rtt_ms: Rtt = None,
    jitter_ms: Jitter = None,
    up_kbit: Up = None,
    down_kbit: Down = None,
    handover: Annotated[str | None, typer.Option(help="EVERY_S,LASTS_MS,EXTRA_RTT_MS.")] = None,
    seed: Annotated[int, typer.Option(help="Keys the jitter.")] = 0,
    control: Annotated[
        bool,
        typer.Option("--control", help="Verbs on standard input, until it ends: hold SECONDS, cut, traffic."),
    ] = False,
) -> None:
    """Proxy to a target over an emulated link. Prints one line `listening on HOST:PORT` when ready."""
    wan = combine(profile, rtt_ms=rtt_ms, jitter_ms=jitter_ms, up_kbit=up_kbit, down_kbit=down_kbit)
    if handover is not None:
        wan = replace(wan, handover=_handover(handover))
    run(_serve(DelayProxy(target, wan.up, wan.down, seed, listen=listen, handover=wan.handover), control))


@app.command()
def verify(
    *,
    profile: Annotated[list[str] | None, typer.Option(help="Several may be given. [all]")] = None,
    rtt_ms: Rtt = None,
    jitter_ms: Jitter = None,
    up_kbit: Up = None,
    down_kbit: Down = None,
    samples: Annotated[int, typer.Option(min=1, help="Round trips per profile, at most 20 s of them.")] = 200,
) -> None:
    """Measure what was asked for against what arrives, with an echo server behind the proxy."""
    from scripts.wan.verify import show, verify_profile  # noqa: PLC0415 - the proxy starts without what this needs

    figures = {"rtt_ms": rtt_ms, "jitter_ms": jitter_ms, "up_kbit": up_kbit, "down_kbit": down_kbit}
    named: list[str | None] = [*profile] if profile else []
    if not named:
        named = [*PROFILES] if all(figure is None for figure in figures.values()) else [None]
    show([(name or "custom", verify_profile(combine(name, **figures), samples)) for name in named])


@app.command()
def profiles() -> None:
    """Print the profiles and where their figures come from."""
    table = Table(
        "profile", "RTT ms", "jitter ms", "down kbit/s", "up kbit/s", "loss %, not applied", "source"
    )
    for name, wan in PROFILES.items():
        rates = [f"{rate:g}" if rate else "unlimited" for rate in (wan.down_kbit, wan.up_kbit)]
        table.add_row(
            name, f"{wan.rtt_ms:g}", f"{wan.jitter_ms:g}", *rates, f"{wan.loss_percent:g}", wan.source
        )
    Console().print(table)


def combine(name: str | None, **figures: float | None) -> WanProfile:
    """The named profile (none: an ideal link) with the given figures in place of its own.

    Raises:
        UserError: there is no such profile, or neither a profile nor a round trip is given.
    """
    given = {key: figure for key, figure in figures.items() if figure is not None}
    if name is None and "rtt_ms" not in given:
        raise UserError("say which network: --profile NAME or --rtt-ms MS")
    profile = replace(find_profile(name) if name is not None else WanProfile(0.0), **given)  # type: ignore[arg-type]
    try:
        _ = profile.up, profile.down  # each direction judges its own figures
    except ValueError as error:
        raise UserError(f"the network: {error}") from error
    return profile


def _handover(text: str) -> Handover:
    try:
        every_s, lasts_ms, extra_rtt_ms = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"--handover {text}: expected EVERY_S,LASTS_MS,EXTRA_RTT_MS, such as 15,200,40"
        ) from error
    return Handover(every_s, lasts_ms, extra_rtt_ms)


async def _serve(proxy: DelayProxy, control: bool) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with proxy:
        print(f"listening on {proxy.address}", flush=True)
        if control:
            verbs = asyncio.create_task(_control(proxy))
            verbs.add_done_callback(lambda _: stopped.set())
            await stopped.wait()
            if verbs.done():
                verbs.result()
            verbs.cancel()
        else:
            await stopped.wait()


async def _control(proxy: DelayProxy) -> None:
    """Verbs from standard input, one answer each, until its end."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(perform(proxy, line.decode()), flush=True)


def perform(proxy: DelayProxy, line: str) -> str:
    """Carry out one verb; the answer is `ok ...` or `error ...`."""
    match line.split():
        case ["hold", seconds] if seconds.replace(".", "", 1).isdigit():
            proxy.hold(float(seconds))
            return "ok"
        case ["cut"]:
            return f"ok {proxy.cut()}"
        case ["traffic"]:
            return f"ok {json.dumps(asdict(proxy.traffic))}"
        case _:
            return f"error {line.strip()!r} is none of: hold SECONDS, cut, traffic"


def main() -> None:
    """Exit code 2 and one line for what the user can mend."""
    try:
        app()
    except UserError as error:
        print(f"wan: {error}", file=sys.stderr)
        sys.exit(2)
    except ChildError as error:
        print(f"wan: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
