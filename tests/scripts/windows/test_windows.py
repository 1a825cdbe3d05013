"""The comparison: small fleets for what is simulated, made-up outcomes for what is concluded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.windows import __main__ as command
from scripts.windows.arms import (
    OURS,
    PRODUCT,
    STATIC,
    WINDOWS,
    Arm,
    Cloud,
    Drafts,
    Sizer,
    fixed,
)
from scripts.windows.compare import Cell, Ran, judge_windows, pool_cells, run, targets, window_cells
from scripts.windows.load import Client, Load, Outcome, mixed, simulate
from scripts.windows.sweeps import GRIDS, OPTIONS, sweep
from shared.policy.learned_window import INPUTS, Drafting

TINY = Load("tiny", mixed(2, (0.6, 0.9), (3.0,), (20.0,)), seconds=2.5, warm_up_s=0.5)
LONE = Load("lone", (Client(0.9, 2.0, 80.0),), seconds=6.0, warm_up_s=1.0)


def test_clients_are_spread_over_all_values():
    clients = mixed(8, (0.5, 0.9), (1.0, 2.0), (10.0, 100.0))
    for acceptance in (0.5, 0.9):
        for rtt_ms in (10.0, 100.0):
            assert sum((one.acceptance, one.rtt_ms) == (acceptance, rtt_ms) for one in clients) == 2
    assert [one.draft_ms for one in clients] == [1.0, 2.0] * 4


def test_a_load_is_the_same_every_time_and_another_with_another_seed():
    one, two, other = (simulate(TINY, STATIC.options, PRODUCT.make_pool, seed=seed) for seed in (0, 0, 1))
    assert one == two != other


def test_the_window_decides_how_fast_a_far_edge_is():
    """Synchronous blocks over a long link: larger ones are faster, and the measured ones are among the best."""
    times = {
        arm.name: simulate(LONE, arm.options, PRODUCT.make_pool).latency_ms
        for arm in (fixed(Drafts.SYNC, 1), STATIC, fixed(Drafts.SYNC, 12), Arm(Drafts.SYNC, Sizer.MEASURED))
    }
    one, four, twelve, measured = times.values()
    assert twelve < 0.8 * four < 0.7 * one
    assert measured < 1.05 * twelve


def test_a_sweep_has_a_latency_for_each_window_and_sees_what_a_controller_would():
    got = sweep(TINY, 1, Drafting.BLOCK, seed=0)
    assert len(got.latencies_ms) == len(GRIDS[Drafting.BLOCK])
    assert got.inputs.shape[1] == INPUTS
    assert len(got.inputs) > 2 * len(GRIDS[Drafting.BLOCK])
    windows = {round(2.0 ** (4.0 * (row[4] + 1.0))) for row in got.inputs}
    assert windows == set(GRIDS[Drafting.BLOCK])
    assert set(OPTIONS) == set(Drafting)
    # Two sessions, one to a step: somebody waits.
    assert (got.inputs[:, 0] > -0.9).any()


def test_every_routing_and_batching_serves():
    for cell in pool_cells(replace(TINY, workers=2)):
        if cell.arm == STATIC:
            simulate(replace(cell.load, seconds=1.0, warm_up_s=0.1), cell.arm.options, cell.cloud.make_pool)


# ---- conclusions ----


def ran(arm: Arm, latency_ms: float, tokens_per_s: float, fleet: Load = TINY, cloud: Cloud = PRODUCT) -> Ran:
    return Ran(Cell(fleet, cloud, arm), (Outcome(tokens_per_s, latency_ms, 1.0, 1.0, 0.8),))


def made(ours: tuple[float, float]) -> list[Ran]:
    runs = []
    for drafts in Drafts:
        # The longest window is the fastest; from 16 on all serve alike.
        runs += [
            ran(fixed(drafts, window), 40.0 - window / 64, 100.0 + min(window, 16))
            for window in WINDOWS[drafts]
        ]
        runs += [ran(Arm(drafts, sizer), 39.0, 101.0) for sizer in (Sizer.EMA, Sizer.LEARNED)]
        runs.append(ran(Arm(drafts, Sizer.MEASURED), *ours))
    return runs


def test_the_oracle_is_the_best_fixed_window_and_others_are_measured_by_it():
    judged = judge_windows(made((30.0, 150.0)))
    oracle = next(one for one in judged if one.drafts is Drafts.TREE and one.sizer is Sizer.ORACLE)
    assert oracle.window == max(WINDOWS[Drafts.TREE])
    assert oracle.behind == 0.0
    ours = next(one for one in judged if one.drafts is OURS.drafts and one.sizer is OURS.sizer)
    static = next(one for one in judged if one.drafts is Drafts.SYNC and one.sizer is Sizer.STATIC)
    assert static.speed_up == 1.0
    assert static.more == 0.0
    assert static.lost == pytest.approx(1 - 104 / 116)
    assert ours.speed_up == pytest.approx((40.0 - 4 / 64) / 30.0)
    assert ours.more == pytest.approx(150.0 / 104.0 - 1.0)
    assert ours.behind == pytest.approx(30.0 / (40.0 - max(WINDOWS[Drafts.TREE]) / 64) - 1.0)


@pytest.mark.parametrize(
    ("ours", "met"),
    [
        ((32.0, 150.0), (True, True, True)),
        ((38.0, 150.0), (False, True, False)),
        ((32.0, 110.0), (True, False, False)),
    ],
)
def test_what_must_hold_can_fail(ours: tuple[float, float], met: tuple[bool, ...]):
    found = targets(judge_windows(made(ours)), [])
    assert tuple(one.met for one in found) == met


def test_the_margins_are_held_against_every_pool():
    one, two = Cloud("random", "fifo"), Cloud("least work", "fifo")
    pool = [
        ran(STATIC, 40.0, 100.0, cloud=one),
        ran(OURS, 20.0, 200.0, cloud=one),
        ran(STATIC, 22.0, 190.0, cloud=two),
        ran(OURS, 21.0, 199.0, cloud=two),
    ]
    (found,) = targets([], pool)
    assert not found.met
    assert "least work" in found.worst


def test_the_command_compares_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    quick = replace(TINY, name="mixed")
    monkeypatch.setattr(command, "FLEETS", (quick,))
    monkeypatch.setattr(
        command,
        "window_cells",
        lambda loads, drafts: [
            cell for cell in window_cells(loads, (Drafts.SYNC,)) if cell.arm.window in (None, 4, 8)
        ],
    )
    code = command.main(["compare", "--no-pool", "--seeds", "1", "--out", str(tmp_path)])
    assert code == 0  # nothing of ours was made, so nothing of ours can miss
    shown = capsys.readouterr().out
    assert "static 4" in shown
    assert "oracle" in shown
    written = json.loads((tmp_path / "windows.json").read_text(encoding="utf-8"))
    assert {one["sizer"] for one in written["windows"]} == {one.value for one in Sizer}
    assert len(written["runs"]) == 5
    assert (tmp_path / "windows-sync.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_made_once_a_seed():
    cell = Cell(replace(TINY, seconds=1.0, warm_up_s=0.2), PRODUCT, STATIC)
    told: list[int] = []
    (one,) = run([cell], 2, lambda _, number: told.append(number))
    assert told == [0]
    assert len(one.outcomes) == 2
    assert one.outcomes[0] != one.outcomes[1]


def test_a_wrong_fleet_is_named(capsys):
    assert command.main(["compare", "--fleet", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


def test_the_network_that_ships_was_trained_for_every_window():
    assert set(GRIDS) == set(Drafting) == set(OPTIONS)
