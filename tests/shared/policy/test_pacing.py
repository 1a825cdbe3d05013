from __future__ import annotations

import pytest

from shared.policy.pacing import Block, Streaming


def test_streaming_never_waits():
    assert Streaming().may_draft(100, 100)
    assert Streaming().may_send(100, 1, exhausted=False)
    assert not Streaming().may_send(0, 0, exhausted=True)


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
    assert block.may_send(in_flight, pending, exhausted=exhausted) is sends
