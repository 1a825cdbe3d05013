"""Command line of the WAN emulator: `python -m scripts.wan`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from scripts.processes import ChildError
from scripts.wan.addresses import parse_address
from scripts.wan.choose import Enforcer
from scripts.wan.profile_file import profile_from_json, read_profiles
from scripts.wan.profiles import PROFILES, Handover, WanProfile, find_profile
from scripts.wan.proxy import DelayProxy, run_exact, serve_proxy
from shared.errors import UserError
from shared.link import Jitter as Distribution
from shared.link import Schedule

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
ProfileFile = Annotated[
    Path | None, typer.Option(help="TOML file with profiles of your own, one table each (docs/wan.md).")
]
Rtt = Annotated[float | None, typer.Option(min=0, help="Round trip, half of it each way.")]
Jitter = Annotated[float | None, typer.Option(min=0, help="Spread of a round trip.")]
Up = Annotated[float | None, typer.Option(min=0, help="Rate towards the target; 0: unlimited.")]
Down = Annotated[float | None, typer.Option(min=0, help="Rate back; 0: unlimited.")]
Loss = Annotated[float | None, typer.Option(min=0, max=99, help="Share of packets lost each way.")]
Spread = Annotated[Distribution | None, typer.Option(help="How the jitter is distributed.")]
HandoverText = Annotated[str | None, typer.Option(help="EVERY_S,LASTS_MS,EXTRA_RTT_MS.")]
OutageText = Annotated[str | None, typer.Option(help="EVERY_S,LASTS_MS: nothing passes meanwhile.")]
Seed = Annotated[int, typer.Option(help="Keys the jitter and the loss.")]
By = Annotated[
    Enforcer | None, typer.Option(help="What enforces the link. [the best that this machine allows]")
]


@app.command()
def proxy(
    *,
    target: Annotated[str, typer.Option(help="HOST:PORT to connect to.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 picks a free one.")] = "127.0.0.1:0",
    profile: Profile = None,
    profile_file: ProfileFile = None,
    rtt_ms: Rtt = None,
    jitter_ms: Jitter = None,
    jitter: Spread = None,
    up_kbit: Up = None,
    down_kbit: Down = None,
    loss_percent: Loss = None,
    handover: HandoverText = None,
    outage: OutageText = None,
    seed: Seed = 0,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="Verbs on standard input, until it ends: reach HOST:PORT, hold SECONDS, cut, traffic.",
        ),
    ] = False,
) -> None:
    """Proxy to a target over an emulated link. Prints one line `listening on HOST:PORT` when ready."""
    wan = combine(
        profile,
        profile_file,
        rtt_ms=rtt_ms,
        jitter_ms=jitter_ms,
        jitter=jitter,
        up_kbit=up_kbit,
        down_kbit=down_kbit,
        loss_percent=loss_percent,
        handover=_handover(handover),
        outage=_outage(outage),
    )
    server, here = parse_address(target, "--target"), parse_address(listen, "--listen")

    async def serve() -> None:
        async with DelayProxy(wan.up, wan.down, seed) as emulator:
            print(f"listening on {emulator.reach(server, here)}", flush=True)
            await serve_proxy(emulator, control=control)

    run_exact(serve())


@app.command("run", context_settings={"ignore_unknown_options": True})
def run_command(
    *,
    command: Annotated[
        list[str], typer.Argument(help="After `--`: what to run; {server} stands for the address to dial.")
    ],
    server: Annotated[str, typer.Option(help="HOST:PORT behind the link, as seen from this host.")],
    profile: Profile = None,
    profile_file: ProfileFile = None,
    rtt_ms: Rtt = None,
    jitter_ms: Jitter = None,
    jitter: Spread = None,
    up_kbit: Up = None,
    down_kbit: Down = None,
    loss_percent: Loss = None,
    handover: HandoverText = None,
    outage: OutageText = None,
    enforcer: By = None,
    seed: Seed = 0,
) -> None:
    """Run a command at the edge's end of an emulated link. Ends with its exit code."""
    from scripts.wan.run import run_over  # noqa: PLC0415 - the emulators start without what this needs

    wan = combine(
        profile,
        profile_file,
        rtt_ms=rtt_ms,
        jitter_ms=jitter_ms,
        jitter=jitter,
        up_kbit=up_kbit,
        down_kbit=down_kbit,
        loss_percent=loss_percent,
        handover=_handover(handover),
        outage=_outage(outage),
    )
    raise typer.Exit(run_over(wan, server, command, enforcer, seed))


