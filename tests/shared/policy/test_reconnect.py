from __future__ import annotations

import math

from shared.policy.reconnect import NANOSECONDS, Reconnect


def test_the_first_attempt_is_made_at_once_and_later_ones_back_off():
    policy = Reconnect(first_delay=0.1, longest_delay=0.5)
    delays = [policy.next_attempt(7) - 7 for _ in range(6)]
    assert delays == [0, *(round(delay * NANOSECONDS) for delay in (0.1, 0.2, 0.4, 0.5, 0.5))]


def test_progress_starts_anew():
    policy = Reconnect(first_delay=0.1)
    for _ in range(4):
        policy.next_attempt(0)
    policy.progressed(5)
    assert policy.next_attempt(9) == 9


def test_it_is_given_up_when_nothing_was_committed_for_that_long():
    policy = Reconnect(patience=30.0)
    assert policy.allows(0)
    policy.next_attempt(100)
    assert policy.allows(100 + 30 * NANOSECONDS - 1)
    assert not policy.allows(100 + 30 * NANOSECONDS)
    policy.progressed(50 * NANOSECONDS)
    assert policy.allows(79 * NANOSECONDS)
    assert not policy.allows(80 * NANOSECONDS)


def test_an_edge_may_try_for_days():
    policy = Reconnect(patience=math.inf, longest_delay=1.0)
    for _ in range(3000):
        assert policy.next_attempt(0) <= NANOSECONDS
