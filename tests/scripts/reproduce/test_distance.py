"""The break-even, and who wins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.reproduce.distance import ARMS, CellTask, DistanceSize, Way, break_evens, cell, winner
from scripts.reproduce.distance_checks import claims

SIZE = DistanceSize((0.0, 50.0), (0.8,), (True,), 1, 60, counted_texts=30)


@pytest.fixture(scope="module")
def near_and_far():
    return cell(CellTask(0.0, 0.8, True, 1, 80)), cell(CellTask(60.0, 0.8, True, 1, 80))


def test_the_formula_is_an_upper_bound_and_texts_meet_the_exact_one():
    for one in break_evens(replace(SIZE, tokens=400, counted_texts=80)):
        assert one.exact_ms <= one.formula_ms
        if one.lookahead <= 6:
            assert one.counted_ms == pytest.approx(one.exact_ms, abs=3.0)


def test_only_waiting_for_verdicts_depends_on_the_round_trip(near_and_far):
    near, far = near_and_far
    assert near.colocated == far.colocated
    assert far.edge_si.ms > near.edge_si.ms + 10.0
    assert far.slipstream.ms > near.slipstream.ms
    assert far.assisted.ms == pytest.approx(
        near.assisted.ms, rel=0.1
    )  # its drafter is near the cloud all the same
    assert near.edge_si.ms == near.colocated.ms


def test_drafting_in_the_cloud_costs_the_verifier(near_and_far):
    near, _ = near_and_far
    assert near.colocated.drafting_ms > 0.0
    assert near.colocated.verifier_ms == pytest.approx(near.colocated.ms)
    assert near.edge_si.verifier_ms == pytest.approx(near.colocated.ms - near.colocated.drafting_ms)


def test_the_fastest_wins_and_of_equals_the_simplest(near_and_far):
    near, _ = near_and_far
    even = replace(near, **{arm: Way(10.0, 10.0) for arm in ARMS})
    assert winner(even) == "cloud"
    assert winner(replace(even, assisted=Way(9.0, 9.0))) == "assisted"
    assert winner(replace(even, assisted=Way(9.95, 9.0))) == "cloud"
    assert winner(replace(even, assisted=Way(9.0, 9.0)), ("cloud", "slipstream")) == "cloud"


def test_claims_hold_and_can_fail(near_and_far):
    found = {one.key: one for one in claims(near_and_far)}
    assert found["counting"].passed
    assert found["never-slower"].passed
    assert found["colocated"].cells == 1  # it says nothing of an RTT of 0
    slow = [replace(one, slipstream=Way(31.0, 31.0), si_apart=1.5) for one in near_and_far]
    broken = {one.key: one for one in claims(slow)}
    assert not broken["counting"].passed
    assert not broken["never-slower"].passed
    assert broken["never-slower"].failed == 2
