from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from scripts.simulate import __main__ as simulate
from shared.session.cloud import CloudSession
from shared.sim import fuzz as worlds_of
from shared.sim.fuzz import make_world, run_world
from shared.sim.world import World


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = simulate.main(arguments)
    out = capsys.readouterr()
    return code, out.out, out.err


# ---- fuzz ----


def test_a_sweep_tells_what_it_did(capsys):
    code, out, _ = run(capsys, "fuzz", "--worlds", "30", "--first", "60")
    reports = [run_world(seed) for seed in range(60, 90)]
    assert code == 0
    assert out.startswith(f"30 worlds from seed 60: {sum(one.tokens for one in reports)} tokens, ")
    assert f"{sum(one.events for one in reports)} events, " in out
    assert f"{sum(one.reconnects for one in reports)} reconnects, trace " in out
    assert re.search(r"\d+ events/s", out)


def test_more_processes_find_the_same(capsys):
    one, two = (run(capsys, "fuzz", "--worlds", "70", "--jobs", jobs)[1] for jobs in ("1", "2"))
    assert one.split("trace ")[1] == two.split("trace ")[1]


def test_one_world_is_run_twice(capsys):
    code, out, _ = run(capsys, "fuzz", "--seed", "5")
    assert code == 0
    assert out.startswith(f"world 5, twice alike: {run_world(5).tokens} tokens")
    assert out.strip().endswith(run_world(5).trace_hash)


def test_a_failure_names_its_seed_and_the_command_that_replays_it(capsys, monkeypatch):
    monkeypatch.setattr(CloudSession, "give_back", lambda cloud, keys: None)
    code, out, _ = run(capsys, "fuzz", "--worlds", "200")
    assert code == 1
    match = re.search(
        r"world (\d+) failed: LawBroken: .*\nreplay: python -m scripts.simulate fuzz --seed (\d+)\n$", out
    )
    assert match is not None
    assert match[1] == match[2]
    code, out, _ = run(capsys, "fuzz", "--seed", match[1])
    assert code == 1
    assert re.match(r"the last \d+ events:\n +\d+\.\d+ ms  ", out)
    assert f"world {match[1]} failed: LawBroken" in out


def test_two_runs_that_differ_are_a_failure(capsys, monkeypatch):
    made = []

    def make(seed: int) -> World:
        made.append(seed)
        return make_world(seed + len(made) - 1)

    monkeypatch.setattr(worlds_of, "make_world", make)
    code, out, _ = run(capsys, "fuzz", "--seed", "5")
    assert code == 1
    assert "world 5 failed: two runs of one seed differ at event" in out


# ---- predict ----


def test_a_prediction_as_a_table(capsys):
    code, out, _ = run(
        capsys,
        "predict",
        "--rtt-ms",
        "0",
        "--rtt-ms",
        "50",
        "--arm",
        "cloud",
        "--arm",
        "chain",
        "--tokens",
        "60",
    )
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [line[:4] for line in lines[1:4:2]] == [
        ["0", "cloud", "30.0", "30.00"],
        ["50", "cloud", "80.0", "30.00"],
    ]
    assert [line[1] for line in lines[1:]] == ["cloud", "chain", "cloud", "chain"]


def test_a_prediction_as_json(capsys):
    code, out, _ = run(capsys, "predict", "--json", "--rtt-ms", "20", "--tokens", "60", "--acceptance", "0.9")
    found = {one["arm"]: one for one in json.loads(out)}
    assert code == 0
    assert set(found) == {"cloud", "sync", "chain", "tree"}
    assert found["cloud"]["tpot_ms"] == 30.0
    assert found["tree"]["tpot_ms"] < 30.0
    assert found["sync"]["pair"] == {"acceptance": 0.9, "step_ms": 30.0, "draft_ms": 3.0, "seed": 0}


def test_the_synchronous_arm_is_shown_with_its_best_block(capsys):
    def tpot(*more: str) -> tuple[int, float]:
        out = run(capsys, "predict", "--json", "--arm", "sync", "--rtt-ms", "40", "--tokens", "100", *more)[1]
        (one,) = json.loads(out)
        return one["lookahead"], one["tpot_ms"]

    block, best = tpot()
    assert tpot("--lookahead", str(block)) == (block, best)
    assert all(tpot("--lookahead", str(other))[1] >= best for other in (1, 3, 12))


# ---- bad values ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fuzz", "--worlds", "0"), "--worlds 0: at least 1"),
        (("fuzz", "--first", "-1"), "--first -1: at least 0"),
        (("fuzz", "--jobs", "0"), "--jobs 0: at least 1"),
        (("fuzz", "--seed", "-3"), "--seed -3: at least 0"),
        (("fuzz", "--seed", "x"), "'--seed'"),
        (("predict", "--acceptance", "1.5"), "acceptance 1.5 is outside 0..1"),
        (("predict", "--step-ms", "-1"), "step_ms -1.0 is not a finite number from 0"),
        (("predict", "--rtt-ms", "-1"), "--rtt-ms -1.0: from 0"),
        (("predict", "--rtt-ms", "nan"), "--rtt-ms nan: from 0"),
        (("predict", "--tokens", "1"), "--tokens 1: from 2"),
        (("predict", "--window", "0"), "--window 0: from 1"),
        (("predict", "--lookahead", "0"), "--lookahead 0: from 1"),
        (("predict", "--arm", "both"), "'both' is not one of"),
        (("guess",), "No such command 'guess'"),
    ],
)
def test_a_bad_value_is_one_clear_line(capsys, arguments: tuple[str, ...], says: str):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_the_command_itself():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.simulate", "fuzz", "--worlds", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("2 worlds from seed 0: ")
