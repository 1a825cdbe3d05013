"""The law, against distributions worked out by hand or by brute force, and its statistics with negative controls."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from shared.noise import gumbel, gumbel_rows
from shared.sampling import BadLogitsError, SamplingParams, draw, filter_log_probs, rank_candidates

DRAWS = 20_000


def log(*probabilities: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


def brute_force(logits: np.ndarray, params: SamplingParams) -> dict[int, float]:
    """The header's steps 2 to 5, one token at a time."""
    top = max(logits)
    left = [(i, float(x)) for i, x in enumerate((logits - top) / params.temperature) if x > -math.inf]
    left.sort(key=lambda entry: (-entry[1], entry[0]))
    if params.top_k:
        left = left[: params.top_k]
    total, before, nucleus = math.fsum(math.exp(z) for _, z in left), 0.0, []
    for i, z in left:
        if before / total < params.top_p or params.top_p == 1.0:
            nucleus.append((i, z))
        before += math.exp(z)
    nucleus = [(i, z) for i, z in nucleus if params.min_p == 0.0 or z >= math.log(params.min_p)]
    total = math.fsum(math.exp(z) for _, z in nucleus)
    return {i: math.exp(z) / total for i, z in sorted(nucleus)}


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("temperature", -0.1, "[0, inf)"),
        ("temperature", math.nan, "[0, inf)"),
        ("temperature", math.inf, "[0, inf)"),
        ("temperature", "1", "[0, inf)"),
        ("top_k", -1, "[0, 2^32)"),
        ("top_k", 2**32, "[0, 2^32)"),
        ("top_k", 1.5, "[0, 2^32)"),
        ("top_p", 0.0, "(0, 1]"),
        ("top_p", 1.01, "(0, 1]"),
        ("top_p", math.nan, "(0, 1]"),
        ("min_p", -0.01, "[0, 1]"),
        ("min_p", 1.01, "[0, 1]"),
        ("min_p", math.nan, "[0, 1]"),
        ("seed", -1, "[0, 2^64)"),
        ("seed", 2**64, "[0, 2^64)"),
        ("seed", True, "[0, 2^64)"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError) as refusal:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert field in str(refusal.value)
    assert allowed in str(refusal.value)


def test_the_edges_of_the_ranges_are_allowed() -> None:
    SamplingParams(temperature=0.0, top_k=0, top_p=5e-324, min_p=0.0, seed=0)
    SamplingParams(temperature=1e308, top_k=2**32 - 1, top_p=1.0, min_p=1.0, seed=2**64 - 1)
    assert SamplingParams().greedy
    assert not SamplingParams(temperature=1e-300).greedy


# --- filters ------------------------------------------------------------------------------------------------------


def support(logits: np.ndarray, **fields: float) -> dict[int, float]:
    ids, log_p = filter_log_probs(logits, SamplingParams(**{"temperature": 1.0, **fields}))  # type: ignore[arg-type]
    assert np.all(np.diff(ids) > 0)
    return dict(zip(ids.tolist(), np.exp(log_p).tolist(), strict=True))


def test_top_k_breaks_ties_by_lowest_id() -> None:
    assert support(log(0.1, 0.2, 0.2, 0.3, 0.2), top_k=2) == pytest.approx({1: 0.4, 3: 0.6})


def test_top_p_keeps_the_token_that_crosses_and_nothing_after_it() -> None:
    logits = log(0.05, 0.5, 0.15, 0.3)
    assert support(logits, top_p=0.6) == pytest.approx({1: 0.625, 3: 0.375})
    assert list(support(logits, top_p=0.45)) == [1]
    assert list(support(logits, top_p=1e-9)) == [1]
    assert list(support(logits, top_p=0.97)) == [0, 1, 2, 3]


def test_top_p_breaks_ties_by_lowest_id() -> None:
    assert list(support(np.zeros(10), top_p=0.35)) == [0, 1, 2, 3]


