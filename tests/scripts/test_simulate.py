from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scripts.simulate import __main__ as simulate


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = simulate.main(arguments)
    out = capsys.readouterr()
    return code, out.out, out.err


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
