"""What the default policies are worth, in virtual time: a change that only loses speed fails here."""

from __future__ import annotations

import dataclasses
import itertools
import statistics

import pytest

from edge_client.policies import Belief, DraftOptions, Mode, Pace, Shape, Sizing, Spread, policies_for
from shared.link import LinkProfile
from shared.policy.reconnect import Reconnect
from shared.profiled import Profile
from shared.sim.predict import Prediction, predict

PAIR = Profile(acceptance=0.8, step_ms=30.0, draft_ms=3.0)
UNLIMITED = 1 << 30


def foretell(
    draft: DraftOptions, rtt_ms: float, *, pair: Profile = PAIR, kbit: float = 0.0, seed: int = 0
) -> Prediction:
    shape = draft.shape_for()
    fixed, adaptive = draft.patience_for(5000.0) if shape is not None else (0.0, 0.0)
    link = LinkProfile(delay_ms=rtt_ms / 2, kbit_per_s=kbit)
    return predict(
        dataclasses.replace(pair, seed=seed),
        policies_for(draft, shape, Reconnect(), UNLIMITED),
        rtt_ms=rtt_ms,
        tokens=300,
        patience_us=round(fixed * 1000),
        adaptive_patience_us=round(adaptive * 1000),
        seed=seed,
        up=link,
        down=link,
    )


def tpot(draft: DraftOptions, rtt_ms: float, **more: object) -> float:
    return statistics.fmean(foretell(draft, rtt_ms, seed=seed, **more).tpot_ms for seed in range(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(("rtt_ms", "most_ms"), [(0, 9.5), (20, 11.5), (50, 14.5), (100, 18.5), (200, 24.5)])
def test_the_default_is_as_fast_as_is_claimed(rtt_ms, most_ms):
    assert tpot(DraftOptions(), rtt_ms) < most_ms


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("rtt_ms", [0.0, 50.0, 300.0])
def test_never_slower_than_the_cloud_alone(acceptance, rtt_ms):
    pair = dataclasses.replace(PAIR, acceptance=acceptance)
    for shape in Shape:
        assert tpot(DraftOptions(shape=shape), rtt_ms, pair=pair) <= 30.01


def test_one_message_a_step_costs_nothing():
    coalesced, at_once = (foretell(DraftOptions(pace=pace), 100.0) for pace in (Pace.COALESCED, Pace.AT_ONCE))
    assert coalesced.tpot_ms < 1.03 * at_once.tpot_ms
    assert coalesced.bytes_per_token_up < 0.6 * at_once.bytes_per_token_up


def test_a_slow_uplink_is_not_drowned():
    free = tpot(DraftOptions(), 100.0)
    assert tpot(DraftOptions(), 100.0, kbit=250.0) < 1.06 * free
    assert tpot(DraftOptions(), 100.0, kbit=50.0) < 1.4 * free
    assert tpot(DraftOptions(pace=Pace.AT_ONCE), 100.0, kbit=50.0) > 1.6 * free  # what it would be


@pytest.mark.parametrize(("step_ms", "draft_ms", "acceptance"), [(52.1, 34.0, 0.95), (72.0, 15.0, 0.7)])
@pytest.mark.parametrize("branch_cost", [0.1, 1.0])
def test_the_width_suits_the_drafter(step_ms, draft_ms, acceptance, branch_cost):
    """Slow drafters, in one batch or one after the other: about as fast as the best fixed width."""
    pair = Profile(acceptance, step_ms, draft_ms, branch_cost)
    fixed = [
        tpot(DraftOptions(spread=Spread.FIXED, branches=branches), 20.0, pair=pair) for branches in (1, 2, 8)
    ]
    assert tpot(DraftOptions(), 20.0, pair=pair) < 1.07 * min(fixed)
    assert max(fixed) > 1.04 * min(fixed)  # or the choice would not matter


def test_every_combination_of_policies_generates():
    for spread, pace, sizing, belief in itertools.product(Spread, Pace, Sizing, Belief):
        draft = DraftOptions(spread=spread, pace=pace, sizing=sizing, belief=belief)
        assert foretell(draft, 10.0).tpot_ms <= 30.01, draft


def test_modes_without_a_choice():
    sync = policies_for(DraftOptions(mode=Mode.SYNC, lookahead=5), Shape.CHAIN, Reconnect(), UNLIMITED)
    assert sync.window.size() == 5
    cloud = policies_for(DraftOptions(mode=Mode.CLOUD), None, Reconnect(), UNLIMITED)
    assert cloud.expansion is None
    assert DraftOptions(mode=Mode.SYNC).patience_for(1000.0) == (1000.0, 0.0)
    assert DraftOptions().patience_for(50.0) == (0.0, 50.0)
    assert DraftOptions(patience_ms=0.0).patience_for(5000.0) == (0.0, 0.0)


def test_blocks_follow_their_window():
    """Synchronous speculation with a window that is no constant: the same protocol, better blocks."""
    pair = Profile(0.9, step_ms=30.0, draft_ms=2.0)
    four, measured, ema, learned = (
        foretell(DraftOptions(mode=Mode.SYNC, sizing=sizing), 100.0, pair=pair).tpot_ms
        for sizing in (Sizing.FIXED, Sizing.MEASURED, Sizing.EMA, Sizing.LEARNED)
    )
    assert measured < 0.8 * four
    assert ema < 0.85 * four
    assert learned < 0.85 * four
