"""The arithmetic of DSI's table, and one row of it, live and small."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from edge_client.policies import DraftOptions, Shape
from scripts.bench_dsi.counting import best_si_ms, recounted_ms, si_tpot_ms
from scripts.bench_dsi.figures import CHAIN_SHARE, aims, figures, geometric_mean, times_as_fast
from scripts.bench_dsi.plan import ARMS, CHAIN, POLICY, SI, plan_of
from scripts.bench_dsi.rows import PAPER_LOOKAHEADS, ROWS
from scripts.bench_dsi.simulate import pool_tpot_ms, predictions
from scripts.bench_latency.figures import differences
from scripts.bench_latency.records import End, Header, Lookahead, Results, Run, read
from scripts.bench_latency.simulate import tpot_ms as one_worker_tpot_ms
from scripts.processes import ROOT
from shared.profiled import Profile
from shared.session.front import CloudPolicies
from tests.scripts.latency_results import facts

DEADLINE_S = 240.0
PAIR = Profile(acceptance=0.5, step_ms=30.0, draft_ms=3.0, iid=True)


def run(of, arm, prompt, commits):
    """A run with these commits."""
    tokens = tuple(range(sum(count for _, count in commits)))
    return Run(of.key, arm, prompt, 0, 0.5, tokens, "length", commits)


def test_a_block_costs_its_drafts_and_one_target_forward():
    # k = 1: one draft and one forward; 1.5 tokens.
    assert si_tpot_ms(PAIR, 1) == pytest.approx((3.0 + 30.0) / 1.5)
    assert si_tpot_ms(PAIR, 2) == pytest.approx((6.0 + 30.0) / 1.75)


def test_the_paper_adds_a_target_forward_for_each_block_with_a_wrong_draft():
    assert si_tpot_ms(PAIR, 1, as_paper=True) == pytest.approx((3.0 + 30.0 + 0.5 * 30.0) / 1.5)
    always_right = replace(PAIR, acceptance=1.0)
    assert si_tpot_ms(always_right, 5, as_paper=True) == si_tpot_ms(always_right, 5)


def test_the_best_lookahead_is_found_within_what_is_allowed():
    length, ms = best_si_ms(PAIR, range(1, 20))
    assert ms == min(si_tpot_ms(PAIR, k) for k in range(1, 20))
    assert si_tpot_ms(PAIR, length) == ms
    assert best_si_ms(PAIR, PAPER_LOOKAHEADS)[0] in PAPER_LOOKAHEADS


def test_the_simulator_counts_si_honestly():
    expected = si_tpot_ms(PAIR, 2)
    drafted = DraftOptions(mode=SI.draft.mode, lookahead=2)
    seeds = range(6)
    found = [
        one_worker_tpot_ms(PAIR, plan_of(prompts=1, tokens=2).cells[0].link, drafted, SI.cloud, 300, s)
        for s in seeds
    ]
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.04)


def test_live_blocks_are_recounted():
    # First block, a whole one (k = 2), one with a wrong draft, and the last, which the text's end cut short.
    commits = ((10.0, 3), (46.0, 3), (82.0, 1), (118.0, 1))
    assert recounted_ms(commits, 2, 30.0) == pytest.approx((108.0 + 30.0) / 7)
    assert recounted_ms(commits[:1], 2, 30.0) == pytest.approx(0.0)
    assert recounted_ms(((10.0, 1),), 2, 30.0) is None


def test_the_geometric_mean():
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert geometric_mean([1.1, 1.1, 1.1]) == pytest.approx(1.1)


def test_times_are_added_up_before_they_are_divided():
    cell = plan_of(ROWS[:1], prompts=2, tokens=3).cells[0]
    mine = [run(cell, "chain", 0, ((0.0, 1), (20.0, 2))), run(cell, "chain", 1, ((0.0, 1), (2.0, 2)))]
    others = [
        run(cell, "colocated", 0, ((0.0, 1), (20.0, 2))),
        run(cell, "colocated", 1, ((0.0, 1), (24.0, 2))),
    ]
    assert times_as_fast(mine, others).value == pytest.approx(2.0)  # the mean of ratios would be 6.5
    assert times_as_fast(mine, others[:1]).value == pytest.approx(1.0)  # only what both wrote
    with pytest.raises(ValueError, match="both"):
        times_as_fast(mine[:1], others[1:])


def test_slow_drafters_and_fast_ones_alternate():
    order = [cell.key for cell in plan_of(prompts=1, tokens=2).cells]
    assert order[:4] == ["dsi-7", "dsi-1", "dsi-2", "dsi-8"]
    assert sorted(order) == sorted(row.key for row in ROWS)


def results(factors, *, other_text=False):
    """Rows in which SI takes 20 ms a token, the chain and the policy's choice `factors` as little, cloud alone 30."""
    plan = plan_of(prompts=2, tokens=11)
    times = {"cloud": 30.0, "colocated": 20.0}
    runs, told = [], []
    for cell in plan.cells:
        chain, policy = factors[cell.key]
        for arm, ms in (times | {"chain": 20.0 / chain, "slipstream": 20.0 / policy}).items():
            runs += [run(cell, arm, prompt, ((5.0, 1), (5.0 + 10 * ms, 10))) for prompt in range(2)]
        told.append(replace(facts(cell), lookaheads=(Lookahead("colocated", 4, {4: 20.0}, {4: 20.0}),)))
    if other_text:
        runs[-1] = replace(runs[-1], tokens=(*runs[-1].tokens[:-1], -1))
    return Results(
        Header(plan, "", {}, ""), tuple(told), tuple(runs), (), (), End("complete", len(runs), 1.0)
    )


