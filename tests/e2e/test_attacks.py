"""Hostile and broken messages over real gRPC: each ends its stream with the documented status or changes no token."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from shared import wire
from shared.messages import Draft, Limits, Opened
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from tests.e2e.attack import DEADLINE_S, PROMPT, TEXT, Code, attacked, is_served, pb_open, put, status
from tests.e2e.raw import PROFILE, RawClient, Stream, opening

MOST_32, MOST_64 = 2**32 - 1, 2**64 - 1
DECODE = "/slipstream.v1.Slipstream/Decode"


def raw(client: RawClient) -> Stream:
    """A stream that writes bytes."""
    call = client.channel.stream_stream(DECODE, response_deserializer=pb.CloudMessage.FromString)
    return Stream(call())


def length_delimited(number: int, size: int) -> bytes:
    """A field that no version knows, of `size` zero bytes."""
    tag = bytes([number << 3 | 2])
    digits = []
    rest = size
    while rest > 127:
        digits.append(rest & 127 | 128)
        rest >>= 7
    return tag + bytes([*digits, rest]) + bytes(size)


OPEN_BYTES = wire.edge_message_to_wire(opening(PROMPT, new=64, patience_us=5_000_000)).SerializeToString()
GARBAGE = {
    "no protobuf": b"\xff\xff\xff",
    "a length beyond the end": b"\x0a\x50\x01",
    "no UTF-8": b"\x0a\x04\x3a\x02\xff\xfe",
    "a varint that does not end": b"\x12\x0d\x08\x01\x1a\x0a" + b"\xff" * 10 + b"\x01",
    "no kind": b"",
    "an unknown kind": b"\x7a\x00",
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_ends_its_stream(name: str, begun: bool) -> None:
    async with attacked() as (_, client):
        stream = raw(client)
        if begun:
            await stream.call.write(OPEN_BYTES)
            assert isinstance(await stream.read(), Opened)
        await stream.call.write(GARBAGE[name])
        code, detail = await status(stream)
        assert code is Code.INVALID_ARGUMENT
        assert "EdgeMessage" in detail
        await is_served(client)


NAN, INF = float("nan"), float("inf")
EXTREME_OPENS: dict[str, tuple[pb.EdgeMessage, grpc.StatusCode]] = {
    "temperature NaN": (pb_open(sampling=pb.Sampling(temperature=NAN)), Code.INVALID_ARGUMENT),
    "temperature inf": (pb_open(sampling=pb.Sampling(temperature=INF)), Code.INVALID_ARGUMENT),
    "temperature below 0": (pb_open(sampling=pb.Sampling(temperature=-1e-300)), Code.INVALID_ARGUMENT),
    "top_p NaN": (pb_open(sampling=pb.Sampling(top_p=NAN)), Code.INVALID_ARGUMENT),
    "top_p 0": (pb_open(sampling=pb.Sampling(top_p=0.0)), Code.INVALID_ARGUMENT),
    "min_p NaN": (pb_open(sampling=pb.Sampling(min_p=NAN)), Code.INVALID_ARGUMENT),
    "no sampling": (pb_open(sampling=None), Code.INVALID_ARGUMENT),
    "no token": (pb_open(tokens=()), Code.INVALID_ARGUMENT),
    "greatest token": (pb_open(tokens=(1, 2, MOST_32)), Code.INVALID_ARGUMENT),
    "greatest stop token": (pb_open(stop_tokens=[MOST_32]), Code.INVALID_ARGUMENT),
    "greatest prompt length": (pb_open(prompt_length=MOST_32), Code.INVALID_ARGUMENT),
    "greatest patience": (pb_open(patience_us=MOST_64), Code.INVALID_ARGUMENT),
    "greatest protocol": (pb_open(protocol_version=MOST_32), Code.FAILED_PRECONDITION),
    "odd fingerprint": (pb_open(model_fingerprint="\x00\n\u00e9\U0001f642%"), Code.FAILED_PRECONDITION),
}


@pytest.mark.parametrize("name", EXTREME_OPENS)
async def test_an_extreme_open_is_refused(name: str) -> None:
    message, expected = EXTREME_OPENS[name]
    async with attacked() as (_, client):
        stream = client.stream()
        await stream.call.write(message)
        code, detail = await status(stream)
        assert (code, bool(detail)) == (expected, True)
        assert stream.received == []


async def test_extremes_that_are_allowed_change_nothing() -> None:
    sampling = pb.Sampling(temperature=5e-324, top_k=MOST_32, top_p=5e-324, min_p=1.0, seed=MOST_64)
    async with attacked() as (_, client):
        stop = TEXT[40]  # beside thousands of others that the target does not say
        others = [token for token in range(PROFILE.vocabulary_size) if token not in TEXT[:40]]
        for message, want in (
            (pb_open(sampling=sampling, max_length=MOST_32), TEXT[:256]),
            (pb_open(stop_tokens=[*others * 5, stop], max_length=400), TEXT[: TEXT.index(stop) + 1]),
        ):
            stream = client.stream()
            await stream.call.write(message)
            assert (await asyncio.wait_for(stream.tokens(len(want)), DEADLINE_S))[: len(want)] == want
            stream.call.cancel()


EXTREME_DRAFTS = {
    "greatest token": pb.Draft(first_node=1, root_position=3, tokens=[MOST_32]),
    "greatest offset": pb.Draft(first_node=1, root_position=3, tokens=[1], parent_offsets=[MOST_32]),
    "greatest first id": pb.Draft(first_node=MOST_64, root_position=3, tokens=[1]),
    "id 2^63": pb.Draft(first_node=2**63, root_position=3, tokens=[1], parent_offsets=[MOST_32]),
    "id 2^31": pb.Draft(first_node=2**31, root_position=3, tokens=[1]),
    "greatest root": pb.Draft(first_node=1, root_position=MOST_32, tokens=[1]),
    "greatest seen": pb.Draft(first_node=1, root_position=3, tokens=[1], seen=MOST_32),
    "root 0": pb.Draft(first_node=1, tokens=[1]),
    "id without tokens": pb.Draft(first_node=1, root_position=3),
    "tokens without id": pb.Draft(root_position=3, tokens=[1]),
    "offsets without tokens": pb.Draft(root_position=3, parent_offsets=[1]),
    "costs without tokens": pb.Draft(root_position=3, costs=[1]),
}


@pytest.mark.parametrize("name", EXTREME_DRAFTS)
async def test_an_extreme_draft_ends_its_stream(name: str) -> None:
    async with attacked() as (_, client):
        stream = await client.open(opening(PROMPT, new=64, patience_us=5_000_000))
        await stream.call.write(pb.EdgeMessage(draft=EXTREME_DRAFTS[name]))
        code, detail = await status(stream)
        assert (code, bool(detail)) == (Code.INVALID_ARGUMENT, True)


async def test_greatest_costs_and_every_sibling_change_no_token() -> None:
    async with attacked() as (_, client):
        stream = await client.open(opening(PROMPT, new=64, patience_us=5_000_000))
        first, at = 1, 3
        while at < 67:
            # The right chain at the greatest cost, a wrong one for nothing, a hundred siblings.
            chain, wrong = TEXT[at - 3 : at + 1], [9] * 4
            tokens = [*chain, *wrong, *range(100)]
            offsets = [0, 1, 1, 1, 0, 1, 1, 1, *(0,) * 100]
            costs = [*(MOST_32,) * 4, *(0,) * 4, *(MOST_32, 0) * 50]
            draft = pb.Draft(
                first_node=first, root_position=at, tokens=tokens, parent_offsets=offsets, costs=costs
            )
            await put(stream, pb.EdgeMessage(draft=draft))
            first += len(tokens)
            known = len(stream.committed)
            await asyncio.wait_for(stream.tokens(known + 1), DEADLINE_S)
            at = 3 + len(stream.committed)
        assert (await status(stream))[0] is Code.OK
        assert stream.committed == TEXT[:64]


async def test_unknown_fields_and_compression_are_no_matter() -> None:
    async with attacked(compression=grpc.Compression.Gzip) as (_, client):
        stream = raw(client)
        await stream.call.write(OPEN_BYTES + length_delimited(15, 1000))
        await stream.call.write(
            wire.edge_message_to_wire(Draft(0, 3, (), (), (), 3, step_now=True)).SerializeToString()
        )
        assert (await asyncio.wait_for(stream.tokens(1), DEADLINE_S))[:1] == TEXT[:1]
        stream.call.cancel()
        await is_served(client)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4096 - 3, Code.INVALID_ARGUMENT),  # within the limit, and no message
        (4096, Code.RESOURCE_EXHAUSTED),
        (4 * 4096 - 3, Code.RESOURCE_EXHAUSTED),
        (4 * 4096, Code.RESOURCE_EXHAUSTED),  # from here on the transport refuses
        (16 << 20, Code.RESOURCE_EXHAUSTED),
    ],
)
async def test_an_oversized_message_is_refused(
    size: int, expected: grpc.StatusCode, compression: grpc.Compression
) -> None:
    limits = Limits(max_message_bytes=4096)
    unlimited = (("grpc.max_send_message_length", -1),)
    async with attacked(limits=limits, channel_options=unlimited, compression=compression) as (_, client):
        for begun in (False, True):
            stream = raw(client)
            if begun:
                await stream.call.write(OPEN_BYTES)
            await put(stream, length_delimited(15, size))
            assert (await status(stream))[0] is expected
        await is_served(client)
