"""`simulate fuzz`: what it prints, what it writes, and what becomes of its processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.simulate import __main__ as simulate
from scripts.simulate.fuzz_file import Case, read_case, write_case
from shared.session.cloud import CloudSession
from shared.sim import fuzz as worlds_of
from shared.sim.cuts import NO_CUTS, Cuts
from shared.sim.fuzz import make_world, run_world
from shared.sim.shrink import Trouble
from shared.sim.world import World

ROOT = Path(__file__).resolve().parents[3]
TROUBLE = Trouble("LawBroken", "fleet_laws.check_progress", 32, "facts are in flight nowhere")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing worlds are written to the current folder."""
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = simulate.main(arguments)
    out = capsys.readouterr()
    return code, out.out, out.err


def forget_failed_steps(patch: pytest.MonkeyPatch) -> None:
    """World 9 is the first to notice."""
    patch.setattr(CloudSession, "give_back", lambda cloud, keys: None)


# ---- many worlds ----


def test_a_sweep_tells_what_it_did(capsys):
    code, out, _ = run(capsys, "fuzz", "--worlds", "30", "--first", "60")
    reports = [run_world(seed) for seed in range(60, 90)]
    assert code == 0
    assert out.startswith(f"30 worlds from seed 60: {sum(one.tokens for one in reports)} tokens, ")
    assert f"{sum(one.events for one in reports)} events, " in out
    assert f"{sum(one.reconnects for one in reports)} reconnects, trace " in out
    assert re.search(r"\d+\.\d worlds/s, \d+ events/s", out)
    assert list(Path().iterdir()) == []


def test_more_processes_find_the_same(capsys):
    one, two = (run(capsys, "fuzz", "--worlds", "55", "--jobs", jobs)[1] for jobs in ("1", "2"))
    assert one.split("trace ")[1] == two.split("trace ")[1]


# ---- one world ----


def test_one_world_is_run_twice(capsys):
    code, out, _ = run(capsys, "fuzz", "--seed", "5")
    assert code == 0
    assert out.startswith(f"world 5, twice alike: {run_world(5).tokens} tokens")
    assert out.strip().endswith(run_world(5).trace_hash)


def test_two_runs_that_differ_are_a_failure(capsys, monkeypatch):
    made = []

    def make(seed: int) -> World:
        made.append(seed)
        return make_world(seed + len(made) - 1)

    monkeypatch.setattr(worlds_of, "make_world", make)
    code, out, _ = run(capsys, "fuzz", "--seed", "5")
    assert code == 1
    assert "world 5 failed: two runs of one seed differ at event" in out


# ---- a failure ----


def test_a_failure_is_made_small_written_down_and_told_with_the_command_that_replays_it(capsys, monkeypatch):
    forget_failed_steps(monkeypatch)
    code, out, _ = run(capsys, "fuzz", "--worlds", "200")
    assert code == 1
    assert re.match(r"the last \d+ events:\n +\d+\.\d+ ms  ", out)
    told = r"world (\d+) failed: LawBroken: .*\nmade smaller in \d+ tries, 1 of .*\nwritten to (.*)\nreplay: (.*)\n$"
    match = re.search(told, out)
    assert match is not None
    assert match[2] == f"fuzz-{match[1]}.json"
    assert match[3] == f"python -m scripts.simulate fuzz --replay {match[2]}"
    case = read_case(Path(match[2]))
    assert case.seed == int(match[1])
    assert case.cuts != NO_CUTS


def test_one_seed_that_fails_is_treated_alike(capsys, monkeypatch):
    forget_failed_steps(monkeypatch)
    outs = [run(capsys, "fuzz", *more)[1] for more in (("--worlds", "20"), ("--seed", "9"))]
    assert outs[0] == outs[1]


def test_a_failure_may_be_left_as_it_is(capsys, monkeypatch):
    forget_failed_steps(monkeypatch)
    code, out, _ = run(capsys, "fuzz", "--seed", "9", "--no-shrink", "--save", "whole.json")
    assert code == 1
    assert "made smaller" not in out
    assert out.endswith(
        "written to whole.json\nreplay: python -m scripts.simulate fuzz --replay whole.json\n"
    )
    assert read_case(Path("whole.json")).cuts == NO_CUTS


def test_a_folder_takes_files_named_after_seeds(capsys, monkeypatch):
    forget_failed_steps(monkeypatch)
    Path("a b").mkdir()
    _, out, _ = run(capsys, "fuzz", "--seed", "9", "--no-shrink", "--save", "a b")
    assert (Path("a b") / "fuzz-9.json").is_file()
    assert out.endswith("--replay 'a b/fuzz-9.json'\n")


