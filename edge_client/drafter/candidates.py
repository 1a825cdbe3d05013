"""From a drafter's scores to candidates: the best tokens of a row, the coupled noise, the cost of each."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_client.drafter.interface import Candidate
from shared.noise import gumbel_row
from shared.sampling import BadLogitsError, SamplingParams, rank_candidates

Ids = NDArray[np.int64]
Floats = NDArray[np.floating]
TopTokens = tuple[Ids, Floats]
"""(ids, ln p), each [rows, count], likeliest first; p is the softmax over the whole vocabulary."""

NOISE_POOL: Final = 32
"""Tokens among which the coupled noise is evaluated: beyond them no token is likely to win a draw."""
GREEDY_POOL: Final = 8
"""Tokens that a greedy estimate is normalised over."""
WHOLE_VOCABULARY: Final = 16_384
"""Up to so many tokens the noise of all is worth its price: what a flat drafter draws is often none of its best few."""
NOISE_ROWS: Final = 256
"""Positions whose noise is remembered: siblings and later forwards share it."""
LEAST_PROBABILITY: Final = 1e-9
"""Estimates are floored here, so that every cost is finite."""
GREATEST_COST: Final = -math.log(LEAST_PROBABILITY)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Makes the drafter's own probability p an estimate of what the target draws. Measured by `scripts.pair`."""

    greedy_sharpness: float | None = None
    """A greedy target takes the likeliest token always, so a drafter's p understates its favourites: the estimate is
    p ** sharpness, normalised over the few candidates at hand. None: p itself."""

    sampled_sharpness: float = 1.0
    """The same for the scores with noise, of a draw from the whole vocabulary."""

    def __post_init__(self) -> None:
        for name in ("greedy_sharpness", "sampled_sharpness"):
            value: float | None = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {value}")

    def greedy(self, estimates_ln: Floats) -> Floats:
        """Ln of the estimates, [rows, count], from ln p of the `count` likeliest tokens."""
        if self.greedy_sharpness is None:
            return estimates_ln
        return _softmax_ln(self.greedy_sharpness * estimates_ln)


IDENTITY: Final = Calibration()


def pool_size(sampling: SamplingParams, width: int) -> int:
    """How many of a row's best tokens `rank` wants to see."""
    return max(width, GREEDY_POOL if sampling.greedy else NOISE_POOL)


def top_tokens(logits: Floats, count: int) -> TopTokens:
    """The `count` greatest of each row [rows, V] (fewer if V is smaller), equal ones by lowest id."""
    chosen = [_greatest(row, count) for row in logits]
    values = np.stack([row[ids] for row, ids in zip(logits, chosen, strict=True)])
    greatest = values[:, :1]
    totals = np.exp(logits - greatest).sum(axis=-1, keepdims=True)
    return np.stack(chosen), values - greatest - np.log(totals)


def _greatest(row: Floats, count: int) -> Ids:
    """Ids of the `count` greatest. The count-th greatest maximum of small blocks is a bound that at least `count`
    elements reach and few others: several times faster than a partition of the row.
    """
    width = int(len(row) ** 0.5)
    whole = len(row) - len(row) % width
    if count >= width:
        reaching = np.arange(len(row))
    else:
        maxima = row[:whole].reshape(-1, width).max(axis=1)
        reaching = np.flatnonzero(row >= np.partition(maxima, -count)[-count])
    return reaching[np.argsort(-row[reaching], kind="stable")[:count]]


def rank(
    top: TopTokens,
    sampling: SamplingParams,
    positions: Sequence[int],
    width: int,
    calibration: Calibration = IDENTITY,
) -> list[list[Candidate]]:
    """The `width` best candidates of each row, likeliest first.

    Args:
        top: a row per path, of `pool_size(sampling, width)` tokens or as many as there are.
        positions: of each row, the index of the token being drawn: the length of the prefix.

    Raises:
        BadLogitsError: the model computed NaN or +inf.
    """
    ids, estimates_ln = top
    if sampling.greedy:
        estimates_ln = calibration.greedy(estimates_ln)
    else:
        ids, estimates = rank_candidates(ids, estimates_ln, sampling, np.array(positions, np.int64))
        estimates_ln = np.log(np.maximum(estimates, LEAST_PROBABILITY))
    tokens, costs = ids[:, :width].tolist(), _costs(estimates_ln[:, :width]).tolist()
    if broken := [row for row, (cost, *_) in enumerate(costs) if math.isnan(cost)]:
        raise BadLogitsError(broken)
    return [list(map(Candidate, *row)) for row in zip(tokens, costs, strict=True)]


def draws_from_all(sampling: SamplingParams, vocabulary_size: int) -> bool:
    """Whether a draw is from the whole vocabulary, and that is small enough to take all of it: see `rank_all`."""
    return not sampling.greedy and not sampling.filtered and vocabulary_size <= WHOLE_VOCABULARY


class NoiseRows:
    """The coupled noise of whole vocabularies, remembered by (seed, position)."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._rows: OrderedDict[tuple[int, int], NDArray[np.float32]] = OrderedDict()

    def row(self, seed: int, position: int) -> NDArray[np.float32]:
        """Gumbel noise float32 [V]. Rounded: a drafter's draw is a suggestion, the target's is not."""
        key = (seed, position)
        found = self._rows.get(key)
        if found is None:
            found = self._rows[key] = gumbel_row(seed, position, self._vocabulary_size).astype(np.float32)
            if len(self._rows) > NOISE_ROWS:
                self._rows.popitem(last=False)
        else:
            self._rows.move_to_end(key)
        return found


def rank_all(
    logits: Floats,
    sampling: SamplingParams,
    positions: Sequence[int],
    width: int,
    noise: NoiseRows,
    calibration: Calibration = IDENTITY,
) -> list[list[Candidate]]:
    """The `width` tokens of each row [rows, V] that an unfiltered draw with the target's noise is likeliest to take.

    Raises:
        BadLogitsError: the model computed NaN or +inf.
    """
    found: list[list[Candidate]] = []
    count = min(max(width, GREEDY_POOL), logits.shape[-1])
    for number, (row, position) in enumerate(zip(logits, positions, strict=True)):
        # As the law has it, up to a constant of the row and the factor 1 / T.
        scores = row + np.float32(sampling.temperature) * noise.row(sampling.seed, position)
        if not scores.max() < math.inf:
            raise BadLogitsError([number])
        best = np.argpartition(scores, -count)[-count:]
        best = best[np.argsort(-scores[best], kind="stable")]
        estimates_ln = _softmax_ln(calibration.sampled_sharpness * scores[best][None].astype(np.float64))
        costs = _costs(estimates_ln[0, :width]).tolist()
        found.append(list(map(Candidate, best[:width].tolist(), costs)))
    return found


def _softmax_ln(scores: Floats) -> Floats:
    """Ln of the softmax of [rows, count], the greatest first in each row."""
    below = scores - scores[:, :1]
    result: Floats = below - np.log(np.exp(below).sum(axis=-1, keepdims=True))
    return result


def _costs(estimates_ln: Floats) -> Floats:
    clipped: Floats = np.clip(-estimates_ln, 0.0, GREATEST_COST)
    return clipped
