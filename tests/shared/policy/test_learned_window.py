from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from shared.messages import Commit
from shared.policy.learned_window import (
    FIRST_NODES,
    INPUTS,
    Controller,
    Drafting,
    LearnedWindow,
    Observation,
    Watch,
    shipped,
    to_arrays,
)


@dataclass
class Beat:
    round_trip_ms: float = 50.0
    gap_ms: float = 30.0
    forward_ms: float = 3.0


def commit(tokens: int = 1, **fields: int) -> Commit:
    return Commit(position=3, tokens=(1,) * tokens, **fields)


def constant(log2_window: float) -> Controller:
    return Controller(
        (np.zeros((INPUTS, 2)), np.zeros((2, 2)), np.zeros((2, 1))),
        (np.zeros(2), np.zeros(2), np.array([log2_window])),
    )


def test_what_is_observed_is_what_was_told():
    beat = Beat()
    watch = Watch(beat)
    assert watch.observe(4.0) is None  # nothing was heard yet
    for _ in range(60):
        watch.committed(commit(3, queue_us=10_000, verify_us=30_000, judged=4, accepted=3))
    seen = watch.observe(4.0)
    assert seen is not None
    assert seen.queue_share == pytest.approx(0.25, abs=1e-3)
    assert seen.acceptance == pytest.approx(0.75, abs=1e-3)
    assert seen.tpot_ms == pytest.approx(10.0, rel=1e-3)
    assert (seen.rtt_ms, seen.window) == (50.0, 4.0)
    beat.gap_ms = 0.0
    assert watch.observe(4.0) is None


def test_a_step_without_a_judgement_or_a_duration_says_nothing_of_either():
    watch = Watch(Beat())
    for _ in range(5):
        watch.committed(commit())
    seen = watch.observe(4.0)
    assert seen is not None
    assert (seen.queue_share, seen.acceptance) == (0.0, 0.5)


def test_a_learned_window_goes_where_its_controller_says_a_factor_at_a_time_and_no_further_than_it_may():
    window = LearnedWindow(constant(6.0), 48, Watch(Beat()))
    sizes = [window.size()]
    for _ in range(6):
        window.committed(commit(verify_us=30_000))
        sizes.append(window.size())
    assert sizes == [FIRST_NODES, 4, 8, 16, 32, 48, 48]
    window.controller = constant(-3.0)
    for _ in range(8):
        window.committed(commit(verify_us=30_000))
    assert window.size() == 1


@pytest.mark.parametrize("drafting", Drafting)
def test_what_ships_answers_whatever_it_is_asked(drafting: Drafting):
    controller = shipped(drafting)
    for queue_share, acceptance, rtt_ms, window in itertools.product(
        (0.0, 1.0), (0.0, 1.0), (0.0, 1000.0), (1.0, 512.0)
    ):
        seen = Observation(queue_share, acceptance, rtt_ms, tpot_ms=20.0, window=window)
        assert 1.0 <= controller.decide(seen) <= 65536.0


def test_what_ships_for_blocks_has_learned_what_pays():
    """More is worth drafting where it is right more often: of pairs as they go together in blocks of 6."""
    controller = shipped(Drafting.BLOCK)
    doubtful, sure = (
        controller.decide(Observation(0.1, acceptance, 40.0, tpot_ms, 6.0))
        for acceptance, tpot_ms in ((0.4, 55.0), (0.9, 20.0))
    )
    assert doubtful < 0.8 * sure


def test_a_controller_that_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="does not take"):
        Controller(
            (np.zeros((INPUTS, 2)), np.zeros((3, 2)), np.zeros((2, 1))),
            (np.zeros(2), np.zeros(2), np.zeros(1)),
        )
    with pytest.raises(ValueError, match="1 output"):
        Controller(
            (np.zeros((INPUTS, 2)), np.zeros((2, 2)), np.zeros((2, 2))),
            (np.zeros(2), np.zeros(2), np.zeros(2)),
        )


def test_what_is_written_is_what_is_read():
    controller = shipped(Drafting.BLOCK)
    arrays = to_arrays({Drafting.BLOCK: controller})
    assert sum(array.nbytes for array in arrays.values()) < 4096
    assert np.array_equal(arrays["block.weight1"].astype(np.float64), controller.weights[1])