@app.command()
def verify(
    *,
    profile: Annotated[list[str] | None, typer.Option(help="Several may be given. [all]")] = None,
    profile_file: ProfileFile = None,
    rtt_ms: Rtt = None,
    jitter_ms: Jitter = None,
    jitter: Spread = None,
    up_kbit: Up = None,
    down_kbit: Down = None,
    loss_percent: Loss = None,
    handover: HandoverText = None,
    outage: OutageText = None,
    enforcer: Annotated[
        list[Enforcer] | None, typer.Option(help="Several may be given. [all that this machine allows]")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=20, help="Round trips per profile, at most 20 s of them.")
    ] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure there.")] = None,
) -> None:
    """Measure what was asked for against what arrives. Exit code 1: something is outside its tolerance."""
    from scripts.wan.verify.verify import verify_all  # noqa: PLC0415 - the emulators start without what this needs

    figures = {
        "rtt_ms": rtt_ms,
        "jitter_ms": jitter_ms,
        "jitter": jitter,
        "up_kbit": up_kbit,
        "down_kbit": down_kbit,
        "loss_percent": loss_percent,
        "handover": _handover(handover),
        "outage": _outage(outage),
    }
    if profile:
        named = {name: combine(name, profile_file, **figures) for name in profile}
    elif any(figure is not None for figure in figures.values()):
        named = {"custom": combine(None, profile_file, **figures)}
    else:
        named = dict(read_profiles(profile_file) if profile_file is not None else PROFILES)
    if not verify_all(named, enforcer, samples, json_file):
        raise typer.Exit(1)


@app.command()
def profiles(*, profile_file: ProfileFile = None) -> None:
    """Print the profiles and where their figures come from."""
    from scripts.wan.show import show_profiles  # noqa: PLC0415 - the emulators start without what this needs

    show_profiles({**PROFILES, **(read_profiles(profile_file) if profile_file is not None else {})})


@app.command()
def enforcers() -> None:
    """Print what this machine allows, and why not."""
    from scripts.wan.show import show_enforcers  # noqa: PLC0415 - the emulators start without what this needs

    show_enforcers()


@app.command(hidden=True)
def serve(
    *,
    enforcer: Annotated[Enforcer, typer.Argument()],
    profile: Annotated[str, typer.Argument()],
    seed: int = 0,
) -> None:
    """An emulator for `scripts.wan.process`: the profile as JSON, verbs on standard input."""
    wan = profile_from_json(profile)
    match enforcer:
        case Enforcer.TUN:
            from scripts.wan.tun import serve_tun  # noqa: PLC0415 - Linux only

            serve_tun(wan, seed, sys.stdin.fileno())
        case Enforcer.NETEM:
            from scripts.wan.netem import serve_netem  # noqa: PLC0415 - Linux only

            serve_netem(wan, sys.stdin.fileno())
        case Enforcer.PROXY:

            async def serve() -> None:
                async with DelayProxy(wan.up, wan.down, seed) as emulator:
                    print("listening on demand", flush=True)
                    await serve_proxy(emulator, control=True)

            run_exact(serve())


def combine(name: str | None, profile_file: Path | None = None, **figures: object) -> WanProfile:
    """The named profile (none: an ideal link) with the given figures in place of its own.

    Raises:
        UserError: there is no such profile, or neither a profile nor a round trip is given.
    """
    given = {key: figure for key, figure in figures.items() if figure is not None}
    more = read_profiles(profile_file) if profile_file is not None else {}
    if name is None and "rtt_ms" not in given:
        raise UserError("say which network: --profile NAME or --rtt-ms MS")
    base = find_profile(name, more) if name is not None else WanProfile(0.0)
    profile = replace(base, **given)  # type: ignore[arg-type]
    try:
        _ = profile.up, profile.down  # each direction judges its own figures
    except ValueError as error:
        raise UserError(f"the network: {error}") from error
    return profile


def _handover(text: str | None) -> Handover | None:
    if text is None:
        return None
    return Handover(*_figures("--handover", text, "EVERY_S,LASTS_MS,EXTRA_RTT_MS", "15,200,40"))


def _outage(text: str | None) -> Schedule | None:
    if text is None:
        return None
    every_s, lasts_ms = _figures("--outage", text, "EVERY_S,LASTS_MS", "30,400")
    try:
        return Schedule(every_s, lasts_ms)
    except ValueError as error:
        raise UserError(f"--outage {text}: {error}") from error


def _figures(option: str, text: str, form: str, example: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != len(form.split(",")):
        raise UserError(f"{option} {text}: expected {form}, such as {example}")
    return found


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
