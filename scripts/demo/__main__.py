"""Command line of the demo: `python -m scripts.demo`, or `make demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scripts.demo.run import Settings, demo
from scripts.pair.prompts import HeldOutError
from scripts.processes import ROOT, ChildError
from scripts.wan.__main__ import Down, Jitter, Profile, Up, combine
from shared.errors import SlipstreamError, UserError
from shared.sampling import SamplingParams

DEFAULT_RTT_MS = 60.0

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main_command(
    *,
    profile: Profile = None,
    rtt_ms: Annotated[float | None, typer.Option(min=0, help="Round trip. [60 without --profile]")] = None,
    jitter_ms: Jitter = None,
    up_kbit: Up = None,
    down_kbit: Down = None,
    step_floor_ms: Annotated[
        float,
        typer.Option(min=0, help="Emulation: a verify step lasts at least this long, as a larger target's."),
    ] = 40.0,
    draft_floor_ms: Annotated[
        float, typer.Option(min=0, help="Emulation: a drafter forward lasts at least this long.")
    ] = 0.0,
    prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts to continue.")] = 6,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per text.")] = 96,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the sampling and of the network's jitter.")
    ] = 0,
    target: Annotated[Path, typer.Option(help="Folder of the target.")] = ROOT / "models/demo/target",
    drafter: Annotated[Path, typer.Option(help="Folder of the drafter.")] = ROOT / "models/demo/drafter",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure there.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="No panels, also on a terminal.")] = False,
) -> None:
    """Write the same texts by the cloud alone, by synchronous SI and by Slipstream, over an emulated network.

    Fails (exit code 1) unless all texts are the same, token by token.
    """
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise UserError(f"--json {json_file}: there is no such folder")
    if profile is None and rtt_ms is None:
        rtt_ms = DEFAULT_RTT_MS
    settings = Settings(
        wan=combine(profile, rtt_ms=rtt_ms, jitter_ms=jitter_ms, up_kbit=up_kbit, down_kbit=down_kbit),
        step_floor_ms=step_floor_ms,
        draft_floor_ms=draft_floor_ms,
        prompts=prompts,
        tokens=tokens,
        sampling=SamplingParams(temperature=temperature, seed=seed),
        target=target.resolve(),
        drafter=drafter.resolve(),
        json_file=json_file,
        plain=plain,
    )
    if not demo(settings):
        raise typer.Exit(1)


def main() -> None:
    """Exit code 1: texts differ, or something broke; 2: something that the user can mend; 130: Ctrl-C (typer's)."""
    try:
        app()
    except (UserError, HeldOutError) as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)
    except (ChildError, SlipstreamError) as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
