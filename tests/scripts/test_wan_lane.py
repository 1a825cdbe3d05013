"""One direction of the emulated link, under a virtual clock: order, delay, rate, room, outage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.wan.lane import End, Item, Lane, room_bytes
from shared.link import SEGMENT_BYTES, Bottleneck, LinkProfile

MS = 1_000_000


def drain(lane: Lane) -> list[tuple[int, Item]]:
    """What comes out and when, if somebody looks exactly when something is due."""
    out: list[tuple[int, Item]] = []
    while (due := lane.next_due()) is not None:
        assert lane.pop(due - 1) is None, "came out early"
        item = lane.pop(due)
        assert item is not None
        out.append((due, item))
    return out


@given(
    gaps=st.lists(
        st.tuples(st.integers(0, 30 * MS), st.binary(min_size=1, max_size=5000)), min_size=1, max_size=40
    ),
    delay=st.floats(0, 50),
    jitter=st.floats(0, 50),
    kbit=st.sampled_from([0.0, 100.0, 10_000.0]),
    salt=st.integers(0, 1 << 60),
)
def test_bytes_keep_their_order_and_none_is_early(gaps, delay, jitter, kbit, salt):
    lane = Lane(LinkProfile(delay, jitter, kbit), salt)
    now, sent = 0, []
    for gap, data in gaps:
        now += gap
        lane.push(now, data)
        sent.append((now, data))
    lane.push(now, End.CLOSED)
    out = drain(lane)
    assert b"".join(item for _, item in out if isinstance(item, bytes)) == b"".join(data for _, data in sent)
    assert out[-1][1] is End.CLOSED
    assert [at for at, _ in out] == sorted(at for at, _ in out)
    # The first byte pays the least possible delay; the last byte cannot beat the rate.
    assert out[0][0] >= sent[0][0] + max(0.0, delay - jitter) * MS - 1
    if kbit:
        total = sum(len(data) for _, data in sent)
        assert out[-1][0] >= total * 8 / kbit * MS - len(out)
    assert lane.queued_bytes == 0


def test_the_delay_is_the_profiles_own():
    lane = Lane(LinkProfile(30.0), salt=1)
    lane.push(5 * MS, b"x")
    assert lane.next_due() == 35 * MS


def test_jitter_covers_its_range_and_is_keyed():
    def delays(salt: int) -> list[int]:
        found = []
        for start in range(0, 400_000 * MS, 1000 * MS):  # far apart: none waits for the one before
            lane.push(start, b"x")
            due = lane.next_due()
            assert due is not None
            found.append(due - start)
            lane.pop(due)
        return found

    lane = Lane(LinkProfile(20.0, 10.0), salt=1)
    first = delays(1)
    assert min(first) >= 10 * MS
    assert max(first) <= 30 * MS
    assert min(first) < 11 * MS
    assert max(first) > 29 * MS
    lane = Lane(LinkProfile(20.0, 10.0), salt=1)
    assert delays(1) == first
    lane = Lane(LinkProfile(20.0, 10.0), salt=2)
    assert delays(2) != first


def test_a_long_read_comes_out_at_the_rate_and_not_at_its_end():
    lane = Lane(LinkProfile(0.0, 0.0, 1000.0), salt=1)
    lane.push(0, bytes(10 * SEGMENT_BYTES))
    out = drain(lane)
    assert [len(item) for _, item in out if isinstance(item, bytes)] == [SEGMENT_BYTES] * 10
    assert out[0][0] == pytest.approx(SEGMENT_BYTES * 8 / 1000 * MS, rel=1e-6)
    assert out[-1][0] == pytest.approx(10 * SEGMENT_BYTES * 8 / 1000 * MS, rel=1e-6)


def test_room_is_the_bandwidth_delay_product_and_a_queue():
    profile = LinkProfile(50.0, 10.0, 8000.0)
    assert room_bytes(profile) == 60_000 + profile.queue_bytes
    lane = Lane(profile, salt=1)
    lane.push(0, bytes(room_bytes(profile) - 1))
    assert not lane.full
    lane.push(0, b"x")
    assert lane.full
    due = lane.next_due()
    assert due is not None
    lane.pop(due)
    assert not lane.full


def test_an_outage_holds_what_is_on_its_way_and_what_comes():
    lane = Lane(LinkProfile(10.0), salt=1)
    lane.push(0, b"a")
    lane.hold(500 * MS)
    lane.push(100 * MS, b"b")
    assert lane.pop(499 * MS) is None
    lane.hold(400 * MS)  # a shorter outage within it changes nothing
    assert drain(lane) == [(500 * MS, b"a"), (500 * MS, b"b")]
    lane.push(600 * MS, b"c")
    assert lane.next_due() == 610 * MS


def test_connections_share_the_links_rate():
    bottleneck = Bottleneck()
    lanes = [Lane(LinkProfile(0.0, 0.0, 1000.0), salt, bottleneck=bottleneck) for salt in (1, 2)]
    for lane in lanes:
        lane.push(0, bytes(1000))
    assert [lane.next_due() for lane in lanes] == [8 * MS, 16 * MS]


def test_loss_makes_the_stream_wait_and_is_keyed():
    def dues(salt: int, loss: float) -> list[int]:
        lane = Lane(LinkProfile(20.0, loss=loss), salt)
        for number in range(300):
            lane.push(number * 1000 * MS, b"x" * 100)
        return [due - number * 1000 * MS for number, (due, _) in enumerate(drain(lane))]

    assert set(dues(1, 0.0)) == {20 * MS}
    late = [due for due in dues(1, 0.1) if due > 20 * MS]
    assert 15 <= len(late) <= 50
    assert min(late) == (20 + 40 + 200) * MS  # alone in flight: TCP's time-out
    assert dues(1, 0.1) == dues(1, 0.1) != dues(2, 0.1)
