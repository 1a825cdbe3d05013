from __future__ import annotations

from dataclasses import dataclass

import pytest

from shared.messages import Commit
from shared.policy.window import (
    AdvisedWindow,
    EmaWindow,
    FixedWindow,
    MeasuredBlock,
    MeasuredWindow,
    best_block,
)


def commit(**fields: int) -> Commit:
    return Commit(position=3, tokens=(1,), **fields)


def test_a_fixed_window_listens_to_nobody():
    window = FixedWindow(7)
    window.committed(commit(judged=5, advised_window=2))
    assert window.size() == 7


def test_an_advised_window_takes_advice_and_never_more_than_its_own():
    window = AdvisedWindow(8)
    sizes = []
    for advice in (0, 3, 100, 1, 0):
        window.committed(commit(advised_window=advice))
        sizes.append(window.size())
    assert sizes == [8, 3, 8, 1, 8]


def test_the_moving_average_grows_on_agreement_shrinks_on_disagreement_and_stays_within():
    window = EmaWindow(least=2, most=12)
    start = window.size()
    for _ in range(50):
        window.committed(commit(judged=4, accepted=4))
    assert window.size() == 12 > start
    for _ in range(100):
        window.committed(commit(judged=4, accepted=0))
    assert window.size() == 2


def test_commits_without_a_judgement_teach_nothing():
    window = EmaWindow()
    before = (window.nodes, window.acceptance)
    window.committed(commit(judged=0))
    assert (window.nodes, window.acceptance) == before


def test_a_measured_window_holds_what_the_steps_of_a_round_trip_can_look_at():
    steps = [0.0]
    window = MeasuredWindow(512, lambda: steps[0])
    assert window.size() == 512  # nothing is known yet
    window.committed(commit(advised_window=4 * 64))  # 64 nodes are worth it in a step
    sizes = []
    for steps[0] in (0.0, 2.0, 7.0):
        sizes.append(window.size())
    assert sizes == [128, 256, 512]
    window.committed(commit(advised_window=4))
    assert window.size() == 9
    window.committed(commit(advised_window=1))
    steps[0] = 0.0
    assert window.size() == 1


@dataclass
class Beat:
    round_trip_ms: float = 60.0
    gap_ms: float = 0.0
    forward_ms: float = 3.0


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.8, 0.95, 1.0])
@pytest.mark.parametrize(("fixed_ms", "forward_ms"), [(30.0, 3.0), (130.0, 0.5), (40.0, 40.0)])
def test_the_best_block_is_the_one_with_most_tokens_per_time(
    acceptance: float, fixed_ms: float, forward_ms: float
):
    def per_ms(nodes: int) -> float:
        return sum(acceptance**n for n in range(nodes + 1)) / (fixed_ms + nodes * forward_ms)

    assert best_block(acceptance, fixed_ms, forward_ms, 64) == max(range(1, 65), key=per_ms)


def test_a_measured_block_suits_the_link_and_the_drafter():
    sizes = {}
    for rtt_ms, accepted in ((10.0, 3), (100.0, 3), (100.0, 1)):
        window = MeasuredBlock(64, Beat(rtt_ms))
        for _ in range(100):
            window.committed(commit(judged=4, accepted=accepted, verify_us=30_000))
        sizes[rtt_ms, accepted] = window.size()
    assert sizes[100.0, 1] < sizes[10.0, 3] < sizes[100.0, 3]
    assert sizes[100.0, 3] == best_block(0.75, 130.0, 3.0, 64)


def test_a_measured_block_has_a_length_before_anything_is_known_and_keeps_to_its_bound():
    window = MeasuredBlock(3, Beat(0.0))
    assert window.size() == 3
    window.committed(commit())
    assert window.size() == 3
    window.committed(commit(judged=3, accepted=3, verify_us=900_000))
    assert window.size() == 3
