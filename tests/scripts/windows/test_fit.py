"""Training on made-up fleets, whose best window is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.windows.fit import best_fixed, fit, gather, regret, smooth
from scripts.windows.sweeps import GRIDS, Sweep, draw_load
from scripts.windows.train import learn, load_sweeps, save, save_sweeps
from shared.errors import UserError
from shared.policy.learned_window import Drafting, Observation

GRID = GRIDS[Drafting.BLOCK]
MARKS = np.log2(np.array(GRID))


def best_window(acceptance: float) -> float:
    return float(2.0 ** (0.5 + 3.0 * acceptance))


def fleet(acceptance: float) -> Sweep:
    """Latency is least at `best_window` and grows by the square of the distance in doublings."""
    latencies = 20.0 * np.exp(0.1 * (MARKS - np.log2(best_window(acceptance))) ** 2)
    seen = [Observation(0.1, acceptance, 40.0, 20.0, float(window)).inputs() for window in GRID]
    return Sweep(tuple(latencies), np.array(seen))


FLEETS = [fleet(0.3 + 0.03 * number) for number in range(21)]


def test_a_fit_finds_the_rule_that_one_window_cannot_follow():
    data = gather(FLEETS, GRID)
    controller = fit(data, GRID, seed=0, rounds=300)
    _, alone = best_fixed(data, GRID)
    assert regret(controller, data, GRID) < 0.25 * alone
    for acceptance in (0.35, 0.8):
        decided = controller.decide(Observation(0.1, acceptance, 40.0, 20.0, 4.0))
        assert decided == pytest.approx(best_window(acceptance), rel=0.35)


def test_a_fit_is_the_same_every_time():
    data = gather(FLEETS[:5], GRID)
    one, two = (fit(data, GRID, seed=3, rounds=20) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.weights, two.weights, strict=True))
    other = fit(data, GRID, seed=4, rounds=20)
    assert not np.array_equal(one.weights[0], other.weights[0])


def test_fleets_count_alike_however_many_observations_they_have():
    short = Sweep(FLEETS[0].latencies_ms, FLEETS[0].inputs[:1])
    data = gather([short, FLEETS[20]], GRID)
    assert data.weights.sum() == pytest.approx(1.0)
    assert data.weights[0] == pytest.approx(data.weights[1:].sum())
    assert data.costs.min() == 0.0


def test_a_smooth_curve_is_left_alone_and_scatter_is_not():
    clean = np.array(FLEETS[10].latencies_ms)
    assert smooth(clean, GRID) == pytest.approx(clean, rel=1e-9)
    noisy = clean * np.array([1.03, 0.97] * 4)
    assert np.abs(smooth(noisy, GRID) / clean - 1.0).max() < 0.03


def test_fleets_are_held_out():
    strange = [Sweep(one.latencies_ms[::-1], one.inputs) for one in FLEETS]
    mixture = [strange[number] if number % 5 == 0 else one for number, one in enumerate(FLEETS)]
    learned = learn(Drafting.BLOCK, mixture, seed=0)
    assert learned.learned < 0.05 < learned.held_out
    with pytest.raises(UserError, match="at least 5 fleets"):
        learn(Drafting.BLOCK, FLEETS[:4], seed=0)


def test_sweeps_and_networks_survive_their_files(tmp_path: Path):
    save_sweeps({Drafting.BLOCK: FLEETS[:3]}, tmp_path / "sweeps.npz")
    (again,) = load_sweeps(tmp_path / "sweeps.npz").values()
    assert [one.latencies_ms for one in again] == [one.latencies_ms for one in FLEETS[:3]]
    assert all(np.array_equal(a.inputs, b.inputs) for a, b in zip(again, FLEETS, strict=False))
    controller = fit(gather(FLEETS[:3], GRID), GRID, seed=0, rounds=5)
    save({Drafting.BLOCK: controller}, tmp_path / "learned.npz")
    with np.load(tmp_path / "learned.npz") as arrays:
        assert np.allclose(arrays["block.weight0"], controller.weights[0])
    (tmp_path / "no.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=r"no\.npz"):
        load_sweeps(tmp_path / "no.npz")


def test_fleets_are_drawn_from_their_number():
    assert draw_load(Drafting.TREE, 7, 0) == draw_load(Drafting.TREE, 7, 0)
    assert draw_load(Drafting.TREE, 7, 0) != draw_load(Drafting.TREE, 8, 0)
    assert draw_load(Drafting.TREE, 7, 0) != draw_load(Drafting.TREE, 7, 1)
