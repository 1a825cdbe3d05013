from __future__ import annotations

import pytest

from shared.session.rate import Allowance

SECOND = 1_000_000_000


def test_it_starts_full_shrinks_with_each_message_and_grows_with_time():
    allowance = Allowance(10.0, 4.0, now=SECOND)
    assert allowance.left(SECOND) == 4.0
    for _ in range(4):
        allowance.take(SECOND)
    assert allowance.left(SECOND) == 0.0
    assert allowance.left(SECOND + SECOND // 10) == pytest.approx(1.0)
    assert allowance.left(100 * SECOND) == 4.0  # never more than there is room for


def test_looking_changes_nothing():
    allowance = Allowance(10.0, 4.0, now=0)
    allowance.take(0)
    assert [allowance.left(SECOND // 20) for _ in range(3)] == [pytest.approx(3.5)] * 3


def test_what_is_taken_beyond_it_is_owed():
    allowance = Allowance(10.0, 1.0, now=0)
    allowance.take(0)
    allowance.take(0)
    assert allowance.left(0) == -1.0
    assert allowance.left(SECOND // 5) == pytest.approx(1.0)
