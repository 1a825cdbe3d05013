"""From a drafter's scores to candidates: the best tokens of a row, the coupled noise, the cost of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_client.drafter.interface import Candidate
from shared.sampling import BadLogitsError, SamplingParams, rank_candidates

Ids = NDArray[np.int64]
Floats = NDArray[np.floating]
TopTokens = tuple[Ids, Floats]
"""(ids, ln p), each [rows, count], likeliest first; p is the softmax over the whole vocabulary."""

NOISE_POOL: Final = 32
"""Tokens among which the coupled noise is evaluated: beyond them no token is likely to win a draw."""
GREEDY_POOL: Final = 8
"""Tokens that a greedy estimate is normalised over."""
LEAST_PROBABILITY: Final = 1e-9
"""Estimates are floored here, so that every cost is finite."""
GREATEST_COST: Final = -math.log(LEAST_PROBABILITY)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Makes the drafter's own probability p an estimate of what the target draws. Measured by `scripts.pair`."""

    greedy_sharpness: float | None = None
    """A greedy target takes the likeliest token always, so a drafter's p understates its favourites: the estimate is
    p ** sharpness, normalised over the few candidates at hand. None: p itself."""

    def __post_init__(self) -> None:
        if self.greedy_sharpness is not None and not 0.0 < self.greedy_sharpness < math.inf:
            raise ValueError(f"greedy_sharpness must be above 0 and finite, not {self.greedy_sharpness}")

    def greedy(self, estimates_ln: Floats) -> Floats:
        """Ln of the estimates, [rows, count], from ln p of the `count` likeliest tokens."""
        if self.greedy_sharpness is None:
            return estimates_ln
        sharp = self.greedy_sharpness * (estimates_ln - estimates_ln[:, :1])
        result: Floats = sharp - np.log(np.exp(sharp).sum(axis=-1, keepdims=True))
        return result


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


def _costs(estimates_ln: Floats) -> Floats:
    clipped: Floats = np.clip(-estimates_ln, 0.0, GREATEST_COST)
    return clipped