def test_a_failure_that_cannot_be_written_is_told_all_the_same(capsys, monkeypatch):
    forget_failed_steps(monkeypatch)
    code, out, _ = run(capsys, "fuzz", "--seed", "9", "--no-shrink", "--save", "nowhere/x.json")
    assert code == 1
    assert "not written to nowhere/x.json: No such file or directory" in out
    assert out.endswith("replay: python -m scripts.simulate fuzz --seed 9\n")


# ---- a file ----


def test_a_replay_tells_whether_it_is_the_same_trouble(capsys, monkeypatch):
    write_case(Case(9, NO_CUTS, TROUBLE), Path("same.json"))
    write_case(Case(9, NO_CUTS, Trouble("ValueError", "edge.start", 1, "no")), Path("other.json"))
    code, out, _ = run(capsys, "fuzz", "--replay", "same.json")
    assert code == 0
    assert f"does not fail: {run_world(9).tokens} tokens" in out
    assert "it once did: LawBroken: facts are in flight nowhere" in out
    forget_failed_steps(monkeypatch)
    code, out, _ = run(capsys, "fuzz", "--replay", "same.json")
    assert code == 1
    assert "fails as it did: LawBroken: facts [" in out
    code, out, _ = run(capsys, "fuzz", "--replay", "other.json")
    assert code == 1
    assert "fails otherwise: LawBroken" in out
    assert "it once failed: ValueError: no" in out


def test_what_is_written_is_read():
    cuts = Cuts(off=("jitter", "delays"), edges=(0, 2), workers=(1,), outages=(0,), tokens=3)
    write_case(Case(17, cuts, TROUBLE), Path("case.json"))
    assert read_case(Path("case.json")) == Case(17, cuts, TROUBLE)


def _changed(**changes: object) -> str:
    write_case(Case(3, NO_CUTS, TROUBLE), Path("case.json"))
    return json.dumps({**json.loads(Path("case.json").read_text()), **changes})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lambda: "hello", "bad.json is not a world: not JSON"),
        (lambda: "[]", "its format is None, not 'slipstream-fuzz 1'"),
        (lambda: _changed(format="slipstream-fuzz 2"), "its format is 'slipstream-fuzz 2'"),
        (lambda: _changed(seed=-1), "-1 is not a number from 0"),
        (lambda: _changed(cuts={"off": ["gravity"]}), "'gravity' is not one of several servers, "),
        (lambda: _changed(cuts={"edges": ["x"]}), "'x' is not a number from 0"),
        (lambda: _changed(cuts={"tokens": 1.5}), "1.5 is not a number from 0"),
        (lambda: _changed(cuts={"wings": 2}), "unexpected keyword argument 'wings'"),
        (lambda: _changed(trouble={}), "is not a world: "),
        (lambda: _changed(seed=4), "seed 4 is another world in this version than where it failed"),
    ],
)
def test_a_file_that_is_no_world_is_one_clear_line(capsys, text: Callable[[], str], says: str):
    Path("bad.json").write_text(text())
    code, out, err = run(capsys, "fuzz", "--replay", "bad.json")
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_a_file_that_is_not_there_is_one_clear_line(capsys):
    assert run(capsys, "fuzz", "--replay", "none.json")[2] == (
        "simulate: none.json cannot be read (No such file or directory)\n"
    )
    assert run(capsys, "fuzz", "--replay", "none.json", "--seed", "1")[2] == (
        "simulate: --replay and --seed: one of them\n"
    )


# ---- processes ----


@pytest.fixture
def fuzzing() -> Iterator[subprocess.Popen[str]]:
    """A fuzz in two processes that would take hours."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.simulate", "fuzz", "--worlds", "1000000", "--jobs", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def children(parent: int) -> set[int]:
    """Numbers of the processes whose parent is the given one."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent and fields[0] != "Z":
                found.add(int(entry.name))
    return found


def until(holds: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def at_work(process: subprocess.Popen[str]) -> set[int]:
    """Its processes, when two of them are on their way: multiprocessing has one of its own beside them."""

    def busy(number: int) -> bool:
        times = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) > 0.5 * os.sysconf("SC_CLK_TCK")

    until(lambda: sum(map(busy, children(process.pid))) >= 2, "its processes never began")
    return children(process.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_a_parent_that_is_killed(fuzzing: subprocess.Popen[str], number: signal.Signals):
    working = at_work(fuzzing)
    os.kill(fuzzing.pid, number)
    fuzzing.wait(30)
    until(lambda: all(map(gone, working)), "a process outlived its parent", 10)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_everything_at_once(fuzzing: subprocess.Popen[str]):
    working = at_work(fuzzing)
    os.killpg(fuzzing.pid, signal.SIGINT)
    out, err = fuzzing.communicate(timeout=20)
    assert fuzzing.returncode == 130
    assert out == ""
    assert err in ("", "simulate: interrupted\n")  # neither a traceback of ours nor one of a process of ours
    until(lambda: all(map(gone, working)), "a process outlived its parent", 10)
