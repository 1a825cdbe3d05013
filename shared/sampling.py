"""The sampling law, and its reference implementation in numpy (design section 3).

The token at a position is a pure function of (logits, parameters, position). In order, in float64, ties by
lowest id:

1. logit processors: none are defined yet; this is their place, and a request that names one is refused.
2. temperature 0 is greedy: the token is the argmax and nothing below applies. Otherwise every logit becomes
   z = (logit - greatest logit) / temperature; the greatest is subtracted first so that none overflows.
   Tokens with z = -inf leave the support.
3. top-k keeps the k greatest z.
4. top-p acts on what top-k left, renormalised: in descending order a token stays while the probability of
   those before it is less than top_p. So the first always stays, and the kept ones are the fewest that reach
   top_p.
5. min-p acts on what top-p left: a token stays if its probability is at least min_p times the greatest. A
   ratio does not feel normalisation, so the test is z >= ln(min_p), which is exact between libraries.
6. What is left is renormalised to p, and the token is argmax(log p_i + g(seed, position, i)), g from
   `shared.noise`.

Two implementations of the law can differ only in the last bits of exp and log, hence only where two scores,
or a cumulated probability and top_p, agree to about 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.errors import SlipstreamError
from shared.noise import MAX_POSITION, MAX_SEED, Float64, Int64, gumbel

Bool = npt.NDArray[np.bool_]
Logits = npt.NDArray[np.floating[Any]]

MAX_TOP_K: Final = 2**32 - 1
OUTSIDE_FILTER_NATS: Final = 2.0
"""What a candidate that the drafter's own filters drop loses in the drafter's ranking. Only speed depends on
it."""


class BadLogitsError(SlipstreamError):
    """Logits with a NaN, a +inf or no finite value: no fact may come from them. `rows` numbers them."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(f"logits row {', '.join(map(str, rows))}: NaN, +inf or no finite value")
        self.rows = tuple(rows)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a session draws its tokens; part of every fact's identity. The default is greedy.

    Raises:
        ValueError: a field outside its range, naming both.
    """

    temperature: float = 0.0
    """In [0, inf); 0 is greedy, whatever the other fields say."""
    top_k: int = 0
    """Tokens kept by rank, in [0, 2^32); 0 is off."""
    top_p: float = 1.0
    """Probability that the kept tokens have to reach, in (0, 1]; 1 is off."""
    min_p: float = 0.0
    """Least probability kept, as a share of the greatest, in [0, 1]; 0 is off."""
    seed: int = 0
    """Key of the noise, in [0, 2^64)."""

    def __post_init__(self) -> None:
        _require("temperature", self.temperature, float, "[0, inf)", lambda x: 0.0 <= x < math.inf)
        _require("top_k", self.top_k, int, "[0, 2^32)", lambda x: 0 <= x <= MAX_TOP_K)
        _require("top_p", self.top_p, float, "(0, 1]", lambda x: 0.0 < x <= 1.0)
        _require("min_p", self.min_p, float, "[0, 1]", lambda x: 0.0 <= x <= 1.0)
        _require("seed", self.seed, int, "[0, 2^64)", lambda x: 0 <= x <= MAX_SEED)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def filtered(self) -> bool:
        """Whether the support can be less than all tokens with a finite logit."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def log_min_p(self) -> float:
        """ln(min_p), -inf when off: one number for every implementation, so that min-p is exact."""
        return math.log(self.min_p) if self.min_p > 0.0 else -math.inf


@dataclass(frozen=True, slots=True)
class Draw:
    """What the law decides at one position."""

    token: int
    margin: float
    """Best less second best in the decision made: of raw logits (greedy), else of log p + g, in nats; inf if
    the support is one token."""
    logprob: float
    """ln of the token's probability: of the filtered, tempered distribution it was drawn from; greedy: of
    softmax(logits)."""


def filter_log_probs(logits: Logits, params: SamplingParams) -> tuple[Int64, Float64]:
    """The distribution that a draw is made from: steps 1 to 5 of the header.

    Args:
        logits: [V], any float type; -inf is a token that cannot be drawn.

    Returns:
        ids int64 [m] ascending, and log p float64 [m], which sums to one; greedy: the argmax with log p = 0.

    Raises:
        BadLogitsError: see there.
    """
    x = _checked(logits)
    if params.greedy:
        return np.array([np.argmax(x)], dtype=np.int64), np.zeros(1)
    z = _tempered(x, params.temperature)
    ids = np.flatnonzero(z > -np.inf).astype(np.int64)
    if params.filtered:
        order = ids[np.argsort(-z[ids], kind="stable")]
        ids = np.sort(order[_kept_in_order(z[order], params)])
    z = z[ids]
    return ids, z - np.log(np.exp(z).sum())


