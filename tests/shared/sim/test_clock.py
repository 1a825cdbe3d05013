from __future__ import annotations

from shared.sim.clock import VirtualClock


def test_events_run_in_order_of_time_and_equal_times_as_they_were_asked_for():
    clock, ran = VirtualClock(), []
    for when, name in ((5, "c"), (1, "a"), (5, "d"), (1, "b")):
        clock.at(when, lambda name=name: ran.append((clock.now, name)))
    while clock.step():
        pass
    assert ran == [(1, "a"), (1, "b"), (5, "c"), (5, "d")]
    assert clock.events == 4


def test_an_event_may_ask_for_more_and_the_past_is_now():
    clock, ran = VirtualClock(), []
    clock.at(10, lambda: clock.after(5, lambda: ran.append(clock.now)))
    clock.at(10, lambda: clock.at(3, lambda: ran.append(clock.now)))
    while clock.step():
        pass
    assert ran == [10, 15]


def test_without_events_time_stands_still():
    clock = VirtualClock()
    assert not clock.step()
    assert (clock.now, clock.events) == (0, 0)
