"""Quantities that differ from one occasion to the next: distributions, and the file of a recorded workload."""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from scripts.simulate.schema_base import MOST_SECONDS, MOST_TOKENS, Describing, Model, Within, says, wrong

_NORMAL: Final = NormalDist()
_LEAST_UNIT: Final = 2.0**-54
Quantity = Annotated[float, Within(0, 1_000_000)]


class Constant(Model):
    """Always the same."""

    kind: Literal["constant"] = "constant"
    value: Quantity
    """Which."""

    @property
    def support(self) -> tuple[tuple[str, float], ...]:
        """What it may come to at least and at most, with the keys that say so."""
        return (("value", self.value),)

    def at(self, draw: float) -> float:
        """Its value for a draw in 0..1: the quantile function."""
        return self.value


class _Bounded(Model):
    least: Quantity
    """Nothing below it."""
    most: Quantity
    """Nothing above it."""

    @model_validator(mode="after")
    def _ordered(self) -> _Bounded:
        if self.least > self.most:
            raise wrong(f"{self.least:g} is more than most, {self.most:g}", "least")
        return self

    @property
    def support(self) -> tuple[tuple[str, float], ...]:
        """See `Constant.support`."""
        return (("least", self.least), ("most", self.most))

    def _held(self, value: float) -> float:
        return min(max(value, self.least), self.most)


class Uniform(_Bounded):
    """Anything between two bounds, each as likely."""

    kind: Literal["uniform"] = "uniform"

    def at(self, draw: float) -> float:
        """See `Constant.at`."""
        return self.least + draw * (self.most - self.least)


class Lognormal(_Bounded):
    """Mostly near the median, sometimes far above it; what falls outside the bounds is taken for the bound."""

    kind: Literal["lognormal"] = "lognormal"
    median: Quantity
    """Half of all values are below it."""
    sigma: Annotated[float, Within(0, 5)]
    """Standard deviation of the logarithm: 0.5 is narrow, 1 is wide."""

    def at(self, draw: float) -> float:
        """See `Constant.at`."""
        deviation = _NORMAL.inv_cdf(min(max(draw, _LEAST_UNIT), 1.0 - 2 * _LEAST_UNIT))
        return self._held(self.median * math.exp(self.sigma * deviation))


class Exponential(_Bounded):
    """The gaps of what happens at random; what falls outside the bounds is taken for the bound."""

    kind: Literal["exponential"] = "exponential"
    mean: Quantity
    """Before the bounds act."""

    def at(self, draw: float) -> float:
        """See `Constant.at`."""
        return self._held(-self.mean * math.log1p(-draw))


class Choice(Model):
    """One of some values."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Quantity, ...], Field(min_length=1, max_length=10_000)]
    """Which."""
    weights: tuple[Quantity, ...] | None = None
    """How often each is taken, in any unit. Left out: all alike."""

    @model_validator(mode="after")
    def _weighed(self) -> Choice:
        if self.weights is not None and len(self.weights) != len(self.values):
            raise wrong(f"{len(self.weights)} weights for {len(self.values)} values: one each", "weights")
        if self.weights is not None and not any(self.weights):
            raise wrong("at least one weight must be above 0", "weights")
        return self

    @property
    def support(self) -> tuple[tuple[str, float], ...]:
        """See `Constant.support`."""
        return (("values", min(self.values)), ("values", max(self.values)))

    def at(self, draw: float) -> float:
        """See `Constant.at`."""
        sums = list(itertools.accumulate(self.weights or (1.0,) * len(self.values)))
        return self.values[min(bisect.bisect_right(sums, draw * sums[-1]), len(self.values) - 1)]


def _spelled_out(data: Any) -> Any:
    """A bare number is a constant."""
    if isinstance(data, int | float) and not isinstance(data, bool):
        return {"kind": "constant", "value": data}
    return says(data, "kind", AnySpread)


AnySpread = Constant | Uniform | Lognormal | Exponential | Choice
Spread = Annotated[
    AnySpread,
    Field(discriminator="kind"),
    BeforeValidator(_spelled_out, json_schema_input_type=Any),
]
"""A distribution."""


@dataclass(frozen=True, slots=True)
class Between(Describing):
    """Nothing that a distribution may come to lies outside."""

    least: float
    most: float

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """See pydantic's documentation of custom types."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __str__(self) -> str:
        return str(Within(self.least, self.most))

    def _check(self, spread: AnySpread) -> Any:
        for key, value in spread.support:
            if not self.least <= value <= self.most:
                raise wrong(f"{value:g} is not a number from {self}", key)
        return spread


TokenSpread = Annotated[Spread, Between(1, MOST_TOKENS)]
SecondsSpread = Annotated[Spread, Between(0, MOST_SECONDS)]