def just_enough():
    return {row.key: (CHAIN_SHARE * row.prototype + 0.001, 1.34) for row in ROWS}


def verdicts(found):
    return [aim.met for aim in aims(figures(found), expected=len(ROWS))]


def test_aims_that_are_met():
    assert verdicts(results(just_enough())) == [True, True, True, True]


@pytest.mark.parametrize(
    ("key", "factor", "met"),
    [
        ("dsi-6", (1.29, 1.34), [True, False, True, True]),
        ("dsi-1", (1.2, 1.1), [True, True, False, True]),
        ("dsi-1", (1.2, 0.6), [True, True, False, False]),
    ],
)
def test_one_row_is_enough_to_miss_an_aim(key, factor, met):
    assert verdicts(results(just_enough() | {key: factor})) == met


def test_a_text_that_differs_is_an_aim_missed():
    found = results(just_enough(), other_text=True)
    assert verdicts(found)[0] is False
    assert len(differences(found)) == 1


def test_missing_rows_are_not_judged():
    rows = figures(results(just_enough()))[:3]
    assert [aim.met for aim in aims(rows, expected=len(ROWS))] == [None, None, None, None]


def test_the_simulator_gains_from_more_workers():
    pair = replace(ROWS[5].pair.profile, seed=0)
    options = DraftOptions(shape=Shape.CHAIN)
    alone, seven = (pool_tpot_ms(pair, options, 200, 0, workers=workers) for workers in (1, 7))
    assert seven < 0.95 * alone


def test_arms_on_the_pool_are_predicted():
    cell = plan_of(ROWS[:1], prompts=1, tokens=20).cells[0]
    found = list(predictions(cell, facts(cell)))
    assert [one.arm for one in found] == [CHAIN.key, POLICY.key]
    assert all(0.0 < one.tpot_ms < 60.0 for one in found)


def test_one_row_live(tmp_path):
    """Three processes, real gRPC; the row with the shortest steps."""
    command = [sys.executable, "-m", "scripts.bench_dsi", "--row", "5", "--prompts", "1", "--tokens", "24"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found = read(tmp_path / "runs.jsonl")
    assert {one.arm for one in found.runs} == {arm.key for arm in ARMS}
    assert {one.arm for one in found.predicted} == {arm.key for arm in ARMS}
    (row,) = figures(found)
    assert row.identical
    assert all(len(one.tokens) == 24 for one in found.runs)
    assert "not judged" in done.stdout
    assert CloudPolicies() == POLICY.cloud  # the product's own defaults, not the baselines'
