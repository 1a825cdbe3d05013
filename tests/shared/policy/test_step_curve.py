from __future__ import annotations

import random

import pytest

from shared.policy.batching import MeasuredBudget
from shared.policy.step_curve import KNEES, Hinge, StepCurve
from tests.shared.policy.test_batching import chain, counts, pending


def roofline_us(tokens: int) -> float:
    """An accelerator's: 30 ms up to 64 tokens, then in proportion."""
    return 30_000.0 * max(1.0, tokens / 64)


def learned(sizes, duration_us, memory=1.0) -> StepCurve:
    curve = StepCurve(memory)
    for tokens in sizes:
        curve.learn(tokens, round(duration_us(tokens)))
    return curve


def test_a_hinge():
    hinge = Hinge(flat_us=100.0, knee=8, token_us=5.0)
    assert [hinge.duration_us(tokens) for tokens in (1, 8, 9, 18)] == [100.0, 100.0, 105.0, 150.0]
    assert [hinge.next_us(tokens) for tokens in (7, 8, 9)] == [0.0, 5.0, 5.0]


def test_the_knee_is_found():
    hinge = learned(range(1, 129), roofline_us).hinge
    assert hinge.knee == 64
    assert hinge.token_us == pytest.approx(30_000 / 64, rel=0.01)
    assert hinge.duration_us(32) == pytest.approx(30_000, rel=0.01)


def test_a_straight_line_has_no_knee():
    hinge = learned(range(1, 129), lambda tokens: 2_000 + 100 * tokens).hinge
    assert hinge.knee == 0
    assert hinge.token_us == pytest.approx(100.0, rel=0.01)


@pytest.mark.parametrize("knee", KNEES[:-3])
def test_noise_does_not_move_it_far(knee):
    draw = random.Random(knee)
    curve = learned(
        [draw.randint(1, 200) for _ in range(400)],
        lambda tokens: (10_000 + 200 * max(0, tokens - knee)) * draw.uniform(0.95, 1.05),
    )
    for tokens in (1, 40, 100, 190):
        expected = 10_000 + 200 * max(0, tokens - knee)
        assert curve.hinge.duration_us(tokens) == pytest.approx(expected, rel=0.05)


def test_steps_of_one_size_and_shorter_larger_ones_are_taken_as_flat():
    assert learned([40] * 50, roofline_us).hinge.token_us == 0.0
    assert learned(range(1, 100), lambda tokens: 100_000 - 100 * tokens).hinge.token_us == 0.0


def test_what_is_beyond_recent_steps_is_tried_again():
    curve = learned(range(1, 129), roofline_us, memory=0.98)
    for _ in range(600):
        curve.learn(60, 30_000)
    assert curve.hinge.next_us(100) < 30_000 / 64 / 4


def on_a_roofline(steepness: float = 1.0) -> MeasuredBudget:
    return MeasuredBudget(
        curve=learned(range(1, 129), lambda tokens: 30_000 + steepness * (roofline_us(tokens) - 30_000))
    )


def test_what_is_free_is_taken_and_what_costs_everybody_is_not():
    # 8 ends and 56 drafts are free; beyond them a node costs each of 8 sessions 1/64 of a step.
    for cost in (0.01, 2.0):
        assert sum(counts(on_a_roofline(), 8, pending(*[20] * 8, cost=cost))) == 56
    assert sum(counts(on_a_roofline(), 64, pending(*[20] * 64, cost=0.01))) == 0
    # Where it costs a tenth of that, likely ones are worth it.
    assert sum(counts(on_a_roofline(0.1), 8, pending(*[20] * 8, cost=0.01))) == 120
    assert sum(counts(on_a_roofline(0.1), 8, pending(*[20] * 8, cost=2.0))) == 56


def test_the_likelier_node_goes_first_whosever_it_is():
    unsure, sure = counts(on_a_roofline(), 50, [chain(20, cost=1.5), chain(20, cost=0.05, key=1)])
    assert sure > 3 * unsure


def test_advice_follows_what_steps_have_room_for():
    budget = on_a_roofline()
    roomy = budget.advice(8)
    many, few = pending(*[8] * 64), pending(*[8] * 4)
    for _ in range(200):
        budget.choose(64, many)
    full = budget.advice(8)
    for _ in range(200):
        budget.choose(4, few)
    assert full < roomy / 8
    assert budget.advice(4) == roomy
