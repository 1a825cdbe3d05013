"""The latency benchmark, run: small, with real processes, once to its end and once into an interruption."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from scripts.bench_latency.figures import differences, figures
from scripts.bench_latency.records import CellEnd, Run, from_line, read, to_line
from scripts.processes import ROOT
from scripts.wan.link import Enforcer, choose_enforcer
from scripts.wan.namespace import DEVICE

PAIR = "profiled:acceptance=0.8,step_ms=2,draft_ms=0.5"
DEADLINE_S = 90.0


def command(*arguments):
    return [sys.executable, "-m", "scripts.bench_latency", *map(str, arguments)]


def measured(out, *arguments):
    return subprocess.run(
        command("--pair", PAIR, "--out", out, *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small run, by proxy, and what it printed."""
    out = tmp_path_factory.mktemp("latency")
    arguments = ("--rtt", 5, "--prompts", 2, "--tokens", 24, "--enforcer", "proxy")
    done = measured(out, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return out, done.stdout


def test_every_arm_is_measured_and_writes_the_same(finished):
    out, printed = finished
    results = read(out / "runs.jsonl")
    assert results.state == ""
    assert differences(results) == []
    (cell,) = figures(results)
    assert [arm.arm.key for arm in cell.arms] == ["cloud", "sync", "colocated", "slipstream", "chain"]
    for arm in cell.arms:
        assert arm.units == 2
        assert arm.tokens == 48
        assert arm.tpot_ms.value > 0.0
        assert arm.predicted_ms > 0.0
        assert arm.facts_per_token > 0.0
        assert (arm.link_up is None) == (arm.arm.key == "colocated")
    assert cell.arm("cloud").tpot_ms.value >= 2.0
    assert cell.arm("sync").lookahead in {n for one in cell.facts.lookaheads for n in one.live_ms}
    assert cell.facts.overheads.rtt_ms >= 5.0
    assert "it cannot show" in printed


def test_arms_take_turns(finished):
    out, _ = finished
    results = read(out / "runs.jsonl")
    order = [(run.prompt, run.arm) for run in results.runs]
    keys = [arm.key for arm in results.header.plan.cells[0].arms]
    assert order == [(0, key) for key in keys] + [(1, key) for key in [*keys[1:], keys[0]]]


def test_report_and_plots_are_there(finished):
    out, _ = finished
    names = {path.name for path in out.iterdir()}
    assert names == {"runs.jsonl", "report.html", "itl.png", "timeline.png"}


def test_results_name_no_place_and_no_host(finished):
    out, _ = finished
    page = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", (out / "report.html").read_text())
    written = (out / "runs.jsonl").read_text() + page
    for name in (str(ROOT), os.uname().nodename, "127.0.0.1", str(out.parent)):
        assert not re.search(rf"\b{re.escape(name)}\b", written)


def test_one_run_is_pictured(finished):
    out, _ = finished
    (pictured,) = [run for run in read(out / "runs.jsonl").runs if run.picture is not None]
    picture = pictured.picture
    assert sum(tokens for _, tokens, *_ in picture.commits) >= 24
    assert all(begin < end for begin, end, _ in picture.forwards)
    assert sum(nodes for _, nodes in picture.sent) == pictured.stats.sent
    assert all(verify >= 2.0 for _, _, _, verify, _ in picture.commits)


def test_a_text_that_differs_fails(finished, tmp_path):
    out, _ = finished
    records = [from_line(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    path = tmp_path / "runs.jsonl"
    lines = []
    for record in records:
        line = json.loads(to_line(record))
        if isinstance(record, Run) and (record.arm, record.prompt) == ("chain", 1):
            line["tokens"][3] += 1
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        command("report", path), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 1
    assert "prompt 1, seed 0: chain differs from the reference at token 3" in done.stdout
    assert "FAILED: texts differ" in (tmp_path / "report.html").read_text()


def test_results_are_not_written_over(finished):
    out, _ = finished
    done = measured(out)
    assert done.returncode == 2
    assert "it holds results already" in done.stderr


@pytest.mark.parametrize("enforcer", [Enforcer.PROXY, None])
def test_an_interruption_leaves_a_report_and_nothing_else(tmp_path, enforcer):
    if enforcer is None and choose_enforcer(None).enforcer is Enforcer.PROXY:
        pytest.skip("this machine allows nothing better than the proxy, which has its own turn")
    options = ("--enforcer", enforcer.value) if enforcer is not None else ()
    size = ("--rtt", 5, "--rtt", 6, "--prompts", 50, "--tokens", 60, "--arm", "slipstream")
    arguments = ("--pair", PAIR, *size, "--out", tmp_path, *options)
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    family = psutil.Process(process.pid)
    try:
        wait_for_runs(tmp_path / "runs.jsonl", 3, process)
        children = family.children(recursive=True)
        assert children
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, printed
    _, alive = psutil.wait_procs(children, timeout=5.0)
    assert alive == []
    # A namespace ends with the last process in it, and its devices with it; none was made in this one.
    assert DEVICE not in psutil.net_if_addrs()
    results = read(tmp_path / "runs.jsonl")
    done = len(results.runs)
    assert results.state == f"interrupted after {done} of 200 runs"
    assert results.state in printed
    assert results.state in (tmp_path / "report.html").read_text()
    assert results.predicted == ()


def test_side_by_side(tmp_path):
    arguments = ("--rtt", 0, "--rtt", 5, "--prompts", 1, "--tokens", 12, "--arm", "slipstream", "--jobs", 2)
    done = measured(tmp_path, *arguments, "--enforcer", "proxy")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "2 cells run side by side" in done.stdout
    results = read(tmp_path / "runs.jsonl")
    assert len(results.runs) == 4
    assert {one.neighbours for one in results.cell_ends} == {None}
    assert all(isinstance(one, CellEnd) for one in results.cell_ends)


def test_a_deployed_server_without_emulation(tmp_path):
    from scripts.processes import child, python  # noqa: PLC0415

    with child(
        "server", python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", PAIR)
    ) as server:
        arguments = (
            "--server",
            server.address,
            "--no-emulation",
            "--prompts",
            1,
            "--tokens",
            12,
            "--arm",
            "chain",
        )
        done = measured(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    results = read(tmp_path / "runs.jsonl")
    assert {run.arm for run in results.runs} == {"cloud", "chain"}
    assert results.facts[0].enforcer == "none"
    assert all(run.link_bytes_up is None for run in results.runs)
    assert server.address not in (tmp_path / "runs.jsonl").read_text()


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    done = measured(tmp_path, "--server", "127.0.0.1:9", "--no-emulation")
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def wait_for_runs(path, count, process):
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            if path.read_text().count('"kind": "Run"') >= count:
                return
        time.sleep(0.05)
    raise AssertionError(f"not {count} runs within {DEADLINE_S} s")
