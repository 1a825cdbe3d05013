"""Each machine that is broken on purpose is caught; and what the fuzz finds can be handed on as a file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shared.sim.fuzz import make_world
from shared.sim.shrink import run
from tests.shared.sim.broken import BROKEN, WORLDS

ROOT = Path(__file__).resolve().parents[3]
PROMISED = (
    *("settle order", "dropped correction", "stale parent kept", "wrong noise position", "lost commit"),
    *("double commit", "a token past the stop", "leak on reconnect", "wrong parent offset"),
    *("dead node answered", "run-ahead ignored", "patience never ends", "facts of another session"),
)


def test_the_list_has_what_was_promised():
    assert len(PROMISED) >= 12
    assert set(PROMISED) <= set(BROKEN)


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_caught(name: str, monkeypatch: pytest.MonkeyPatch):
    broken = BROKEN[name]
    if broken.check is not None:
        broken.check()
    broken.mutant(monkeypatch)
    if broken.check is not None:
        with pytest.raises(AssertionError):
            broken.check()
        return
    trouble = next(filter(None, (run(make_world(seed)) for seed in range(WORLDS))), None)
    assert trouble is not None
    assert trouble.error not in ("TypeError", "AttributeError"), "the mutant does not fit the code any more"


def call(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_found_is_made_small_written_down_and_replayed_by_the_printed_command(tmp_path: Path):
    """In processes of their own, as a user would: the machine broken, and the same machine mended."""
    found = call(tmp_path, "tests.shared.sim.broken", "settle order", "fuzz", "--worlds", "100")
    assert found.returncode == 1, found.stderr
    small = re.search(
        r"^made smaller in \d+ tries, 1 of \d+ edges, .*: (LawBroken: .*)$", found.stdout, re.MULTILINE
    )
    command = re.search(r"^replay: python -m scripts\.simulate (.*)$", found.stdout, re.MULTILINE)
    assert small is not None
    assert command is not None
    arguments = shlex.split(command[1])
    assert (tmp_path / arguments[-1]).is_file()
    again = call(tmp_path, "tests.shared.sim.broken", "settle order", *arguments)
    assert again.returncode == 1
    assert f"fails as it did: {small[1]}" in again.stdout
    assert _events(again.stdout) == _events(found.stdout)
    mended = call(tmp_path, "scripts.simulate", *arguments)
    assert mended.returncode == 0
    assert "does not fail: " in mended.stdout


def _events(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r" +\d+\.\d+ ms  ", line)]
