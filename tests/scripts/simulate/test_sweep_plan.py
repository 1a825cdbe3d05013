from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.simulate import __main__ as simulate
from scripts.simulate.load import load
from scripts.simulate.outcome import simulate as run_scenario
from scripts.simulate.plan import Pool, pareto

TINY = str(Path(__file__).with_name("tiny.yaml"))
PNG = b"\x89PNG"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = simulate.main(arguments)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_sweep_runs_every_combination_on_the_same_seeds(capsys):
    vary = ("--vary", "fleets[0].count=[1, 3]", "--vary", "servers[0].policies.routing=[random, least-work]")
    code, out, err = run(capsys, "sweep", TINY, *vary, "--seeds", "2", "--seed", "5", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [list(one["set"].values()) for one in found] == [
        [1, "random"],
        [1, "least-work"],
        [3, "random"],
        [3, "least-work"],
    ]
    assert all([run["seed"] for run in one["runs"]] == [5, 6] for one in found)
    asked = {"fleets[0].count": 3, "servers[0].policies.routing": "random", "seed": 6}
    assert found[2]["runs"][1] == json.loads(json.dumps(run_scenario(load(TINY, asked))[1].document()))


def test_a_sweep_in_two_processes_is_the_same(capsys):
    arguments = ("sweep", TINY, "--vary", "fleets[0].count=[1, 2, 3]", "--duration-s", "2", "--json")
    assert run(capsys, *arguments) == run(capsys, *arguments, "--jobs", "2")


def test_a_sweep_as_a_table_and_as_a_report(capsys, tmp_path):
    vary = ("--vary", "fleets[0].count=[1, 3]", "--vary", "fleets[0].drafting.shape=[tree, chain]")
    code, out, _ = run(capsys, "sweep", TINY, *vary, "--duration-s", "2", "--out", str(tmp_path))
    assert code == 0
    for name in ("count", "shape", "tokens/s", "per M tokens", "J/token", "SLO", "chain"):
        assert name in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tiny: sweep" in page
    assert "fleets[0].count=[1, 3]" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "it is one file"
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)
    assert len(json.loads((tmp_path / "results.json").read_text())) == 4


def test_a_run_as_a_report(capsys, tmp_path):
    code, out, _ = run(capsys, "run", TINY, "--out", str(tmp_path))
    assert code == 0
    for name in ("per million tokens", "J/token", "TPOT <= 40 ms for 90.0% of all", "kept"):
        assert name in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "acceptance:" in page
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html",
        "results.json",
        "waiting.png",
        "flow.png",
        "busy.png",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what to vary"),
        (("--vary", "fleets[0].count=3"), "not KEY.PATH=[VALUE"),
        (("--vary", "fleets[0].count=[]"), "not KEY.PATH=[VALUE"),
        (
            ("--vary", "fleets[0].count=[1, -1]"),
            "fleets[0].count: -1 is not a whole number from 1 to 100,000",
        ),
        (("--vary", "fleets[0].cuont=[1]"), "did you mean count?"),
        (("--vary", "fleets[0].count=[1]", "--seeds", "0"), "--seeds"),
    ],
)
def test_a_wrong_sweep_is_told_before_anything_runs(capsys, arguments, words):
    code, out, err = run(capsys, "sweep", TINY, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


# ---- plan ----


def test_the_cheapest_pool_that_keeps_the_limits_is_found(capsys, tmp_path):
    """The least number of each kind: one fewer breaks a limit, and that was tried."""
    arguments = ("plan", TINY, "--set", "fleets[0].count=12", "--most", "8", "--out", str(tmp_path))
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    found = json.loads((tmp_path / "results.json").read_text())
    tried = {(one["kind"], one["count"]): one for one in found["tried"]}
    for kind in ("big", "small"):
        kept = [count for (name, count), one in tried.items() if name == kind and one["met"]]
        least = min(kept, default=9)
        assert least == 1 or not tried[kind, least - 1]["met"]
        assert not kept or max(kept) > least, "what more would buy is shown too"
    cheapest = min((one for one in tried.values() if one["met"]), key=lambda one: one["per_hour"])
    assert found["cheapest"] == cheapest["pool"]
    assert out.splitlines()[-1].startswith(f"cheapest: {cheapest['pool']}, ")
    missed = next(one for one in tried.values() if not one["met"])
    assert missed["missed"]["share"] < missed["missed"]["wanted"]
    assert (tmp_path / "frontier.png").read_bytes().startswith(PNG)


def test_a_plan_may_vary_more_than_the_number(capsys):
    vary = ("--vary", "servers[0].policies.sp_degree=[1, 2]", "--most", "2", "--duration-s", "2")
    one, two = (run(capsys, "plan", TINY, *vary, "--json", "--jobs", jobs) for jobs in ("1", "2"))
    assert one == two
    found = json.loads(one[1])
    assert {tuple(one["set"].values()) for one in found["tried"]} == {(1,), (2,)}
    assert all(one["count"] <= 2 for one in found["tried"])


def test_limits_that_no_pool_keeps(capsys):
    code, out, _ = run(
        capsys, "plan", TINY, "--set", "slo=[{tpot_ms: 0.1}]", "--most", "2", "--duration-s", "2"
    )
    assert code == 1
    assert (
        out.splitlines()[-1]
        == "no pool of up to 2 workers of one kind keeps the limits: give --most, or change slo"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("slo=[]", "slo: is missing"),
        ("servers[0].workers[small].price_per_hour=null", "servers[0].workers[1].price_per_hour: is missing"),
        (
            "servers[0].workers[0].schedule=[{at_s: 1, event: drain, workers: [1]}]",
            "servers[0].workers[0].schedule: plan varies how many there are",
        ),
    ],
)
def test_a_scenario_that_says_too_little_for_a_plan(capsys, change, words):
    code, out, err = run(capsys, "plan", TINY, "--set", change)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_the_frontier_is_what_nobody_beats_in_both():
    one = run_scenario(load(TINY, {"duration_s": 2}))[1]

    class Fixed(Pool):
        per_hour = property(lambda self: float(self.count))
        tpot_ms = property(lambda self: dict(self.values)["ms"])

    pools = [
        Fixed("k", count, (("ms", ms),), (one,))
        for count, ms in ((3, 5.0), (1, 9.0), (2, 9.5), (4, 5.0), (5, 1.0))
    ]
    assert [pool.count for pool in pareto(pools)] == [1, 3, 5]
