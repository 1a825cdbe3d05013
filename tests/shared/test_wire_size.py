"""The counted size of a message is what the codec writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from shared import wire
from shared.messages import CloudMessage, Commit, Draft, EdgeMessage
from shared.wire.size import cloud_message_size, edge_message_size
from tests.shared.test_wire import CLOUD_MESSAGES, EDGE_MESSAGES, chain, commits, drafts


@given(EDGE_MESSAGES | drafts())
def test_up(message: EdgeMessage) -> None:
    assert edge_message_size(message) == wire.edge_message_to_wire(message).ByteSize()


@given(CLOUD_MESSAGES | commits())
def test_down(message: CloudMessage) -> None:
    assert cloud_message_size(message) == wire.cloud_message_to_wire(message).ByteSize()


@pytest.mark.parametrize("count", [0, 1, 8, 127, 128, 300])
@pytest.mark.parametrize("token", [0, 127, 128, 16_383, 16_384, 1 << 21])
def test_where_a_number_takes_one_byte_more(count: int, token: int) -> None:
    draft = replace(chain(count, token=token), first_node=count and 100)
    for one in (draft, replace(draft, costs=(0,) * count), replace(draft, seen=0)):
        assert edge_message_size(one) == wire.edge_message_to_wire(one).ByteSize()


def test_a_message_of_nothing() -> None:
    for up in (Draft(0, 0, (), (), (), 0), Draft(0, 0, (), (), (), 0, step_now=True)):
        assert edge_message_size(up) == wire.edge_message_to_wire(up).ByteSize()
    down = Commit(0, (0,))
    assert cloud_message_size(down) == wire.cloud_message_to_wire(down).ByteSize()
