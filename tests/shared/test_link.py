from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.link import (
    NANOSECONDS_PER_MS,
    SEGMENT_BYTES,
    Bottleneck,
    Jitter,
    LinkClock,
    LinkProfile,
    Schedule,
)

MS = NANOSECONDS_PER_MS
LOST = 0.0
"""A fate below any loss."""


def test_delay_is_added():
    assert LinkClock(LinkProfile(delay_ms=25)).arrival(7, 1000, 0.9) == 7 + 25 * MS


@pytest.mark.parametrize(("draw", "delay"), [(0.0, 10.0), (0.5, 20.0), (1.0, 30.0)])
def test_jitter_is_uniform_around_the_delay(draw: float, delay: float):
    assert LinkClock(LinkProfile(delay_ms=20, jitter_ms=10)).arrival(0, 0, draw) == delay * MS


@pytest.mark.parametrize(
    ("jitter", "deviation", "least", "p99"),
    [
        (Jitter.UNIFORM, 10 / 3**0.5, 90.0, 109.8),
        (Jitter.NORMAL, 10.0, 50.0, 123.3),
        (Jitter.PARETO, 10.0, 94.2, 136.3),
    ],
)
def test_each_distribution_has_the_moments_that_its_name_says(
    jitter: Jitter, deviation: float, least: float, p99: float
):
    """On an even grid of draws: the integral over the quantile function, without chance."""
    profile = LinkProfile(delay_ms=100, jitter_ms=10, jitter=jitter)
    delays = [profile.delay((n + 0.5) / 100_000) / MS for n in range(100_000)]
    assert delays == sorted(delays)
    assert statistics.mean(delays) == pytest.approx(100.0, abs=0.05)
    assert statistics.pstdev(delays) == pytest.approx(deviation, rel=0.08)
    assert delays[0] >= least
    assert delays[99_000] == pytest.approx(p99, abs=0.2)


@pytest.mark.parametrize("jitter", Jitter)
@pytest.mark.parametrize("draw", [0.0, 1.0 - 2**-53])
def test_the_ends_of_a_draw_are_delays_too(jitter: Jitter, draw: float):
    assert 0 <= LinkProfile(delay_ms=20, jitter_ms=10, jitter=jitter).delay(draw) <= 220 * MS


def test_jitter_never_makes_a_delay_negative():
    assert LinkClock(LinkProfile(delay_ms=1, jitter_ms=10)).arrival(5, 0, 0.0) == 5


def test_a_stream_keeps_its_order_whatever_the_jitter():
    link = LinkClock(LinkProfile(delay_ms=20, jitter_ms=20))
    arrivals = [link.arrival(now, 10, draw) for now, draw in ((0, 1.0), (1, 0.0), (2, 0.5), (3, 0.0))]
    assert arrivals == sorted(arrivals)
    assert arrivals[1] == arrivals[0] == 40 * MS


@given(
    sent=st.lists(
        st.tuples(st.integers(0, 40 * MS), st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1)),
        max_size=40,
    ),
    jitter=st.sampled_from(Jitter),
    kbit=st.sampled_from([0.0, 500.0, 50_000.0]),
    outage=st.sampled_from([None, Schedule(0.2, 50.0), Schedule(0.1, 5.0, 0.05)]),
    handover=st.sampled_from([None, Schedule(0.3, 100.0)]),
)
def test_what_enters_first_comes_out_first_and_never_early(sent, jitter, kbit, outage, handover):
    profile = LinkProfile(10, 4, kbit, jitter, 0.1, outage, handover, 15.0)
    packets, stream = LinkClock(profile), LinkClock(profile)
    now, last_packet, last_message = 0, 0, 0
    for gap, size, draw, fate in sent:
        now += gap
        arrival = packets.packet(now, size, draw, fate)
        if arrival is not None:
            assert arrival >= max(now, last_packet)
            last_packet = arrival
        message = stream.arrival(now, size, draw, fate)
        assert message >= max(now, last_message)
        last_message = message


def test_a_rate_sends_one_message_after_the_other():
    link = LinkClock(LinkProfile(delay_ms=5, kbit_per_s=80))  # 10 bytes a millisecond
    assert link.arrival(0, 100, 0.5) == 15 * MS
    assert link.arrival(0, 100, 0.5) == 25 * MS
    assert link.arrival(50 * MS, 10, 0.5) == 56 * MS  # idle meanwhile: nothing is owed


def test_streams_that_share_a_bottleneck_share_its_rate():
    shared = Bottleneck()
    one, two = (LinkClock(LinkProfile(kbit_per_s=80), bottleneck=shared) for _ in range(2))
    assert one.arrival(0, 100, 0.5) == 10 * MS
    assert two.arrival(0, 100, 0.5) == 20 * MS


def test_a_full_queue_drops_its_tail():
    profile = LinkProfile(kbit_per_s=12_000)  # a packet a millisecond
    assert profile.queue_ms == 200.0
    assert profile.queue_bytes == 300_000
    link = LinkClock(profile)
    passed = [link.packet(0, 1500, 0.5) for _ in range(300)]
    assert passed.index(None) == 201  # 200 wait, one is on the wire
    assert link.packet(2 * MS, 1500, 0.5) is not None  # it drains: there is room again


def test_a_slow_links_queue_is_a_hundred_packets():
    assert LinkProfile(kbit_per_s=1000).queue_bytes == 150_000
    assert LinkProfile().queue_bytes == 0


def test_a_hold_delays_and_loses_nothing():
    link = LinkClock(LinkProfile(delay_ms=5))
    link.held_until = 100 * MS
    assert link.arrival(0, 10, 0.5) == 100 * MS
    assert link.packet(50 * MS, 10, 0.5) == 100 * MS
    assert link.arrival(98 * MS, 10, 0.5) == 103 * MS