def test_top_p_acts_on_what_top_k_left_renormalised() -> None:
    # after top-k 2 the best has 0.4 / 0.7 > 0.55, although before it had less
    assert list(support(log(0.3, 0.4, 0.3), top_k=2, top_p=0.55)) == [1]
    assert list(support(log(0.3, 0.4, 0.3), top_p=0.55)) == [0, 1]


def test_min_p_is_a_share_of_the_greatest_and_includes_its_edge() -> None:
    assert list(support(log(0.5, 0.25, 0.15, 0.1), min_p=0.25)) == [0, 1, 2]
    assert list(support(np.array([1.0, 3.0, 3.0, 0.0]), min_p=1.0)) == [1, 2]


def test_temperature_comes_before_the_filters() -> None:
    logits = log(0.5, 0.3, 0.2)
    assert list(support(logits, top_p=0.7)) == [0, 1]
    assert list(support(logits, temperature=0.3, top_p=0.7)) == [0]


def test_masked_tokens_are_never_in_the_support() -> None:
    assert support(np.array([-np.inf, 0.0, -np.inf, 0.0])) == pytest.approx({1: 0.5, 3: 0.5})
    assert list(support(np.array([-np.inf, 2.0]), top_k=2)) == [1]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-6, 1e6, 1e308])
def test_extreme_temperatures_do_not_overflow(temperature: float) -> None:
    logits = np.array([3e38, -3e38, 1.0, 3e38], dtype=np.float32)
    probabilities = support(logits, temperature=temperature)
    assert sum(probabilities.values()) == pytest.approx(1.0)
    assert {0, 3} <= set(probabilities)


def test_random_combinations_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        logits = np.round(rng.normal(0, 3, rng.integers(1, 40)), int(rng.integers(1, 4)))
        logits[1:][rng.random(len(logits) - 1) < 0.1] = -np.inf
        params = SamplingParams(
            temperature=float(rng.choice([0.3, 0.7, 1.0, 2.0])),
            top_k=int(rng.choice([0, 1, 3, 10, 100])),
            top_p=float(rng.choice([1.0, 0.9123, 0.5123])),
            min_p=float(rng.choice([0.0, 0.0512])),
        )
        ids, log_p = filter_log_probs(logits, params)
        expected = brute_force(logits, params)
        assert ids.tolist() == list(expected)
        assert np.exp(log_p) == pytest.approx(list(expected.values()))


# --- draws --------------------------------------------------------------------------------------------------------


def test_greedy_takes_the_lowest_of_equal_ids_and_ignores_filters_and_seed() -> None:
    result = draw(np.array([1.0, 2.5, 2.5, 0.0]), SamplingParams(top_k=1, top_p=0.1, seed=5), 9)
    assert (result.token, result.margin) == (1, 0.0)
    result = draw(np.array([0.0, 1.0, 3.0]), SamplingParams(), 0)
    assert (result.token, result.margin) == (2, 2.0)
    assert result.logprob == pytest.approx(3.0 - math.log(1 + math.e + math.e**3))


def test_a_sampled_draw_reports_its_margin_and_its_log_probability() -> None:
    logits, params = log(0.5, 0.2, 0.3), SamplingParams(temperature=1.0, top_k=2, seed=4)
    result = draw(logits, params, 31)
    scores = {0: math.log(0.625), 2: math.log(0.375)}
    perturbed = {i: lp + gumbel(4, 31, np.array([i]))[0] for i, lp in scores.items()}
    assert result.token == max(perturbed, key=lambda i: perturbed[i])
    assert result.margin == pytest.approx(abs(perturbed[0] - perturbed[2]))
    assert result.logprob == pytest.approx(scores[result.token])


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0)])
def test_the_margin_of_a_single_possible_token_is_infinite(params: SamplingParams) -> None:
    for logits in (np.array([-3.0]), np.array([-np.inf, 7.0, -np.inf])):
        result = draw(logits, params, 3)
        assert (result.margin, result.logprob) == (math.inf, 0.0)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, top_p=0.5)])
