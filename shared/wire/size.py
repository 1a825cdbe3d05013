"""How many bytes a message takes on the wire, without writing it: what a simulated link needs to know of each.

Drafts and commits are counted field by field, by the rules of the encoding (protobuf.dev, "Encoding"); what is sent
once a stream is written and measured. A test holds both to what the codec writes.
"""

from __future__ import annotations

from collections.abc import Collection

from shared.messages import DEFAULT_COST, CloudMessage, Commit, Draft, EdgeMessage
from shared.wire import chain_offsets, cloud_message_to_wire, edge_message_to_wire

FLOAT_BYTES = 4


def edge_message_size(message: EdgeMessage) -> int:
    """Bytes of what `edge_message_to_wire` writes, for a message that it can write."""
    if not isinstance(message, Draft):
        return edge_message_to_wire(message).ByteSize()
    count = len(message.tokens)
    size = _number(message.first_node) + _number(message.root_position) + _packed(message.tokens)
    if message.parent_offsets != chain_offsets(count):
        size += _packed(message.parent_offsets)
    if message.costs != (DEFAULT_COST,) * count:
        size += _packed(message.costs)
    if message.seen != message.root_position:
        size += 1 + _varint(message.seen)
    return _enclosed(size + 2 * message.step_now)


def cloud_message_size(message: CloudMessage) -> int:
    """Bytes of what `cloud_message_to_wire` writes, for a message that it can write."""
    if not isinstance(message, Commit):
        return cloud_message_to_wire(message).ByteSize()
    numbers = (
        message.position,
        message.queue_us,
        message.verify_us,
        message.steps,
        message.facts,
        message.judged,
        message.accepted,
        message.received,
        message.stale,
        message.self_decoded,
        message.advised_window,
    )
    size = sum(map(_number, numbers)) + _packed(message.tokens)
    if message.logprobs:
        size += _enclosed(FLOAT_BYTES * len(message.logprobs))
    return _enclosed(size)


def _varint(value: int) -> int:
    """Bytes of an unsigned number: seven bits in each."""
    return 1 if value < 128 else (value.bit_length() + 6) // 7


def _number(value: int) -> int:
    """Bytes of a field; nothing where it has its default. All tags here are below 16, so that each is one byte."""
    return 1 + _varint(value) if value else 0


def _packed(values: Collection[int]) -> int:
    if not values:
        return 0
    if max(values) < 128:
        return _enclosed(len(values))
    return _enclosed(sum([1 if value < 128 else (value.bit_length() + 6) // 7 for value in values]))


def _enclosed(size: int) -> int:
    """Bytes of a field that holds so many."""
    return 1 + _varint(size) + size