def test_packets_are_lost_by_their_share():
    link = LinkClock(LinkProfile(loss=0.25))
    assert [link.packet(0, 100, 0.5, fate) is None for fate in (0.0, 0.249, 0.25, 1.0)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_handover_makes_the_path_longer_for_a_while():
    link = LinkClock(LinkProfile(25, handover=Schedule(15.0, 200.0), handover_ms=20.0), begun=1000 * MS)
    for at, due in ((1100, 1145), (2000, 2025), (16_100, 16_145), (16_300, 16_325)):
        assert link.packet(at * MS, 100, 0.5) == due * MS


def test_an_outage_loses_packets_in_time_whatever_their_number():
    link = LinkClock(LinkProfile(10, outage=Schedule(10.0, 500.0, offset_s=2.0)))
    lost = [at for at in range(0, 14_000, 100) if link.packet(at * MS, 100, 0.5) is None]
    assert lost == [2000, 2100, 2200, 2300, 2400, 12_000, 12_100, 12_200, 12_300, 12_400]


def test_a_stream_tries_again_through_an_outage():
    """Time-outs of 20 + 200 ms, doubling: at 0, 220, 660 of the outage's 500."""
    link = LinkClock(LinkProfile(10, outage=Schedule(10.0, 500.0)))
    assert link.arrival(0, 100, 0.5) == (660 + 10) * MS
    assert link.arrival(600 * MS, 100, 0.5) == 670 * MS  # behind it, in order


def test_an_outage_that_meets_every_attempt_ends_all_the_same():
    link = LinkClock(LinkProfile(400, outage=Schedule(1.0, 999.0)))
    assert link.arrival(0, 100, 0.5) > 1000 * MS


# How TCP's repetitions appear on a stream. Round trip 100 ms, so 50 ms one way.


def stalled(gap_ms: float | None, size: int, fate: float, loss: float = 0.5) -> float:
    link = LinkClock(LinkProfile(50, loss=loss))
    now = 0
    if gap_ms is not None:
        link.arrival(0, 100, 0.5)
        now = round(gap_ms * MS)
    return (link.arrival(now, size, 0.5, fate) - now) / MS - 50


KEPT = 0.49999
"""Just lost (0.5), and the repetition just not (the rest of the draw is close to 1)."""


def test_what_is_not_lost_does_not_wait():
    assert stalled(10, 100, 0.5) == 0.0
    assert stalled(10, 100, LOST, loss=0.0) == 0.0


def test_a_busy_stream_learns_of_a_loss_from_what_follows():
    assert stalled(10, 100, KEPT) == 10 + 125  # the next one's distance, a round trip, RACK's quarter


def test_the_probe_for_a_lost_tail_caps_that():
    assert stalled(90, 100, KEPT) == 200  # two round trips, where 90 + 125 would be more


def test_a_thin_stream_waits_for_the_time_out():
    assert stalled(None, 100, KEPT) == 300  # nothing else in flight: a round trip and 200 ms
    assert stalled(5000, 100, KEPT) == 300


def test_a_segment_within_a_message_is_found_by_the_next_ones():
    assert stalled(None, 3 * SEGMENT_BYTES, 0.28) == 125


def test_a_lost_repetition_doubles_the_wait():
    # What is left of the draw: 0.1 / 0.5 = 0.2, below the loss once (0.2), not twice (0.4 / 0.5).
    assert stalled(5000, 100, 0.2) == 300 + 300


def test_a_draw_of_nothing_ends():
    assert stalled(5000, 100, LOST) == 300 * (1 + sum(2**n for n in range(15)))


def test_larger_messages_meet_more_losses():
    link = LinkProfile(50, loss=0.01)
    fates = [n / 1000 for n in range(1000)]

    def hit(size: int) -> int:
        return sum(LinkClock(link).arrival(0, size, 0.5, fate) > 50 * MS for fate in fates)

    assert hit(100) == pytest.approx(10, abs=1)
    assert hit(10 * SEGMENT_BYTES) == pytest.approx(1000 * (1 - 0.99**10), abs=1)


def test_a_round_trip_is_what_the_other_direction_makes_of_it():
    assert (
        LinkClock(LinkProfile(50, loss=0.5), round_trip_ms=60).arrival(0, 100, 0.5, KEPT) == (50 + 260) * MS
    )


def test_nothing_does_nothing():
    assert LinkProfile().nothing
    assert LinkProfile(jitter=Jitter.NORMAL).nothing
    assert not LinkProfile(loss=0.1).nothing
    assert not LinkProfile(outage=Schedule(1.0, 1.0)).nothing


@pytest.mark.parametrize("field", ["delay_ms", "jitter_ms", "kbit_per_s", "handover_ms"])
@pytest.mark.parametrize("value", [-1.0, 1e9, float("nan"), float("inf")])
def test_a_value_outside_its_range_is_refused(field: str, value: float):
    with pytest.raises(ValueError, match=rf"{field} .* is outside 0\.\.1e9"):
        LinkProfile(**{field: value})


@pytest.mark.parametrize("loss", [-0.1, 1.0, float("nan")])
def test_a_loss_outside_its_range_is_refused(loss: float):
    with pytest.raises(ValueError, match=r"loss .* is outside 0\.\.1"):
        LinkProfile(loss=loss)


@pytest.mark.parametrize(
    ("times", "named"),
    [
        ((0.0, 1.0), "every_s"),
        ((1.0, 1000.0), "lasts_ms"),
        ((1.0, -1.0), "lasts_ms"),
        ((1.0, 1.0, -1.0), "offset_s"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(times: tuple[float, ...], named: str):
    with pytest.raises(ValueError, match=named):
        Schedule(*times)
