"""The batched torch sampler against the numpy reference: same integers, same tokens, whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cloud_server import sampling
from cloud_server.noise import DeviceNoise, HostNoise, NoiseCache, NoiseKey
from cloud_server.sampling import RowSpec, Sampler
from shared.noise import GUMBEL_ULPS, gumbel_row, uniform_bits
from shared.sampling import BadLogitsError, Draw, SamplingParams, draw, filter_log_probs

CPU = torch.device("cpu")
SOURCES = [HostNoise(), DeviceNoise(CPU)]
NEAR_TIE = 1e-9
"""Two implementations may differ where two scores are closer than this, in nats: far above what a few ulps can move
scores of at most a few hundred, and far below any margin that a test draws by chance."""
GREEDY_TOLERANCE = 1e-4
"""Margin and log probability of greedy rows are float32's."""


def reference(logits: torch.Tensor, rows: Sequence[RowSpec]) -> list[Draw]:
    return [draw(x.double().numpy(), row.params, row.position) for x, row in zip(logits, rows, strict=True)]


def assert_same(got: list[Draw], expected: list[Draw], rows: Sequence[RowSpec]) -> int:
    """Tokens are equal but for near-ties; returns how many of those there were."""
    ties = 0
    assert len(got) == len(expected)
    for ours, theirs, row in zip(got, expected, rows, strict=True):
        if not row.params.greedy and theirs.margin < NEAR_TIE:
            ties += 1
            continue
        assert ours.token == theirs.token, row
        tolerance = GREEDY_TOLERANCE if row.params.greedy else NEAR_TIE
        assert ours.margin == pytest.approx(theirs.margin, abs=tolerance, rel=tolerance)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=tolerance, rel=tolerance)
    return ties


def clear_of_the_edge(logits: np.ndarray, params: SamplingParams) -> bool:
    """Whether no cumulated probability comes within 1e-9 of top_p, where the last bit of exp would decide."""
    if params.greedy or params.top_p == 1.0:
        return True
    before = SamplingParams(params.temperature, params.top_k)
    p = np.sort(np.exp(filter_log_probs(logits, before)[1]))[::-1]
    return bool(np.abs(np.cumsum(p) - params.top_p).min() > 1e-9)


def random_params(rng: np.random.Generator, vocabulary: int) -> SamplingParams:
    def choose(*values: float) -> float:
        return float(rng.choice(values))

    return SamplingParams(
        temperature=choose(0.0, 1e-6, 0.3, 0.7, 1.0, 1.0, 1.7, 50.0),
        top_k=int(choose(0, 0, 1, 2, 5, 63, 64, 65, 600, vocabulary, 2**32 - 1)),
        top_p=choose(1.0, 1.0, 1e-6, 0.5123, 0.9057, 0.99987),
        min_p=choose(0.0, 0.0, 1e-4, 0.0513, 1.0),
        seed=int(rng.integers(0, 2**64, dtype=np.uint64)),
    )


# --- noise --------------------------------------------------------------------------------------------------------

KEYS = [NoiseKey(0, 0), NoiseKey(2**64 - 1, 2**63 - 1), NoiseKey(2**63, 2**32), NoiseKey(12345, 678)]


def test_integers_in_torch_are_bit_identical() -> None:
    ids = torch.tensor([0, 1, 2, 3, 4095, 151_936, 2**31, 2**32 - 1])
    words = DeviceNoise(CPU).words_at(KEYS, ids).numpy().view(np.uint64)
    for row, key in zip(words, KEYS, strict=True):
        assert (row >> 12).tolist() == uniform_bits(key.seed, key.position, ids.numpy()).tolist()


@pytest.mark.parametrize("vocabulary", [1, 7, 4096, 4097])
def test_noise_in_torch_is_within_the_declared_ulps(vocabulary: int) -> None:
    ours = DeviceNoise(CPU).rows(KEYS, vocabulary).numpy()
    for row, key in zip(ours, KEYS, strict=True):
        exact = gumbel_row(key.seed, key.position, vocabulary)
        assert np.all(np.abs(row - exact) <= GUMBEL_ULPS * 2.0**-52 * np.maximum(1.0, np.abs(exact)))


@pytest.mark.parametrize("source", SOURCES)
def test_noise_of_some_tokens_is_bitwise_their_row(source: HostNoise | DeviceNoise) -> None:
    rows, ids = source.rows(KEYS, 500), torch.tensor([[3, 8], [499, 0], [6, 6], [7, 2]])
    assert torch.equal(source.at(KEYS, ids), rows.gather(1, ids))


# --- the cache ----------------------------------------------------------------------------------------------------


class CountingNoise(HostNoise):
    def __init__(self) -> None:
        self.computed: list[NoiseKey] = []

    def rows(self, keys: Sequence[NoiseKey], vocabulary_size: int) -> torch.Tensor:
        self.computed += keys
        return super().rows(keys, vocabulary_size)


