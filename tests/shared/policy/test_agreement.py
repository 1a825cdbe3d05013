from __future__ import annotations

import math

import pytest

from shared.policy.agreement import SUREST, Calibrated, Claimed
from shared.sim.random import Keyed


def cost(chance: float) -> float:
    return -math.log(chance)


def feed(agreement: Calibrated, claimed: float, true: float, verdicts: int = 2000) -> None:
    random = Keyed(3, "verdicts")
    for _ in range(verdicts):
        agreement.judged([(cost(claimed), random.uniform() < true)])


def test_claims_are_believed_where_that_is_asked_for():
    Claimed().judged([(1.0, True)])
    assert Claimed().cost(1.25) == 1.25


def test_before_anything_is_judged_the_drafter_is_believed():
    assert Calibrated().cost(1.25) == pytest.approx(1.25)


@pytest.mark.parametrize(("claimed", "true"), [(0.9, 0.5), (0.5, 0.9), (0.1, 0.02), (0.3, 0.3)])
def test_an_estimate_comes_to_what_claims_of_its_kind_were_worth(claimed, true):
    agreement = Calibrated()
    feed(agreement, claimed, true)
    assert math.exp(-agreement.cost(cost(claimed))) == pytest.approx(true, rel=0.15, abs=0.02)


def test_another_kind_of_claim_is_not_touched():
    agreement = Calibrated()
    feed(agreement, 0.9, 0.2)
    assert agreement.cost(cost(0.3)) == pytest.approx(cost(0.3))


def test_within_a_kind_the_order_stays():
    agreement = Calibrated()
    feed(agreement, 0.5, 0.2)
    assert agreement.cost(cost(0.52)) < agreement.cost(cost(0.5)) < agreement.cost(cost(0.48))


def test_nothing_is_ever_certain_or_below_no_cost():
    agreement = Calibrated()
    feed(agreement, 0.7, 1.0)
    assert agreement.cost(cost(0.7)) >= cost(SUREST)
    assert agreement.cost(0.0) >= cost(SUREST)


def test_what_was_true_long_ago_is_forgotten():
    agreement = Calibrated()
    feed(agreement, 0.5, 1.0)
    feed(agreement, 0.5, 0.1, verdicts=4000)
    assert math.exp(-agreement.cost(cost(0.5))) == pytest.approx(0.1, rel=0.4)
