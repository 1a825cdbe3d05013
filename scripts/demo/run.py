"""The demo from start to end: server and emulator in processes of their own, the edge in this one."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console

from edge_client.app import Client, ClientOptions, GenerationFailedError
from scripts.demo.arms import Arm, Sample, arms, play
from scripts.demo.compare import Difference, differences
from scripts.demo.lookahead import Choice, choose, measure
from scripts.demo.report import Emulated, as_json, rows, table
from scripts.demo.view import LiveView, PlainView
from scripts.pair.prompts import held_out_prompts
from scripts.processes import ROOT, Child, child, python
from scripts.wan.process import WanProcess, wan_process
from scripts.wan.profiles import WanProfile
from shared.errors import UserError
from shared.sampling import SamplingParams

PROBES: Final = 3
"""Prompts that are not shown, for measuring the pair."""
PROBE_TOKENS: Final = 48
SERVER_THREADS: Final = 1
"""Of a verify step. On two busy cores a second thread made steps 5 to 10 times longer (the drafter wants a core too);
with one, 64 nodes take 18 ms of a core, which the default step floor hides.
"""
READY_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run."""

    wan: WanProfile
    step_floor_ms: float
    draft_floor_ms: float
    prompts: int
    tokens: int
    sampling: SamplingParams
    target: Path
    drafter: Path
    json_file: Path | None
    plain: bool

    @property
    def emulated(self) -> Emulated:
        """See `Emulated`."""
        wan = self.wan
        rates = (wan.up_kbit, wan.down_kbit)
        return Emulated(wan.rtt_ms, wan.jitter_ms, *rates, self.step_floor_ms, self.draft_floor_ms)


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it."""

    choice: Choice
    ways: tuple[Arm, ...]
    samples: list[Sample]


def demo(settings: Settings) -> bool:
    """Run it and print it; whether all texts are the same.

    Raises:
        UserError: a model is missing, or does not fit.
        HeldOutError: this interpreter's library holds too few held-out prompts.
        ChildError: server or emulator did not come up, or broke.
    """
    begun = time.monotonic()
    console = Console(highlight=False)
    for folder, what in ((settings.target, "target"), (settings.drafter, "drafter")):
        if not folder.is_dir():
            raise UserError(f"the {what} {folder} is missing: get the files of models/demo, or train a pair")
    texts = held_out_prompts(settings.prompts + PROBES)
    console.print(f"Emulated: {settings.emulated.describe()}.", soft_wrap=True)
    console.print("Starting the server: a few seconds until the target is loaded.")
    with (
        child("server", _server_command(settings), ready_s=READY_S) as server,
        wan_process(server.address, settings.wan, settings.sampling.seed) as wan,
    ):
        _print_places(console, server, wan)
        try:
            played = uvloop.run(_play(settings, texts, wan, console))
        except GenerationFailedError:
            server.check()  # whose last words say more
            wan.process.check()
            raise
    found = differences(played.samples, played.ways[0].key)
    _print_outcome(console, settings, played, found, time.monotonic() - begun)
    return not found


def _server_command(settings: Settings) -> list[str]:
    return python(
        *("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", str(settings.target)),
        *("--device", "cpu", "--threads", str(SERVER_THREADS)),
        *("--step-floor-ms", str(settings.step_floor_ms), "--drain-s", "1"),
        # It would speed up the cloud alone as well: what is compared here is where drafts come from.
        "--no-prompt-lookup",
    )


async def _play(settings: Settings, texts: Sequence[str], wan: WanProcess, console: Console) -> Played:
    options = ClientOptions(wan.address, str(settings.drafter), draft_floor_ms=settings.draft_floor_ms)
    async with Client(options) as client:
        unseen = texts[settings.prompts :]
        probed = await measure(
            client,
            unseen,
            min(PROBE_TOKENS, settings.tokens),
            settings.sampling,
            rtt_ms=settings.wan.rtt_ms,
            draft_floor_ms=settings.draft_floor_ms,
        )
        choice = await asyncio.to_thread(choose, probed)  # seconds: the connection is kept alive meanwhile
        console.print(f"Measured on {PROBES} other prompts: {choice.describe()}.", soft_wrap=True)
        ways = arms(choice.lookahead)
        names = {arm.key: arm.name for arm in ways}
        kind = LiveView if console.is_terminal and not settings.plain else PlainView
        with kind(console, names) as view:
            shown = texts[: settings.prompts]
            samples = await play(client, wan, ways, shown, settings.tokens, settings.sampling, view)
    return Played(choice, ways, samples)


def _print_places(console: Console, server: Child, wan: WanProcess) -> None:
    console.print(
        f"All on this machine: edge with the drafter (process {os.getpid()}) -> WAN emulator (process "
        f"{wan.process.pid}, {wan.address}) -> server with the target (process {server.pid}, {server.address}, "
        f"{SERVER_THREADS} thread).",
        soft_wrap=True,
    )


def _print_outcome(
    console: Console, settings: Settings, played: Played, found: Sequence[Difference], took_s: float
) -> None:
    lines = rows(played.ways, played.samples, found)
    console.print(table(lines, settings.emulated))
    if settings.json_file is not None:
        document = as_json(
            emulated=settings.emulated,
            settings=_plain(settings),
            choice=played.choice,
            lines=lines,
            samples=played.samples,
            found=found,
        )
        settings.json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        console.print(f"Every figure is in {settings.json_file}.")
    for one in found:
        console.print(f"[bold red]{one.describe()}[/]")
    count, total = settings.prompts, sum(len(sample.tokens) for sample in played.samples)
    verdict = "are the same in all arms, token by token" if not found else "DIFFER between arms"
    console.print(
        f"{count} texts ({total} tokens in {len(played.ways)} arms) {verdict}. {took_s:.0f} s in all."
    )


def _plain(settings: Settings) -> dict[str, Any]:
    values = asdict(replace(settings, json_file=None))
    del values["json_file"], values["plain"]
    for name in ("target", "drafter"):
        folder: Path = values[name]
        values[name] = str(folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder)
    return values