def cache_of(rows: int, vocabulary: int = 10) -> tuple[NoiseCache, CountingNoise]:
    source = CountingNoise()
    return NoiseCache(source, vocabulary, CPU, rows * vocabulary * 8), source


def keys_at(*positions: int) -> list[NoiseKey]:
    return [NoiseKey(1, position) for position in positions]


def test_siblings_share_one_row_and_reverification_computes_none() -> None:
    cache, source = cache_of(4)
    rows = cache.rows(keys_at(5, 6, 5, 5))
    assert torch.equal(rows[0], rows[2])
    cache.rows(keys_at(6, 5))
    assert source.computed == keys_at(5, 6)


def test_the_least_recently_used_row_leaves_first() -> None:
    cache, source = cache_of(3)
    cache.rows(keys_at(1, 2, 3))
    cache.rows(keys_at(1))
    cache.rows(keys_at(4))  # evicts 2
    source.computed.clear()
    cache.rows(keys_at(1, 3, 4))
    assert source.computed == []
    cache.rows(keys_at(2))
    assert source.computed == keys_at(2)


def test_rows_are_right_under_any_traffic_and_safe_to_overwrite() -> None:
    rng = np.random.default_rng(0)
    cache, _ = cache_of(5)
    for _ in range(200):
        positions = rng.integers(0, 12, rng.integers(1, 6)).tolist()
        rows = cache.rows(keys_at(*positions))
        for row, position in zip(rows, positions, strict=True):
            assert np.array_equal(row.numpy(), gumbel_row(1, position, 10))
        rows.fill_(math.nan)


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Sampler(100, noise_cache_bytes=799)
    cache, _ = cache_of(2)
    with pytest.raises(ValueError, match="3 rows"):
        cache.rows(keys_at(1, 2, 3))


# --- draws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("vocabulary", "batch", "rounds"), [(1, 3, 3), (7, 40, 12), (64, 40, 8), (1000, 40, 8), (50_000, 8, 3)]
)
def test_draws_equal_the_reference(
    source: HostNoise | DeviceNoise, vocabulary: int, batch: int, rounds: int
) -> None:
    rng = np.random.default_rng(vocabulary)
    sampler = Sampler(vocabulary, noise=source, noise_cache_bytes=max(1 << 16, 16 * vocabulary))
    compared = 0
    for _ in range(rounds):
        scale = rng.choice([0.1, 1.0, 4.0, 30.0], (batch, 1))
        logits = (rng.normal(size=(batch, vocabulary)) * scale).astype(np.float32)
        logits[:, 1:][rng.random((batch, vocabulary - 1)) < 0.1] = -np.inf
        if rng.random() < 0.5:
            logits = np.round(logits * 2) / 2  # many ties
        rows = [RowSpec(random_params(rng, vocabulary), int(rng.integers(0, 2**40))) for _ in range(batch)]
        clear = [i for i, row in enumerate(rows) if clear_of_the_edge(logits[i], row.params)]
        x, rows = torch.from_numpy(logits[clear]), [rows[i] for i in clear]
        before = x.clone()
        ties = assert_same(sampler.draw(x, rows), reference(x, rows), rows)
        assert torch.equal(x, before)
        compared += len(rows) - ties
    assert compared > 0.8 * rounds * batch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_are_taken_at_their_exact_value(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    x = (torch.randn(30, 300, generator=generator) * 3).to(dtype)
    kinds = [SamplingParams(), SamplingParams(1.0, seed=3), SamplingParams(0.8, top_p=0.9137)]
    rows = [RowSpec(kinds[i % 3], i) for i in range(30)]
    assert_same(Sampler(300).draw(x, rows), reference(x, rows), rows)


def test_equal_greatest_logits_go_to_the_lowest_id() -> None:
    x = torch.zeros(3, 5000)
    x[0, [4000, 17, 4999]] = 2.0
    x[1, 4999] = x[1, 4998] = 1.0
    assert [d.token for d in Sampler(5000).draw(x, [RowSpec(SamplingParams(), 1)] * 3)] == [17, 4998, 0]


@pytest.mark.parametrize("params", [SamplingParams(1.0, top_k=70), SamplingParams(1.0, top_p=0.0151)])
def test_ties_across_the_end_of_the_short_list_are_settled_by_id(params: SamplingParams) -> None:
    """All 5,000 are equal: the support is the lowest ids, which a top-k primitive is free not to return."""
    size = len(filter_log_probs(np.zeros(5000), params)[0])
    assert size > sampling.FIRST_CANDIDATES
    rows = [RowSpec(params, position) for position in range(40)]
    got = Sampler(5000).draw(torch.zeros(40, 5000), rows)
    assert all(d.token < size for d in got)
    assert_same(got, reference(torch.zeros(40, 5000), rows), rows)


def test_a_nucleus_within_a_top_k_longer_than_the_short_list() -> None:
    """The nucleus fits the short list, yet its size depends on the probability of tokens beyond it."""
    x = torch.cat((torch.linspace(3, 1, 60), torch.zeros(940))).repeat(40, 1)
    params = SamplingParams(1.0, top_k=600, top_p=0.3057)
    rows = [RowSpec(params, position) for position in range(40)]
    size = len(filter_log_probs(x[0].numpy(), params)[0])
    assert size < sampling.FIRST_CANDIDATES < params.top_k
    assert_same(Sampler(1000).draw(x, rows), reference(x, rows), rows)


def test_a_row_does_not_depend_on_its_batch() -> None:
    rng = np.random.default_rng(9)
    x = torch.from_numpy(rng.normal(0, 3, (60, 700)).astype(np.float32))
    rows = [RowSpec(random_params(rng, 700), int(rng.integers(0, 50))) for _ in range(60)]
    sampler = Sampler(700)
    together = sampler.draw(x, rows)
    backwards = sampler.draw(x.flip(0), rows[::-1])[::-1]
    alone = [sampler.draw(x[i : i + 1], rows[i : i + 1])[0] for i in range(60)]
    assert [d.token for d in together] == [d.token for d in backwards] == [d.token for d in alone]


def test_more_rows_than_the_noise_cache_holds() -> None:
    x = torch.randn(50, 90, generator=torch.Generator().manual_seed(0))
    rows = [RowSpec(SamplingParams(1.0, seed=5), position) for position in range(50)]
    small = Sampler(90, noise_cache_bytes=3 * 90 * 8)
    assert_same(small.draw(x, rows), reference(x, rows), rows)


def test_no_rows_no_draws() -> None:
    assert Sampler(9).draw(torch.empty(0, 9), []) == []


@pytest.mark.parametrize("shape", [(2, 9), (1, 8), (9,)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="logits are"):
        Sampler(9).draw(torch.zeros(shape), [RowSpec(SamplingParams(), 0)])


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(1.0), SamplingParams(1.0, top_p=0.5)])
def test_bad_rows_are_named_and_nothing_is_drawn(params: SamplingParams) -> None:
    x = torch.zeros(6, 20)
    x[1, 7] = math.nan
    x[3] = -math.inf
    x[4, 0] = math.inf
    with pytest.raises(BadLogitsError, match="row 1, 3, 4") as refusal:
        Sampler(20).draw(x, [RowSpec(params, 0)] * 6)
    assert refusal.value.rows == (1, 3, 4)


