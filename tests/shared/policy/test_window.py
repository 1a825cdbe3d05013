from __future__ import annotations

from shared.messages import Commit
from shared.policy.window import AdvisedWindow, EmaWindow, FixedWindow, MeasuredWindow


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