@pytest.mark.parametrize("logits", [[0.0, math.nan], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_no_fact_comes_from_bad_logits(params: SamplingParams, logits: list[float]) -> None:
    with pytest.raises(BadLogitsError, match="row 0"):
        draw(np.array(logits), params, 0)


def test_a_draw_is_a_pure_function() -> None:
    rng = np.random.default_rng(1)
    logits, params = rng.normal(size=300), SamplingParams(temperature=0.8, top_p=0.9, seed=77)
    first = [draw(logits, params, position) for position in range(50)]
    assert [draw(logits, params, position) for position in reversed(range(50))] == first[::-1]
    assert len({result.token for result in first}) > 10


@pytest.mark.parametrize("position", [-1, 2**63])
def test_a_position_out_of_range_is_refused_even_when_greedy(position: int) -> None:
    with pytest.raises(ValueError, match="position"):
        draw(np.zeros(3), SamplingParams(), position)


# --- statistics ---------------------------------------------------------------------------------------------------


def sample(logits: np.ndarray, params: SamplingParams, noise: np.ndarray) -> np.ndarray:
    """The token under each row of noise: `draw`'s own decision, vectorised (checked against it below)."""
    ids, log_p = filter_log_probs(logits, params)
    return ids[np.argmax(log_p + noise[:, ids], axis=1)]


def p_value(tokens: np.ndarray, expected: dict[int, float]) -> float:
    counts = np.bincount(tokens, minlength=max(expected) + 1)
    if counts.sum() != counts[list(expected)].sum():
        return 0.0  # a token outside the support
    return float(
        stats.chisquare(counts[list(expected)], np.array(list(expected.values())) * len(tokens)).pvalue
    )


LOGITS = np.random.default_rng(5).normal(0, 1.5, 24)
LAWS = [SamplingParams(temperature=1.0), SamplingParams(temperature=0.7, top_p=0.9, min_p=0.01)]


@pytest.fixture(scope="module")
def noise_over_seeds() -> np.ndarray:
    return gumbel_rows(np.arange(DRAWS, dtype=np.uint64) * 7919, np.full(DRAWS, 12), len(LOGITS))


@pytest.fixture(scope="module")
def noise_over_positions() -> np.ndarray:
    return gumbel_rows(np.full(DRAWS, 3, dtype=np.uint64), np.arange(DRAWS), len(LOGITS))


@pytest.mark.parametrize("params", LAWS)
def test_draws_have_the_exact_distribution(
    params: SamplingParams, noise_over_seeds: np.ndarray, noise_over_positions: np.ndarray
) -> None:
    expected = brute_force(LOGITS, params)
    over_seeds = sample(LOGITS, params, noise_over_seeds)
    assert p_value(over_seeds, expected) > 1e-3
    assert p_value(sample(LOGITS, params, noise_over_positions), expected) > 1e-3
    for i in range(0, DRAWS, 1000):
        seeded = SamplingParams(params.temperature, params.top_k, params.top_p, params.min_p, seed=i * 7919)
        assert draw(LOGITS, seeded, 12).token == over_seeds[i]


@pytest.mark.parametrize(
    ("params", "spoil"),
    [
        (LAWS[0], lambda noise: noise * 1.06),
        (LAWS[0], lambda noise: noise + 0.2 * (np.arange(noise.shape[1]) % 2)),
        (LAWS[0], lambda noise: np.random.default_rng(0).normal(0.577, 1.283, noise.shape)),
    ],
    ids=["scale", "odd-lane", "gaussian"],
)
def test_biased_noise_would_be_noticed(
    params: SamplingParams, spoil: Callable[[np.ndarray], np.ndarray], noise_over_seeds: np.ndarray
) -> None:
    tokens = sample(LOGITS, params, spoil(noise_over_seeds))
    assert p_value(tokens, brute_force(LOGITS, params)) < 1e-6


def test_a_nucleus_one_token_off_would_be_noticed(noise_over_seeds: np.ndarray) -> None:
    expected = brute_force(LOGITS, LAWS[1])
    for size in (len(expected) - 1, len(expected) + 1):
        off = SamplingParams(temperature=0.7, top_k=size)
        assert p_value(sample(LOGITS, off, noise_over_seeds), expected) < 1e-6


@pytest.mark.parametrize("distance", [0.2, 0.7, 2.0])
def test_shared_noise_couples_two_distributions(distance: float, noise_over_seeds: np.ndarray) -> None:
    """Pr[same token] >= (1 - TV) / (1 + TV), arXiv 2408.07978; noise of a neighbouring position does worse."""
    params = LAWS[0]
    other = LOGITS + np.random.default_rng(8).normal(0, distance, len(LOGITS))
    p, q = (np.exp(filter_log_probs(x, params)[1]) for x in (LOGITS, other))
    tv = 0.5 * np.abs(p - q).sum()
    target = sample(LOGITS, params, noise_over_seeds)
    agreement = np.mean(target == sample(other, params, noise_over_seeds))
    shifted = gumbel_rows(np.arange(DRAWS, dtype=np.uint64) * 7919, np.full(DRAWS, 13), len(LOGITS))
    uncoupled = np.mean(target == sample(other, params, shifted))
    assert agreement >= (1 - tv) / (1 + tv) - 3 * 0.5 / math.sqrt(DRAWS)
    assert uncoupled == pytest.approx(float(p @ q), abs=4 * 0.5 / math.sqrt(DRAWS))
    assert uncoupled < agreement - 0.2


# --- the drafter --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [SamplingParams(), *LAWS, SamplingParams(temperature=0.5, top_k=3)])
def test_a_drafter_that_is_the_target_ranks_its_draw_first(params: SamplingParams) -> None:
    ids = np.random.default_rng(2).permutation(len(LOGITS))
    for position in range(200):
        ranked, _ = rank_candidates(ids, LOGITS[ids], params, position)
        assert ranked[0] == draw(LOGITS, params, position).token
        assert sorted(ranked.tolist()) == sorted(ids.tolist())


def test_a_drafter_one_position_off_does_not() -> None:
    ids = np.arange(len(LOGITS))
    same = [
        rank_candidates(ids, LOGITS, LAWS[0], p + 1)[0][0] == draw(LOGITS, LAWS[0], p).token
        for p in range(300)
    ]
    assert np.mean(same) < 0.5


def test_greedy_candidates_rank_by_logit_with_softmax_estimates() -> None:
    ranked, estimates = rank_candidates(np.array([9, 4, 7]), log(0.2, 0.2, 0.6), SamplingParams(), 0)
    assert ranked.tolist() == [7, 4, 9]
    assert estimates == pytest.approx([0.6, 0.2, 0.2])


def test_several_nodes_at_once_are_each_node_alone() -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 2, (5, 16))
    ids = np.stack([rng.permutation(100)[:16] for _ in range(5)])
    positions = np.array([4, 5, 5, 6, 2**34])
    for params in (SamplingParams(), SamplingParams(temperature=0.9, top_p=0.8, seed=3)):
        ranked, estimates = rank_candidates(ids, logits, params, positions)
        for node in range(5):
            alone = rank_candidates(ids[node], logits[node], params, int(positions[node]))
            assert ranked[node].tolist() == alone[0].tolist()
            assert estimates[node] == pytest.approx(alone[1])
        assert np.all(np.diff(estimates, axis=-1) <= 0)
        assert estimates.sum(-1) == pytest.approx(np.ones(5))


def test_a_candidate_that_the_filters_drop_ranks_lower_but_stays() -> None:
    kept = SamplingParams(temperature=1.0, seed=1)
    cut = SamplingParams(temperature=1.0, top_k=1, seed=1)
    ids, logits = np.arange(4), np.array([1.0, 0.9, 0.8, 0.7])
    firsts = [
        [int(rank_candidates(ids, logits, params, p)[0][0]) for p in range(200)] for params in (kept, cut)
    ]
    assert firsts[1].count(0) > firsts[0].count(0) + 50
    assert len(rank_candidates(ids, logits, cut, 0)[0]) == 4


def test_bad_candidates_name_their_node() -> None:
    logits = np.zeros((3, 2))
    logits[1, 0] = math.nan
    with pytest.raises(BadLogitsError) as refusal:
        rank_candidates(np.array([[0, 1]] * 3), logits, SamplingParams(), 0)
    assert refusal.value.rows == (1,)
