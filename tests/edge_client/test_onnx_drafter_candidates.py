"""From scores to candidates: the greatest, in their order, with finite costs."""

from __future__ import annotations

import numpy as np
import pytest

from edge_client.drafter.candidates import (
    Calibration,
    NoiseRows,
    draws_from_all,
    rank,
    rank_all,
    top_tokens,
)
from shared.sampling import BadLogitsError, SamplingParams, draw

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11)


def test_equal_logits_come_by_lowest_id() -> None:
    ids, estimates = top_tokens(np.zeros((1, 100), np.float32), 3)
    assert ids.tolist() == [[0, 1, 2]]
    assert estimates[0] == pytest.approx(-np.log(100), abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 9, 61, 100, 4096])
@pytest.mark.parametrize("count", [1, 8, 32])
def test_top_tokens_are_the_greatest(size: int, count: int) -> None:
    logits = np.random.default_rng(size).normal(size=(3, size)).astype(np.float32)
    ids, estimates = top_tokens(logits, count)
    assert ids.tolist() == np.argsort(-logits, axis=1, kind="stable")[:, :count].tolist()
    exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert estimates == pytest.approx(np.take_along_axis(exact, ids, 1), abs=1e-5)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_a_model_that_computes_nan_is_refused(params: SamplingParams) -> None:
    with pytest.raises(BadLogitsError):
        rank(top_tokens(np.full((1, 50), np.nan, np.float32), 8), params, [3], 4)


def test_costs_are_finite_and_calibrated() -> None:
    top = top_tokens(np.array([[0.0, -np.inf, 1000.0, -5.0]], np.float32), 4)
    costs = [c.cost for c in rank(top, GREEDY, [1], 4)[0]]
    assert costs[0] == 0.0
    assert all(np.isfinite(costs))


def test_a_sharpened_estimate_is_normalised_over_the_candidates() -> None:
    top = top_tokens(np.log(np.array([[0.4, 0.2, 0.2, 0.1, 0.1]])), 3)
    costs = [c.cost for c in rank(top, GREEDY, [1], 3, Calibration(greedy_sharpness=2.0))[0]]
    assert np.exp(-np.array(costs)) == pytest.approx(np.array([16, 4, 4]) / (16 + 4 + 4))
    assert [c.cost for c in rank(top, GREEDY, [1], 3)[0]] == pytest.approx(-np.log([0.4, 0.2, 0.2]))
    # A sampled draw has an estimate of its own: the sharpness is no business of it.
    assert rank(top, SAMPLED, [1], 3, Calibration(greedy_sharpness=2.0)) == rank(top, SAMPLED, [1], 3)


@pytest.mark.parametrize("sharpness", [0.0, -1.0, float("nan"), float("inf")])
def test_a_sharpness_out_of_range_is_refused(sharpness: float) -> None:
    with pytest.raises(ValueError, match="greedy_sharpness"):
        Calibration(greedy_sharpness=sharpness)


def test_sampled_candidates_depend_on_seed_and_position() -> None:
    """A drafter that ignored either would still answer, only worse."""
    top = top_tokens(np.zeros((1, 32), np.float32), 32)
    orders = {
        tuple(c.token for c in rank(top, SamplingParams(temperature=1.0, seed=seed), [position], 8)[0])
        for seed in range(3)
        for position in range(3)
    }
    assert len(orders) == 9


def test_a_draw_from_the_whole_vocabulary_begins_with_what_the_law_draws() -> None:
    # Flat logits: the winner is seldom among the best few, so a pool of them would miss it.
    logits = np.random.default_rng(0).normal(0, 0.5, (40, 500)).astype(np.float32)
    noise = NoiseRows(500)
    params = SamplingParams(temperature=1.0, seed=9)
    ranked = rank_all(logits, params, range(40), 3, noise)
    assert [row[0].token for row in ranked] == [draw(row, params, i).token for i, row in enumerate(logits)]
    pooled = rank(top_tokens(logits, 32), params, range(40), 3)
    assert [row[0].token for row in pooled] != [row[0].token for row in ranked]
    assert all(len(row) == 3 and row[0].cost <= row[1].cost <= row[2].cost for row in ranked)
    assert noise.row(9, 3) is noise.row(9, 3)


def test_who_draws_from_the_whole_vocabulary() -> None:
    plain = SamplingParams(temperature=1.0)
    assert draws_from_all(plain, 4096)
    assert not draws_from_all(plain, 150_000)
    assert not draws_from_all(GREEDY, 4096)
    assert not draws_from_all(SamplingParams(temperature=1.0, top_p=0.9), 4096)


def test_nan_is_refused_in_a_whole_vocabulary_too() -> None:
    with pytest.raises(BadLogitsError):
        rank_all(np.full((1, 50), np.nan, np.float32), SamplingParams(temperature=1.0), [3], 4, NoiseRows(50))