def test_a_position_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="position"):
        RowSpec(SamplingParams(), -1)


# --- can these tests fail? ----------------------------------------------------------------------------------------


class WrongNoise(HostNoise):
    """Reads a neighbouring position: a mistake that no distribution test can see."""

    def rows(self, keys: Sequence[NoiseKey], vocabulary_size: int) -> torch.Tensor:
        return super().rows([NoiseKey(key.seed, key.position + 1) for key in keys], vocabulary_size)


def test_noise_one_position_off_is_noticed() -> None:
    x = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    rows = [RowSpec(SamplingParams(1.0), position) for position in range(20)]
    with pytest.raises(AssertionError):
        assert_same(Sampler(50, noise=WrongNoise()).draw(x, rows), reference(x, rows), rows)


def test_a_short_list_that_is_trusted_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = sampling._support

    def trusting(x: torch.Tensor, filters: sampling._Filters, width: int) -> sampling._Support:
        support = honest(x, filters, width)
        return sampling._Support(support.ids, support.z, support.count, torch.ones_like(support.settled))

    x = torch.randn(40, 2000, generator=torch.Generator().manual_seed(2)) * 0.1
    rows = [RowSpec(SamplingParams(1.0, top_p=0.9057), position) for position in range(40)]
    expected = reference(x, rows)
    assert_same(Sampler(2000).draw(x, rows), expected, rows)
    monkeypatch.setattr(sampling, "_support", trusting)
    with pytest.raises(AssertionError):
        assert_same(Sampler(2000).draw(x, rows), expected, rows)


def test_frequencies_over_positions_match_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, -0.5, 2.0, 0.3, 1.4, -2.0])
    params = SamplingParams(0.7, top_p=0.9, seed=21)
    ids, log_p = filter_log_probs(logits.numpy(), params)
    draws = Sampler(7).draw(logits.expand(20_000, 7), [RowSpec(params, i) for i in range(20_000)])
    counts = np.bincount([d.token for d in draws], minlength=7)
    assert counts[ids].sum() == 20_000
    expected = np.exp(log_p) * 20_000
    chi_square = float(((counts[ids] - expected) ** 2 / expected).sum())
    assert chi_square < 3 * len(ids) + 10
