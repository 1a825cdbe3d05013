"""The accounting of closed-loop clients, and a tiny run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from typer.testing import CliRunner

from scripts.bench_capacity import __main__ as command_line
from scripts.bench_capacity.accounting import Arrival, Window, Written, within
from scripts.bench_capacity.colocated import best_lookahead, colocated, policies, tokens_per_s
from scripts.bench_capacity.figures import aims, cells, served_within
from scripts.bench_capacity.plan import rows
from scripts.bench_capacity.records import Header, Measured, Predicted, Simulated, read, to_line
from scripts.bench_capacity.run import rate, wrong_texts
from scripts.bench_capacity.setting import BATCHING, Arm, Batching, Setting, stretch_for
from scripts.bench_capacity.simulate import predicted
from scripts.bench_capacity.wire import Served
from scripts.bench_latency.prompts import PROMPT_TOKENS
from scripts.bench_latency.statistic import Interval
from scripts.processes import ROOT
from shared.errors import UserError
from shared.hardware import StepLoad
from shared.policy.lookup import LookupCounts
from shared.profiled import ProfiledPair, decode
from shared.sim.predict import random_prompt

DEADLINE_S = 240.0
SETTING = Setting(clients=4, rtt_ms=14.0, draft_ms=3.0, tokens=64, stretch=1.0)


def arrival(at_ms, tokens=1, facts=1):
    return Arrival(at_ms, tokens, facts, accepted=tokens - 1, judged=tokens)


# ---- what a window says ----


def test_only_what_arrives_in_the_window_counts():
    one = Written(0, 0.0, (arrival(90.0), arrival(100.0, 2, 5), arrival(150.0, 3, 7), arrival(200.0, 4, 9)))
    found = within([one], 100.0, 200.0)
    assert (found.tokens, found.facts, found.accepted, found.judged) == (5, 12, 3, 5)
    assert found.itl_ms == (10.0, 0.0, 50.0, 0.0, 0.0)  # the first gap counts from before the window
    assert found.ttft_ms == ()


def test_a_gap_never_spans_two_generations():
    found = within(
        [Written(0, 0.0, (arrival(10.0), arrival(40.0))), Written(0, 41.0, (arrival(95.0), arrival(99.0)))],
        0.0,
        100.0,
    )
    assert found.itl_ms == (30.0, 4.0)
    assert found.ttft_ms == (10.0, 54.0)


def test_slices_add_up_and_a_rate_is_unstretched():
    found = within([Written(0, 0.0, tuple(arrival(at * 10.0) for at in range(100)))], 0.0, 800.0)
    assert found.slices == (10,) * 8
    assert rate(found, 1.0).value == pytest.approx(100.0)
    assert rate(found, 4.0).value == pytest.approx(400.0)
    assert rate(found, 4.0).low == pytest.approx(400.0)


# ---- the co-located baseline ----


def test_drafting_takes_the_verifiers_time():
    pair = SETTING.pair
    free = colocated(pair, 4, Batching.FREE)
    assert free.duration_ms(StepLoad(20, 4, 0.0)) == 4 * 3.0 + 30.0
    assert free.duration_ms(StepLoad(80, 16, 0.0)) == pytest.approx(12.0 + 30.0 + 16 * 30.0 / 64)


def test_a_paid_batch_costs_by_the_law_of_an_edges_branches():
    pair = SETTING.pair
    paid = colocated(pair, 4, Batching.PAID)
    assert paid.duration_ms(StepLoad(20, 4, 0.0)) == pytest.approx(4 * pair.forward_ms(4) + 30.0)
    alone = StepLoad(5, 1, 0.0)
    assert paid.duration_ms(alone) == colocated(pair, 4, Batching.FREE).duration_ms(alone)


def test_the_best_block_is_shorter_where_the_verifier_is_full_and_the_drafter_slow():
    pair = SETTING.pair
    assert best_lookahead(pair, 1, Batching.FREE) == best_lookahead(pair, 1, Batching.PAID) == 6
    assert best_lookahead(pair, 16, Batching.FREE) == 3
    assert best_lookahead(pair, 64, Batching.FREE) == 1
    assert best_lookahead(replace(pair, draft_ms=12.0), 1, Batching.FREE) < 4
    slow = replace(pair, draft_ms=6.0)
    assert best_lookahead(slow, 12, Batching.PAID) < best_lookahead(slow, 12, Batching.FREE)


@pytest.mark.parametrize("clients", [1, 8])
@pytest.mark.parametrize("arm", BATCHING)
def test_the_simulated_baseline_is_as_fast_as_its_formula(clients, arm):
    setting = replace(SETTING, clients=clients, rtt_ms=0.0, tokens=400)
    lookahead = best_lookahead(setting.pair, clients, BATCHING[arm])
    formula = tokens_per_s(setting.pair, lookahead, clients, BATCHING[arm])
    assert predicted(setting, arm, lookahead).tokens_per_s == pytest.approx(formula, rel=0.06)


def test_the_drafter_takes_the_place_of_prompt_lookup():
    guesses = policies(SETTING.pair, 3).guesses(LookupCounts()).guess([1, 2, 3], 3)
    pair = ProfiledPair(SETTING.pair)
    state = pair.state([1, 2, 3])
    assert len(guesses) == 3
    assert guesses[0].token == pair.candidates(state, 1)[0].token


# ---- stretching ----


def test_time_is_stretched_where_two_cores_would_measure_themselves():
    assert stretch_for(1, 3.0) == 1.0
    assert stretch_for(16, 3.0) == 8.0
    assert stretch_for(16, 12.0) < stretch_for(16, 3.0)
    assert stretch_for(32, 100.0) == 4.0


def test_everything_is_stretched_alike():
    stretched = replace(SETTING, stretch=4.0)
    assert stretched.stretched.rtt_ms == 56.0
    assert stretched.stretched.draft_ms == 12.0
    for part in ("step_ms=120", "draft_ms=12", "node_ms=1.875", "flat_nodes=64", "acceptance=0.8"):
        assert part in stretched.source.replace(":", ",").split(",")


# ---- the figures ----


def simulated(arm, rate_per_s, *, clients=4, p95=30.0):
    return Simulated(
        replace(SETTING, clients=clients), arm, None, Predicted(tokens_per_s=rate_per_s, itl_p95_ms=p95)
    )


def measured(arm, rate_per_s, *, clients=4, draft_ms=3.0, p95=30.0, wrong=0):
    setting = replace(SETTING, clients=clients, draft_ms=draft_ms)
    return Measured(
        setting,
        arm,
        3 if arm in BATCHING else None,
        window_s=3.0,
        tokens=1000,
        tokens_per_s=Interval(rate_per_s, None, None),
        itl_p50_ms=1.0,
        itl_p95_ms=p95,
        itl_p99_ms=p95,
        ttft_p50_ms=None,
        facts_per_token=1.0,
        acceptance=None,
        generations=3,
        wrong=wrong,
        clients_cpu=0.1,
        server_cpu=0.1,
        busy=0.1,
        neighbours=0.0,
        predicted=None,
    )


def cell(cloud, free, paid, slipstream, clients=4):
    return [
        measured(arm, rate_per_s, clients=clients)
        for arm, rate_per_s in zip(Arm, (cloud, free, paid, slipstream), strict=True)
    ]


def verdicts(found):
    return [aim.met for aim in aims(cells(found))]


def test_what_must_hold():
    assert verdicts([*cell(100, 200, 190, 211), *cell(100, 200, 190, 200, clients=32)]) == [True] * 6
    assert verdicts(cell(100, 200, 190, 209)) == [True, False, None, True, None, True]
    assert verdicts(cell(100, 200, 190, 195, clients=32)) == [True, None, False, None, True, True]
    assert verdicts(cell(100, 50, 40, 90)) == [True, True, None, True, None, False]
    assert verdicts([measured(Arm.SLIPSTREAM, 100, wrong=1)])[0] is False
    assert verdicts([]) == [None] * 6


def test_the_cloud_alone_is_shared_by_all_drafters():
    found = cells([*cell(100, 200, 150, 300), measured(Arm.SLIPSTREAM, 150, draft_ms=12.0)])
    assert [one.over(Arm.CLOUD) for one in found] == [3.0, 1.5]
    assert [found[0].over(arm) for arm in BATCHING] == [1.5, 2.0]
    assert found[1].over(Arm.COLOCATED) is None


def test_a_batch_of_one_is_measured_once():
    (one,) = cells([measured(Arm.COLOCATED, 50, clients=1), measured(Arm.SLIPSTREAM, 100, clients=1)])
    assert one.over(Arm.COLOCATED_PAID) == one.over(Arm.COLOCATED) == 2.0
    planned = rows([replace(SETTING, clients=count, draft_ms=ms) for count in (1, 4) for ms in (3.0, 12.0)])
    assert [row.arm for row in planned if row.setting.clients == 1].count(Arm.COLOCATED_PAID) == 0
    assert [row.arm for row in planned if row.setting.clients == 4].count(Arm.COLOCATED_PAID) == 2
    assert [row.arm for row in planned].count(Arm.CLOUD) == 2


def test_a_simulated_row_is_compared_like_a_measured_one():
    (one,) = cells([simulated(Arm.COLOCATED_PAID, 50), simulated(Arm.SLIPSTREAM, 100)])
    assert one.over(Arm.COLOCATED_PAID) == 2.0


def test_served_within_a_limit_counts_up_to_the_first_that_is_too_slow():
    found = [
        measured(Arm.SLIPSTREAM, 10.0 * clients, clients=clients, p95=p95)
        for clients, p95 in ((1, 30.0), (4, 31.0), (16, 45.0), (64, 31.0))
    ]
    (slipstream,) = served_within(found)
    assert [(one.clients, one.tokens_per_s) for one in slipstream.most] == [(4, 40.0), (4, 40.0), (64, 640.0)]


def test_within_a_limit_a_shorter_block_is_reckoned_with():
    """Six drafts and a step take 48 ms; three take 39."""
    run, computed = served_within([measured(Arm.COLOCATED, 78.0, clients=1, p95=48.0)])[:2]
    assert [one and one.clients for one in run.most] == [None, None, 1]
    assert [one and one.lookahead for one in computed.most] == [None, 3, 6]
    assert computed.most[1].tokens_per_s == pytest.approx(1000 * (1 + 0.8 + 0.64 + 0.512) / 39)


def test_texts_are_held_to_what_the_target_alone_writes():
    pair = ProfiledPair(SETTING.pair)
    right = tuple(decode(pair, random_prompt(5, PROMPT_TOKENS, 32_000), 6))
    window = Window(1.0, 0, (), (), (), 0, 0, 0)
    assert wrong_texts(SETTING, Served(window, 1, ((5, right), (5, right[:3])), 0.0)) == 0
    assert wrong_texts(SETTING, Served(window, 1, ((5, right), (6, right)), 0.0)) == 1


def test_a_file_is_read_back_and_another_refused(tmp_path):
    path = tmp_path / "runs.jsonl"
    one = measured(Arm.COLOCATED, 100.0)
    other = simulated(Arm.SLIPSTREAM, 90.0)
    lines = [to_line(record) for record in (Header("", {}, ""), one, other)]
    path.write_text("\n".join(lines) + "\n" + '{"kind": "Meas')
    _, found = read(path)
    assert list(found) == [one, other]
    path.write_text('{"kind": "Run"}\n')
    with pytest.raises(UserError, match="no known kind"):
        read(path)


def test_two_clients_live(tmp_path):
    """A server, an emulator and the clients, once for each arm."""
    command = [sys.executable, "-m", "scripts.bench_capacity", "--quick", "--clients", "2", "--rtt", "4"]
    done = subprocess.run(
        [*command, "--tokens", "24", "--no-simulate", "--enforcer", "proxy", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    _, found = read(tmp_path / "runs.jsonl")
    assert [one.arm for one in found] == list(Arm)
    for one in found:
        assert one.wrong == 0
        assert one.generations > 0
        assert one.tokens > 20
    cloud, free, paid, slipstream = found
    assert cloud.facts_per_token == pytest.approx(1.0, abs=0.05)
    assert free.facts_per_token > 1.2
    assert paid.facts_per_token > 1.2
    assert slipstream.facts_per_token > 1.2
    assert slipstream.acceptance is not None


def test_a_budget_leaves_rows_that_a_later_run_finds(tmp_path, monkeypatch):
    asked = []

    def slowly(setting, arm, lookahead):
        asked.append(arm)
        time.sleep(0.05)
        return Predicted(100.0, 30.0)

    monkeypatch.setattr(command_line, "predicted", slowly)
    command = ["--quick", "--no-live", "--clients", "1", "--out", str(tmp_path)]
    first = CliRunner().invoke(command_line.app, [*command, "--budget-minutes", "0.001"])  # 0.06 s
    assert first.exit_code == 0, first.output
    assert asked == [Arm.CLOUD]
    assert "2 rows are left" in first.output
    again = CliRunner().invoke(command_line.app, command)
    assert isinstance(again.exception, UserError)
    last = CliRunner().invoke(command_line.app, [*command, "--resume"])
    assert last.exit_code == 0, last.output
    assert asked == [Arm.CLOUD, Arm.COLOCATED, Arm.SLIPSTREAM]
    _, found = read(tmp_path / "runs.jsonl")
    assert [one.arm for one in found] == asked


def test_an_interruption_shows_what_there_is_and_leaves_nothing_behind(tmp_path):
    command = [
        sys.executable,
        "-m",
        "scripts.bench_capacity",
        "--clients",
        "1",
        "--rtt",
        "4",
        "--no-simulate",
    ]
    process = subprocess.Popen(
        [*command, "--enforcer", "proxy", "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        family = psutil.Process(process.pid)
        while not (children := family.children(recursive=True)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no server was started"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, printed
    assert "not judged" in printed
    _, alive = psutil.wait_procs(children, timeout=5.0)
    assert alive == []
