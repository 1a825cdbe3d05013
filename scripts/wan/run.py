"""Run one command at the edge's end of a link."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from scripts import processes
from scripts.wan.addresses import parse_address
from scripts.wan.choose import Choice, Enforcer
from scripts.wan.link import emulated_link
from scripts.wan.profiles import WanProfile
from shared.errors import UserError

PLACEHOLDER: Final = "{server}"


def run_over(
    profile: WanProfile, server: str, command: Sequence[str], enforcer: Enforcer | None, seed: int
) -> int:
    """The command's exit code; 128 and the signal's number if one ended it. Speaks on standard error alone.

    Raises:
        UserError: there is no such program, nothing in the command dials the link, or the enforcer is not to be had.
    """
    parse_address(server, "--server")
    if not any(PLACEHOLDER in word for word in command):
        raise UserError(
            f"no word of the command contains {PLACEHOLDER}: put it where the address to dial belongs"
        )
    if shutil.which(command[0]) is None:
        raise UserError(f"there is no program {command[0]}")
    with emulated_link(profile, enforcer, seed) as link:
        print(describe(link.choice), file=sys.stderr)
        address = link.edge_address(server)
        words = link.edge_command([word.replace(PLACEHOLDER, address) for word in command])
        # As scripts.processes ties its children: the kernel kills the command if this process dies without a word.
        tie = (
            [sys.executable, "-I", "-S", processes.__file__, str(os.getpid())]
            if sys.platform == "linux"
            else []
        )
        with _forwarding(subprocess.Popen([*tie, *words])) as process:
            code = process.wait()
    return code if code >= 0 else 128 - code


def describe(choice: Choice) -> str:
    """What a person should know about the link before trusting a figure, in a line or three."""
    lines = [f"wan: the link is enforced by {choice.enforcer}"]
    if choice.reason:
        lines.append(f"wan: {choice.reason}")
    if choice.cannot_show:
        lines.append(f"wan: it cannot show {choice.cannot_show}")
    return "\n".join(lines)


@contextlib.contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Signals are the command's business: Ctrl-C reaches it from the terminal, a request to end from here."""

    def forward(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    def leave(number: int, _: FrameType | None) -> None:
        pass

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, leave),
        signal.SIGTERM: signal.signal(signal.SIGTERM, forward),
    }
    try:
        with process:
            yield process
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
