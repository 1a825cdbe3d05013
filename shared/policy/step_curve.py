"""What a verify step costs by its size, measured: flat up to a knee, then a straight line (cloud)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

KNEES: Final = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sizes up to which a step may be flat: an accelerator reads the weights once, whatever is computed with them."""
MEASUREMENTS: Final = 8
"""Steps before anything but their mean is believed."""


@dataclass(slots=True)
class _Line:
    """Sums for a least-squares line over the tokens beyond one knee."""

    tokens: float = 0.0
    square: float = 0.0
    product: float = 0.0


@dataclass(frozen=True, slots=True)
class Hinge:
    """A step of n tokens takes `flat_us` + `token_us` * max(0, n - `knee`)."""

    flat_us: float
    knee: int
    token_us: float

    def duration_us(self, tokens: int) -> float:
        """Of a step with so many tokens."""
        return self.flat_us + self.token_us * max(0, tokens - self.knee)

    def next_us(self, tokens: int) -> float:
        """What one more adds to a step with so many tokens."""
        return self.token_us if tokens >= self.knee else 0.0


@dataclass(slots=True)
class StepCurve:
    """Least squares over the recent steps, for each knee; the one that explains them best is believed.

    A single line through a curve that is flat and then rises has a slope where there is none, and too little of one
    where it rises: nodes that cost nothing would be refused, and those that cost everybody let in.
    """

    memory: float = 0.995
    """Weight of a step, one step later."""
    _weight: float = 0.0
    _duration: float = 0.0
    _lines: list[_Line] = field(default_factory=lambda: [_Line() for _ in KNEES])
    _hinge: Hinge | None = None

    def learn(self, tokens: int, duration_us: int) -> None:
        """One more measurement."""
        keep = self.memory
        self._weight = keep * self._weight + 1.0
        self._duration = keep * self._duration + duration_us
        for knee, line in zip(KNEES, self._lines, strict=True):
            beyond = tokens - knee if tokens > knee else 0
            line.tokens = keep * line.tokens + beyond
            line.square = keep * line.square + beyond * beyond
            line.product = keep * line.product + beyond * duration_us
        self._hinge = None

    @property
    def mean_us(self) -> float:
        """Average duration; 0: nothing was measured."""
        return self._duration / self._weight if self._weight else 0.0

    @property
    def hinge(self) -> Hinge:
        """As it is known now; flat until steps of different sizes have been seen."""
        if self._hinge is None:
            self._hinge = self._fit()
        return self._hinge

    def _fit(self) -> Hinge:
        mean_us = self.mean_us
        best, most = Hinge(mean_us, 0, 0.0), 0.0
        if self._weight < MEASUREMENTS:
            return best
        for knee, line in zip(KNEES, self._lines, strict=True):
            mean = line.tokens / self._weight
            variance = line.square / self._weight - mean * mean
            covariance = line.product / self._weight - mean * mean_us
            # The added variance lets a slope sink to 0 that no recent step was large enough to show, so that larger
            # steps are tried again.
            slope = max(0.0, covariance / (variance + 1.0))
            explained = slope * (2.0 * covariance - slope * variance)
            if explained > most:
                best, most = Hinge(mean_us - slope * mean, knee, slope), explained
        return best
