from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.simulate import __main__ as simulate
from scripts.simulate.load import digest, load
from scripts.simulate.outcome import simulate as simulate_scenario
from scripts.simulate.progress import share_bar

ROOT = Path(__file__).resolve().parents[3]
SCENARIOS = ROOT / "scenarios"
SHORT = {"thousand": 1.2, "capacity": 1.0}
"""Simulated seconds of those that have much to do in each; of the others 3."""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = simulate.main(["run", *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def started(*arguments: str, **more) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scripts.simulate", "run", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, **more)


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_run(capsys, path):
    seconds = str(SHORT.get(path.stem, 3.0))
    code, out, err = run(capsys, str(path), "--duration-s", seconds, "--set", "warm_up_s=0", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    total = found["figures"]["total"]
    assert (found["scenario"], total["failed"]) == (path.stem, 0)
    assert total["tokens"] > 20
    assert set(found["figures"]["groups"]) == {fleet.name for fleet in load(path).fleets}


def test_there_are_examples_enough():
    assert len(list(SCENARIOS.glob("*.yaml"))) >= 8
    assert all(path.read_text(encoding="utf-8").startswith("# ") for path in SCENARIOS.glob("**/*.yaml"))


def test_a_document_names_its_scenario_its_seed_and_its_trace(capsys):
    path = SCENARIOS / "laptop.yaml"
    few = (str(path), "--duration-s", "8", "--json")
    one = json.loads(run(capsys, *few)[1])
    assert list(one)[:5] == ["scenario", "scenario_hash", "seed", "trace_hash", "figures"]
    assert one["scenario_hash"] == digest(load(path, {"duration_s": 8}))
    assert (one["seed"], one["trace_hash"]) == (0, one["figures"]["trace_hash"])
    other = json.loads(run(capsys, *few, "--seed", "1")[1])
    assert other["scenario_hash"] == one["scenario_hash"]
    assert (other["seed"], other["trace_hash"] == one["trace_hash"]) == (1, False)


def test_any_process_with_any_hash_seed_prints_the_same(capsys):
    arguments = (str(SCENARIOS / "jetsons.yaml"), "--duration-s", "3", "--set", "warm_up_s=1", "--json")
    printed = []
    for seed in ("1", "4711"):
        with started(*arguments, env={**os.environ, "PYTHONHASHSEED": seed}) as child:
            printed.append(child.communicate(timeout=100)[0].decode())
        assert child.returncode == 0
    assert printed[0] == printed[1] == run(capsys, *arguments)[1]
    assert json.loads(printed[0])["figures"]["total"]["tokens"] > 100


def test_a_table_has_a_row_for_each_fleet_and_each_kind_of_worker(capsys):
    arguments = (str(SCENARIOS / "office.yaml"), "--duration-s", "3", "--set", "warm_up_s=0")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert "office: 3 s measured, seed 0" in out
    for name in ("writers", "readers", "all", "basement/gpu", "TTFT ms", "ITL ms"):
        assert name in out
    assert "trace " in out.splitlines()[-1]
    assert max(map(len, out.splitlines())) <= 160


def test_ctrl_c_ends_it_with_one_line_while_a_bar_is_drawn():
    ours, theirs = pty.openpty()
    with (
        started(str(SCENARIOS / "thousand.yaml"), stderr=theirs) as child,
        os.fdopen(ours, "rb", 0) as terminal,
    ):
        os.close(theirs)
        try:
            seen = b""
            while b"thousand" not in seen:  # the bar: it is running
                seen += (chunk := _read(terminal))
                assert chunk, seen
            child.send_signal(signal.SIGINT)
            printed, _ = child.communicate(timeout=100)
            rest = b""
            while chunk := _read(terminal):
                rest += chunk
        finally:
            child.kill()
    assert (child.returncode, printed) == (130, b"")
    assert rest.decode().splitlines()[-1].endswith("simulate: interrupted")
    assert "Traceback" not in rest.decode()


def _read(terminal) -> bytes:
    """What is there; Linux says that the other end is closed with an error."""
    try:
        return terminal.read(10_000)
    except OSError:
        return b""


def test_no_bar_is_drawn_where_nobody_looks(capsys):
    with share_bar("name") as progress:
        assert progress is None
    assert capsys.readouterr().err == ""


def test_progress_is_told_up_to_the_end():
    told: list[float] = []
    simulate_scenario(load(SCENARIOS / "laptop.yaml", {"duration_s": 12}), told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
