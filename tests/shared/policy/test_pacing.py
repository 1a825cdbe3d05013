from __future__ import annotations

import itertools

import pytest

from shared.messages import Commit
from shared.policy.pacing import MS, UNBOUNDED, AtOnce, Block, Blocks, Coalescing, Streaming
from shared.policy.window import FixedWindow

STEP = 30 * MS
RTT = 50 * MS


def commit(received: int = 0) -> Commit:
    return Commit(position=3, tokens=(1,), received=received)


class Cloud:
    """Steps of 30 ms behind a round trip of 50 ms: commits leave at multiples of the step, knowing what had come."""

    def __init__(self, pacing: Coalescing, rtt: int = RTT, transit: int = 0) -> None:
        self.pacing = pacing
        self.rtt = rtt
        self.transit = transit
        """How much longer than half a round trip a message is on its way."""
        self.arrivals: list[tuple[int, int]] = []
        self.steps = 0
        self.now = 0
        self.sent: list[int] = []
        pacing.opened(0)

    def run(self, duration: int, forward: int = 3 * MS) -> None:
        """A drafter with always one more node: asks after every forward."""
        until = self.now + duration
        while self.now < until:
            self.now += forward
            now = self.now
            while (arrival := self.steps * STEP + self.rtt // 2) <= now:
                known = sum(nodes for at, nodes in self.arrivals if at <= self.steps * STEP)
                self.arrivals = [(at, nodes) for at, nodes in self.arrivals if at > self.steps * STEP]
                self.pacing.committed(commit(known), arrival)
                self.steps += 1
            self.pacing.drafted(forward)
            if self.pacing.may_send(1, 1, exhausted=False, now=now):
                self.pacing.sent(1, now, fresh=False)
                self.sent.append(now)
                self.arrivals.append((now + self.rtt // 2 + self.transit, 1))


def test_streaming_never_waits():
    assert Streaming().may_draft(100, 100)
    assert Streaming().may_send(100, 1, exhausted=False, now=0)
    assert not Streaming().may_send(0, 0, exhausted=True, now=0)


@pytest.mark.parametrize(
    ("in_flight", "pending", "exhausted", "drafts", "sends"),
    [
        (0, 0, False, True, False),
        (0, 2, False, True, False),
        (0, 3, False, False, True),
        (0, 2, True, True, True),  # no forward can add to it
        (0, 0, True, True, False),
        (1, 0, False, False, False),  # waits for the verdict
        (1, 3, True, False, False),
    ],
)
def test_a_block_is_drafted_sent_at_once_and_waited_for(in_flight, pending, exhausted, drafts, sends):
    block = Block(3)
    assert block.may_draft(in_flight, pending) is drafts
    assert block.may_send(in_flight, pending, exhausted=exhausted, now=0) is sends


def test_until_there_is_a_beat_messages_are_few_and_small_in_sum():
    pacing = Coalescing()
    pacing.opened(0)
    sent = []
    for now in range(0, 1_000 * MS, MS):
        if pacing.may_send(5, 1, exhausted=False, now=now):
            room = min(8, pacing.room(now))
            pacing.sent(room, now, fresh=False)
            sent.append(now)
            assert pacing.steps_ahead(now) == 0
    assert sent[0] == 0
    assert all(later - earlier >= 10 * MS for earlier, later in itertools.pairwise(sent))
    assert 10 < len(sent) < 30
    pacing.committed(commit(8), 1_000 * MS)
    assert pacing.room(1_000 * MS) == UNBOUNDED


def test_about_one_message_a_step_and_in_time_for_it():
    pacing = Coalescing()
    cloud = Cloud(pacing)
    cloud.run(6_000 * MS)
    late = [at for at in cloud.sent if at > 3_000 * MS]
    steps = 3_000 * MS / STEP
    assert steps <= len(late) <= 2.2 * steps, "without the beat it would be one every 3 ms: ten a step"
    before_step = sorted((STEP - (at + RTT // 2) % STEP) % STEP for at in late)
    # The last before each step is at most a forward and the margin early, and only a few are late.
    assert sum(early > 12 * MS for early in before_step) < 0.25 * len(late)


def test_messages_that_take_longer_than_they_seem_to_leave_earlier():
    quick, slow = Coalescing(), Coalescing()
    Cloud(quick).run(4_000 * MS)
    held_up = Cloud(slow)
    held_up.run(1_000 * MS)
    held_up.transit = 9 * MS
    held_up.run(3_000 * MS)
    assert slow._margin > quick._margin + 3 * MS


def test_the_first_nodes_of_an_end_and_the_last_of_a_drafter_never_wait_for_the_beat():
    pacing = Coalescing()
    Cloud(pacing).run(2_000 * MS)
    waits = [
        now
        for now in range(2_000 * MS, 2_030 * MS, MS)
        if not pacing.may_send(3, 1, exhausted=False, now=now)
    ]
    assert waits
    assert all(pacing.may_send(0, 1, exhausted=False, now=now) for now in waits)
    assert all(pacing.may_send(3, 1, exhausted=True, now=now) for now in waits)
    assert not any(pacing.may_send(0, 0, exhausted=True, now=now) for now in waits)


def test_what_the_log_will_have_passed_is_counted_in_steps_of_the_measured_length():
    pacing = Coalescing()
    Cloud(pacing, rtt=200 * MS).run(4_000 * MS)
    assert pacing._last_commit is not None
    at = pacing._last_commit
    assert (
        5 <= pacing.steps_ahead(at) <= 7
    )  # 200 ms of round trip at 30 ms a step, nine tenths of it believed
    later = [pacing.steps_ahead(at + steps * STEP) for steps in (1, 3, 100)]
    assert set(later) <= {pacing.steps_ahead(at), pacing.steps_ahead(at) + 1}, "a server may be waiting"
    assert pacing.steps_in_flight() == pytest.approx(200 / 30, rel=0.3)


def test_one_long_silence_is_no_long_step():
    pacing = Coalescing()
    Cloud(pacing).run(2_000 * MS)
    gap = pacing._gap
    assert pacing._last_commit is not None
    pacing.committed(commit(), pacing._last_commit + 2_000 * MS)
    assert pacing._gap < 1.2 * gap


def test_a_burst_of_commits_that_were_held_up_is_no_fast_server():
    pacing = Coalescing()
    Cloud(pacing).run(2_000 * MS)
    assert pacing._last_commit is not None
    at = pacing._last_commit + 600 * MS
    for _ in range(20):
        pacing.committed(Commit(position=3, tokens=(1,), verify_us=30_000), at)
    assert pacing._gap > 0.9 * STEP
    assert pacing.steps_ahead(at) <= 3


def test_at_once_sends_at_once_and_knows_the_beat():
    beat = Coalescing()
    pacing = AtOnce(beat)
    pacing.opened(0)
    for step in range(1, 20):
        assert pacing.may_send(4, 1, exhausted=False, now=step * STEP)
        pacing.drafted(3 * MS)
        pacing.sent(1, step * STEP - RTT, fresh=False)
        pacing.committed(commit(1), step * STEP)
    assert not pacing.may_send(4, 0, exhausted=True, now=0)
    assert pacing.room(0) == UNBOUNDED
    assert pacing.steps_ahead(19 * STEP) == 0
    assert beat.steps_in_flight() > 1


def test_blocks_are_as_long_as_their_window_says():
    window = FixedWindow(3)
    one, same = Blocks(Coalescing(), window), Block(3)
    for in_flight, pending in itertools.product((0, 1), range(6)):
        assert one.may_draft(in_flight, pending) == same.may_draft(in_flight, pending)
        for exhausted in (False, True):
            asked = {"exhausted": exhausted, "now": 0}
            assert one.may_send(in_flight, pending, **asked) == same.may_send(in_flight, pending, **asked)
    window.nodes = 5
    assert one.may_draft(0, 4)
    assert not one.may_send(0, 4, exhausted=False, now=0)
    assert one.may_send(0, 5, exhausted=False, now=0)
    assert (one.room(0), one.steps_ahead(0)) == (UNBOUNDED, 0)


def test_blocks_measure_the_round_as_it_goes():
    """A block every 110 ms: 50 of them the round trip, 30 the step, 10 forwards of 3 ms."""
    beat = Coalescing()
    pacing = Blocks(beat, FixedWindow(10))
    pacing.opened(0)
    pacing.answered(RTT, 1)
    for turn in range(20):
        begun = RTT + turn * 110 * MS
        for _ in range(10):
            pacing.drafted(3 * MS)
        pacing.sent(10, begun + 30 * MS, fresh=True)
        pacing.committed(commit(received=10), begun + 110 * MS)
    assert beat.round_trip_ms == 50.0
    assert beat.gap_ms == pytest.approx(110.0)
    assert beat.forward_ms == pytest.approx(3.0, rel=0.01)
