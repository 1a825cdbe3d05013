from __future__ import annotations

import pytest

from shared.link import NANOSECONDS_PER_MS, LinkClock, LinkProfile

MS = NANOSECONDS_PER_MS


def test_delay_is_added():
    assert LinkClock(LinkProfile(delay_ms=25)).arrival(7, 1000, 0.9) == 7 + 25 * MS


@pytest.mark.parametrize(("draw", "delay"), [(0.0, 10.0), (0.5, 20.0), (1.0, 30.0)])
def test_jitter_is_uniform_around_the_delay(draw: float, delay: float):
    assert LinkClock(LinkProfile(delay_ms=20, jitter_ms=10)).arrival(0, 0, draw) == delay * MS


def test_jitter_never_makes_a_delay_negative():
    assert LinkClock(LinkProfile(delay_ms=1, jitter_ms=10)).arrival(5, 0, 0.0) == 5


def test_a_stream_keeps_its_order_whatever_the_jitter():
    link = LinkClock(LinkProfile(delay_ms=20, jitter_ms=20))
    arrivals = [link.arrival(now, 10, draw) for now, draw in ((0, 1.0), (1, 0.0), (2, 0.5), (3, 0.0))]
    assert arrivals == sorted(arrivals)
    assert arrivals[1] == arrivals[0] == 40 * MS


def test_a_rate_sends_one_message_after_the_other():
    link = LinkClock(LinkProfile(delay_ms=5, kbit_per_s=80))  # 10 bytes a millisecond
    assert link.arrival(0, 100, 0.5) == 15 * MS
    assert link.arrival(0, 100, 0.5) == 25 * MS
    assert link.arrival(50 * MS, 10, 0.5) == 56 * MS  # idle meanwhile: nothing is owed


def test_a_hold_delays_and_loses_nothing():
    link = LinkClock(LinkProfile(delay_ms=5))
    link.held_until = 100 * MS
    assert link.arrival(0, 10, 0.5) == 100 * MS
    assert link.arrival(98 * MS, 10, 0.5) == 103 * MS


@pytest.mark.parametrize("field", ["delay_ms", "jitter_ms", "kbit_per_s"])
@pytest.mark.parametrize("value", [-1.0, 1e9, float("nan"), float("inf")])
def test_a_value_outside_its_range_is_refused(field: str, value: float):
    with pytest.raises(ValueError, match=rf"{field} .* is outside 0\.\.1e9"):
        LinkProfile(**{field: value})