def draw(logits: Logits, params: SamplingParams, position: int) -> Draw:
    """The target's token at `position` (the length of the prefix that the logits [V] follow).

    Raises:
        BadLogitsError: see there.
        ValueError: position outside [0, 2^63).
    """
    _check_position(position)
    if params.greedy:
        x = _checked(logits)
        token = int(np.argmax(x))
        return Draw(token, _margin(x), -float(np.log(np.exp(x - x[token]).sum())))
    ids, log_p = filter_log_probs(logits, params)
    scores = log_p + gumbel(params.seed, position, ids)
    best = int(np.argmax(scores))
    return Draw(int(ids[best]), _margin(scores), float(log_p[best]))


def rank_candidates(
    ids: Int64, logits: Logits, params: SamplingParams, position: int | Int64
) -> tuple[Int64, Float64]:
    """The drafter's candidates, in the order in which it believes the target draws them.

    Greedy: by logit. Otherwise by logit + temperature * g, with the very noise that the target will use
    (Daliri, Musco, Suresh 2024, arXiv 2408.07978). A candidate that the filters drop is not out of the
    question, for the target's filters act on the target's distribution; but it ranks below the best of those
    kept, by `OUTSIDE_FILTER_NATS` in g's unit at least, so that a drafter that is the target is always right.
    The estimate is the softmax of these scores: a drafter's logit is the target's plus an error, and an error
    of the size of standard Gumbel noise would make it exact. All of it is suggestion: only speed depends on
    it, so a calibrated estimate may replace it.

    Args:
        ids: [..., m], the drafter's few dozen best tokens, different within a row.
        logits: [..., m], theirs; need not be normalised.
        position: index of the token being drawn; an array of shape [...] for several nodes at once.

    Returns:
        token ids int64 [..., m], and estimates float64 [..., m], descending, summing to 1 over the last axis.

    Raises:
        BadLogitsError: a row with a NaN, a +inf or no finite value.
        ValueError: a position or an id outside its range.
    """
    x = _checked(logits)
    order = np.lexsort((ids, -x), axis=-1)
    ids, x = np.take_along_axis(ids, order, -1), np.take_along_axis(x, order, -1)
    scores = x - x[..., :1]
    if not params.greedy:
        where = position if isinstance(position, int) else position[..., None]
        scores += params.temperature * gumbel(params.seed, where, ids)
        kept = _kept_in_order(_tempered(x, params.temperature), params)
        best_kept = np.where(kept, scores, -np.inf).max(axis=-1, keepdims=True)
        lowered = np.minimum(scores, best_kept) - params.temperature * OUTSIDE_FILTER_NATS
        scores = np.where(kept, scores, lowered)
        order = np.argsort(-scores, axis=-1, kind="stable")
        ids, scores = np.take_along_axis(ids, order, -1), np.take_along_axis(scores, order, -1)
    weights = np.exp(scores - scores[..., :1])
    return ids, weights / weights.sum(-1, keepdims=True)


def _kept_in_order(z: Float64, params: SamplingParams) -> Bool:
    """Which of z, descending along the last axis, top-k, top-p and min-p keep: always a prefix."""
    weights = np.exp(z)
    if params.top_k:
        weights[..., params.top_k :] = 0.0
    kept: Bool = z >= params.log_min_p
    if params.top_k:
        kept[..., params.top_k :] = False
    if params.top_p < 1.0:
        reached = np.cumsum(weights, axis=-1)
        kept[..., 1:] &= reached[..., :-1] < params.top_p * reached[..., -1:]
    return kept


def _tempered(x: Float64, temperature: float) -> Float64:
    with np.errstate(over="ignore"):  # a hopeless token at a tiny temperature: -inf is what it should become
        z: Float64 = (x - x.max(axis=-1, keepdims=True)) / temperature
    return z


def _checked(logits: Logits) -> Float64:
    x = np.asarray(logits, dtype=np.float64)
    good = np.isfinite(x.max(axis=-1))  # max hands on a NaN
    if not good.all():
        raise BadLogitsError([int(row) for row in np.flatnonzero(~good)])
    return x


def _margin(scores: Float64) -> float:
    if len(scores) == 1:
        return math.inf
    second, best = np.partition(scores, -2)[-2:]
    return float(best - second)


def _check_position(position: int) -> None:
    if not 0 <= position <= MAX_POSITION:
        raise ValueError(f"position must lie in [0, 2^63), not {position}")


def _require(
    name: str, value: object, kind: type[int | float], allowed: str, within: Callable[[float], bool]
) -> None:
    kinds, words = ((int,), "an integer") if kind is int else ((int, float), "a number")
    if isinstance(value, bool) or not isinstance(value, kinds) or not within(value):
        raise ValueError(f"{name} must be {words} in {allowed}, not {value!r}")
