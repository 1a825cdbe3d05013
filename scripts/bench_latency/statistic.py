"""Figures with their uncertainty: the bootstrap over units, which keeps what was paired together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

T = TypeVar("T")

RESAMPLES: Final = 400
COVERAGE: Final = (2.5, 97.5)
"""Percentiles: a 95 % interval."""
SEED: Final = 20_240_607
"""Of the resampling: the same results give the same report."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % confidence interval; of one unit alone the interval is unknown."""

    value: float
    low: float | None
    high: float | None

    def inverse(self) -> Interval:
        """Of 1 / figure."""
        ends = [None if end is None else 1.0 / end for end in (self.high, self.low)]
        return Interval(1.0 / self.value, *ends)


def interval(samples: Sequence[T], figure: Callable[[Sequence[T]], float | None]) -> Interval | None:
    """`figure` of the samples, and the percentile bootstrap (Efron 1979) over them; None: it has no value.

    Samples are whole units: tokens within one generation are anything but independent.
    """
    value = figure(samples) if samples else None
    if value is None:
        return None
    if len(samples) < 2:
        return Interval(value, None, None)
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(0, len(samples), (RESAMPLES, len(samples)))
    found = [figure([samples[index] for index in indices]) for indices in drawn]
    known = [one for one in found if one is not None]
    low, high = np.percentile(known, COVERAGE)
    return Interval(value, float(low), float(high))


def median(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def percentile_intervals(
    samples: Sequence[Sequence[float]], shares: Sequence[float]
) -> tuple[Interval | None, ...]:
    """Percentiles (0..100, linear between neighbours) of all values of all samples; see `interval`."""
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    if not any(array.size for array in arrays):
        return (None,) * len(shares)
    values = np.percentile(np.concatenate(arrays), shares)
    if len(arrays) < 2:
        return tuple(Interval(float(value), None, None) for value in values)
    drawn = np.random.default_rng(SEED).integers(0, len(arrays), (RESAMPLES, len(arrays)))
    pooled = (np.concatenate([arrays[index] for index in indices]) for indices in drawn)
    found = np.array([np.percentile(one, shares) for one in pooled if one.size])
    low, high = np.percentile(found, COVERAGE, axis=0)
    return tuple(Interval(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True))


def ratio(part: float, whole: float) -> float | None:
    """None: there is nothing to divide by."""
    return part / whole if whole else None
