"""The profiled pair is what it says, and everything about it depends on the prefix."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from shared.errors import UserError
from shared.hardware import HardwareProfile, ModelShape, StepLoad, StepPoint, write_hardware
from shared.profiled import PrefixStates, Profile, ProfiledPair, decode, mix, parse_profile, unit

STATES = 20_000


def shares(profile: Profile, width: int) -> list[float]:
    """How often each rank is right, over many contexts."""
    pair = ProfiledPair(profile)
    hits = [0] * width
    for index in range(STATES):
        state = mix(index)
        target = pair.target(state)
        for rank, candidate in enumerate(pair.candidates(state, width)):
            hits[rank] += candidate.token == target
    return [hit / STATES for hit in hits]


def test_mix_is_splitmix64():
    """The first outputs of the published generator for seed 0 (Steele, Lea and Flood 2014)."""
    step = 0x9E3779B97F4A7C15
    assert [mix(turn * step) for turn in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_units_are_uniform():
    values = [unit(7, salt) for salt in range(STATES)]
    assert all(0.0 <= value < 1.0 for value in values)
    assert sum(values) / STATES == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("iid", [False, True])
@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.6, 0.8, 0.95, 1.0])
def test_the_first_candidate_is_right_as_often_as_the_profile_says(acceptance: float, iid: bool):
    profile = Profile(acceptance=acceptance, iid=iid)
    first, second, third = shares(profile, 3)
    assert first == pytest.approx(acceptance, abs=0.012)
    assert first >= second - 0.01
    assert second >= third - 0.01
    if not acceptance:
        assert first == second == third == 0.0


def test_a_further_rank_takes_half_of_what_is_left():
    first, second, third = shares(Profile(acceptance=0.5, iid=True), 3)
    assert second == pytest.approx((1 - first) / 2, abs=0.012)
    assert third == pytest.approx((1 - first - second) / 2, abs=0.012)


def test_estimates_are_calibrated():
    """The drafter knows how likely it is right: its costs are -ln of the truth."""
    pair = ProfiledPair(Profile(acceptance=0.8))
    for easy in (True, False):
        states = [mix(i) for i in range(STATES) if (pair.confidence(mix(i)) > 0.9) is easy]
        right = sum(pair.candidates(state, 1)[0].token == pair.target(state) for state in states)
        (claimed,) = {round(math.exp(-pair.candidates(state, 1)[0].cost), 6) for state in states}
        assert right / len(states) == pytest.approx(claimed, abs=0.012)


def test_candidates_are_different_tokens_likeliest_first():
    pair = ProfiledPair(Profile(vocabulary_size=64))
    for index in range(500):
        found = pair.candidates(mix(index), 8)
        assert len({one.token for one in found}) == 8
        assert all(0 <= one.token < 64 for one in found)
        assert [one.cost for one in found] == sorted(one.cost for one in found)


def test_fewer_candidates_are_the_first_of_more():
    pair = ProfiledPair(Profile())
    assert pair.candidates(5, 2) == pair.candidates(5, 6)[:2]


def test_everything_depends_on_the_whole_prefix():
    pair = ProfiledPair(Profile())
    assert pair.state((1, 2, 3)) == pair.follow(pair.state((1, 2)), 3)
    prefixes = [(1, 2, 3), (2, 1, 3), (1, 3), (9, 2, 3), (1, 2, 4), (0, 1, 2, 3)]
    assert len({pair.target(pair.state(prefix)) for prefix in prefixes}) == len(prefixes)


def test_another_seed_is_another_pair():
    one, two = (ProfiledPair(Profile(seed=seed)) for seed in (0, 1))
    assert one.state((1, 2)) != two.state((1, 2))


def test_states_along_a_log_that_grows():
    pair, log = ProfiledPair(Profile()), [5, 6]
    states = PrefixStates(pair)
    assert states.at(log, 2) == pair.state((5, 6))
    log += [7, 8]
    assert states.at(log, 4) == pair.state((5, 6, 7, 8))
    assert states.at(log, 1) == pair.state((5,))


def test_decoding_is_the_target_alone_and_ends_with_a_stop_token():
    pair = ProfiledPair(Profile())
    text = decode(pair, (1, 2), 20)
    assert len(text) == 20
    for index, token in enumerate(text):
        assert token == pair.target(pair.state((1, 2, *text[:index])))
    assert decode(pair, (1, 2), 20, frozenset({text[4]})) == text[:5]


def test_a_forward_on_more_branches_costs_more():
    profile = Profile(draft_ms=3.0, branch_cost=0.1)
    assert profile.forward_ms(1) == 3.0
    assert profile.forward_ms(4) == pytest.approx(3.9)


@pytest.mark.parametrize(
    "changes",
    [
        {"acceptance": -0.1},
        {"acceptance": 1.1},
        {"acceptance": math.nan},
        {"step_ms": -1.0},
        {"draft_ms": math.inf},
        {"branch_cost": math.nan},
        {"vocabulary_size": 63},
        {"flat_nodes": -1},
        {"node_ms": -0.1},
    ],
)
def test_a_value_outside_its_range_is_refused(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        Profile(**changes)


def test_a_profile_is_read_from_a_line():
    assert parse_profile("profiled") == Profile()
    assert parse_profile("profiled:acceptance=0.5,step_ms=7,iid=true,seed=3") == Profile(
        0.5, 7.0, iid=True, seed=3
    )


@pytest.mark.parametrize(
    "line",
    [
        "profiled:accept=1",
        "profiled:acceptance",
        "profiled:acceptance=x",
        "profiled:acceptance=2",
        "profiled:iid=1",
        "profiled:flat_nodes=x",
        "profiled:node_ms=inf",
    ],
)
def test_a_line_that_says_nothing_sensible_is_refused(line: str):
    with pytest.raises(UserError, match="profiled model"):
        parse_profile(line)


def test_a_step_lasts_the_same_whatever_is_in_it_unless_the_profile_says_more():
    flat, sloped = Profile(step_ms=30.0), Profile(step_ms=30.0, flat_nodes=32, node_ms=0.5)
    assert {flat.duration_ms(StepLoad(nodes, 4, 100.0)) for nodes in (1, 32, 500)} == {30.0}
    assert [sloped.duration_ms(StepLoad(nodes, 4, 100.0)) for nodes in (1, 32, 33, 52)] == [30, 30, 30.5, 40]


def test_a_hardware_profile_takes_the_place_of_the_step(tmp_path):
    shape = ModelShape("one", 1, 64, 64, 1, 1, 64, 64, tied=True)
    points = (StepPoint(1, 1, 128, 4.0), StepPoint(101, 1, 128, 14.0))
    measured = HardwareProfile("one", "none", "none", shape, "float32", points)
    write_hardware(measured, tmp_path / "one.json")
    profile = parse_profile(f"profiled:acceptance=0.5,hardware={tmp_path / 'one.json'}")
    assert profile == Profile(0.5, hardware=measured)
    assert profile.duration_ms(StepLoad(51, 1, 128.0)) == pytest.approx(9.0)
    with pytest.raises(UserError, match="leave out step_ms, node_ms"):
        parse_profile(f"profiled:node_ms=1,step_ms=7,hardware={tmp_path / 'one.json'}")
    with pytest.raises(UserError, match=r"nowhere\.json"):
        parse_profile("profiled:hardware=nowhere.json")


def test_it_is_the_same_in_every_process():
    program = "from shared.profiled import *; print(decode(ProfiledPair(Profile(seed=4)), (1, 2), 9))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert texts == {str(decode(ProfiledPair(Profile(seed=4)), (1, 2), 9))}
