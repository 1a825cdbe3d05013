"""Every rule of the contract over real gRPC: a violation ends its stream with the documented status, no other."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable

import grpc
import pytest

from cloud_server.profiled import ProfiledWorker
from shared.messages import Close, Commit, Draft, FinishReason, Limits, Open, Opened
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.profiled import ProfiledPair, decode
from tests.e2e.raw import PROFILE, RawClient, Stream, opening, server

Code = grpc.StatusCode
LIMITS = Limits(
    max_message_bytes=4096, max_nodes_per_message=8, max_live_nodes=16, max_depth=6, max_sessions=4
)
PROMPT = (1, 2, 3)
PATIENT = opening(PROMPT, new=64, patience_us=LIMITS.max_patience_us)


def draft(first: int = 1, root: int = 3, tokens: tuple[int, ...] = (5,), **more: object) -> Draft:
    offsets = (0, *(1,) * (len(tokens) - 1)) if tokens else ()
    fields: dict[str, object] = {"parent_offsets": offsets, "costs": (16,) * len(tokens), "seen": 3} | more
    return Draft(first, root, tokens, **fields)  # type: ignore[arg-type]


async def _many_live(stream: Stream) -> None:
    # 20 different children of the end, in messages of allowed size; the end waits for its patience... in vain.
    for first in (1, 9, 17):
        await stream.send(draft(first, tokens=tuple(range(first, first + 8)), parent_offsets=(0,) * 8))


VIOLATIONS: dict[str, tuple[Callable[[Stream], Awaitable[None]] | Draft | Open | Close, Code, str]] = {
    "ids out of order": (draft(first=2), Code.INVALID_ARGUMENT, "expected 1"),
    "offset below the first id": (draft(parent_offsets=(1,)), Code.INVALID_ARGUMENT, "parent offset"),
    "root position beyond the log": (draft(root=40), Code.INVALID_ARGUMENT, "root_position 40"),
    "root position inside the prompt": (draft(root=2), Code.INVALID_ARGUMENT, "root_position 2"),
    "token beyond the vocabulary": (draft(tokens=(1000,)), Code.INVALID_ARGUMENT, "vocabulary of 1000"),
    "seen beyond the log": (draft(seen=99), Code.INVALID_ARGUMENT, "seen 99"),
    "seen decreases": (draft(seen=2), Code.INVALID_ARGUMENT, "seen 2"),
    "too many nodes in a message": (
        draft(tokens=tuple(range(9))),
        Code.RESOURCE_EXHAUSTED,
        "at most 8: split",
    ),
    "too deep": (draft(tokens=tuple(range(7))), Code.RESOURCE_EXHAUSTED, "at most 6"),
    "too many live nodes": (_many_live, Code.RESOURCE_EXHAUSTED, "live nodes, at most 16"),
    "second open": (opening(PROMPT), Code.INVALID_ARGUMENT, "second Open"),
    "close beyond the log": (Close(99), Code.INVALID_ARGUMENT, "close position 99"),
}

REFUSED: dict[str, tuple[Open | Draft | Close, Code, str]] = {
    "draft before open": (draft(), Code.INVALID_ARGUMENT, "before Open"),
    "close before open": (Close(), Code.INVALID_ARGUMENT, "before Open"),
    "another protocol": (opening(protocol_version=9), Code.FAILED_PRECONDITION, "protocol version 9"),
    "another model": (opening(model_fingerprint="other"), Code.FAILED_PRECONDITION, "same model"),
    "empty log": (dataclasses.replace(opening(), tokens=()), Code.INVALID_ARGUMENT, "prompt_length"),
    "prompt length beyond the log": (opening(prompt_length=4), Code.INVALID_ARGUMENT, "prompt_length 4"),
    "zero budget": (opening(new=0), Code.INVALID_ARGUMENT, "ask for at least one"),
    "prompt token beyond the vocabulary": (opening((1, 5000)), Code.INVALID_ARGUMENT, "vocabulary of 1000"),
    "prompt longer than the context": (opening((1,) * 512), Code.OUT_OF_RANGE, "shorten the prompt"),
    "patience beyond the limit": (opening(patience_us=10**9), Code.INVALID_ARGUMENT, "patience_us"),
    "oversized message": (opening((999,) * 3000), Code.RESOURCE_EXHAUSTED, "at most 4096: split"),
}


async def _bystander(client: RawClient) -> None:
    """A session that drafts beside the violation and must not notice."""
    want = decode(ProfiledPair(PROFILE), PROMPT, 64)
    stream = await client.open(opening(PROMPT, new=64))
    await stream.send(draft(tokens=tuple(want[:4])))
    assert await stream.tokens(4) is not None
    code, _ = await stream.rest()
    assert (code, stream.committed) == (Code.OK, want)


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_its_stream_alone(name: str) -> None:
    broken, code, words = VIOLATIONS[name]
    # Steps that wait for a gate keep the end's fact out until the violation has been made.
    worker = GatedWorker()
    async with server(worker, LIMITS) as up, RawClient(up.address) as client:
        stream = await client.open(PATIENT)
        assert isinstance(await stream.read(), Opened)
        other = asyncio.create_task(_bystander(client))
        if callable(broken):
            await broken(stream)
        else:
            await stream.send(broken)
        got, detail = await stream.rest()
        worker.gate.set()
        assert got is code
        assert words in detail
        await asyncio.wait_for(other, 20)
        assert (up.engine.sessions, up.engine.streams) == (0, 0)


@pytest.mark.parametrize("name", REFUSED)
async def test_a_wrong_beginning_is_refused(name: str) -> None:
    message, code, words = REFUSED[name]
    async with server(limits=LIMITS) as up, RawClient(up.address) as client:
        stream = client.stream()
        await stream.send(message)
        got, detail = await stream.rest()
        assert got is code
        assert words in detail
        assert stream.received == []
        assert up.engine.sessions == 0


async def test_an_empty_message_is_refused() -> None:
    async with server(limits=LIMITS) as up, RawClient(up.address) as client:
        stream = client.stream()
        await stream.call.write(pb.EdgeMessage())
        code, detail = await stream.rest()
        assert code is Code.INVALID_ARGUMENT
        assert "open, attach, draft and close" in detail


async def test_more_sessions_than_allowed_are_refused_and_room_is_made_again() -> None:
    worker = GatedWorker()
    async with server(worker, LIMITS) as up, RawClient(up.address) as client:
        streams = [await client.open(PATIENT) for _ in range(4)]
        for stream in streams:
            assert isinstance(await stream.read(), Opened)
        extra = await client.open(PATIENT)
        code, detail = await extra.rest()
        assert code is Code.RESOURCE_EXHAUSTED
        assert "try again" in detail
        await streams[0].send(Close())
        assert (await streams[0].rest())[0] is Code.OK
        again = await client.open(PATIENT)
        assert isinstance(await again.read(), Opened)
        worker.gate.set()


async def test_a_stream_that_ends_without_close_is_a_loss() -> None:
    async with server(limits=LIMITS) as up, RawClient(up.address) as client:
        stream = await client.open(PATIENT)
        await stream.read()
        await stream.call.done_writing()
        code, detail = await stream.rest()
        assert code is Code.CANCELLED
        assert "without Close" in detail


async def test_close_counts_the_tokens_that_were_wanted() -> None:
    async with server(limits=LIMITS) as up, RawClient(up.address) as client:
        stream = await client.open(opening(PROMPT, new=400))
        await stream.tokens(5)
        await stream.send(Close(position=5))
        code, _ = await stream.rest()
        assert code is Code.OK
        assert stream.finish is not None
        assert stream.finish.completion_tokens == 2
        assert stream.finish.reason is FinishReason.CLOSED


async def test_a_client_that_reports_nothing_is_not_decoded_for_beyond_the_run_ahead() -> None:
    limits = dataclasses.replace(LIMITS, run_ahead=10)
    async with server(limits=limits) as up, RawClient(up.address) as client:
        stream = await client.open(opening(PROMPT, new=64))
        want = decode(ProfiledPair(PROFILE), PROMPT, 64)
        assert await stream.tokens(10) == want[:10]
        # Asking for the eleventh by saying what was seen: without this the stream would rest.
        assert up.metrics.committed_tokens == 10
        await stream.send(draft(0, 13, (), seen=13))
        assert (await stream.tokens(20))[:20] == want[:20]


async def test_a_log_in_parts_and_a_log_with_committed_tokens_give_the_same_text() -> None:
    want = decode(ProfiledPair(PROFILE), PROMPT, 32)
    async with server(limits=LIMITS) as up, RawClient(up.address) as client:
        stream = await client.open(dataclasses.replace(opening((1, 2), new=32, prompt_length=3), more=True))
        await stream.send(opening((3, *want[:5]), new=32, prompt_length=3))
        code, _ = await stream.rest()
        assert (code, stream.committed) == (Code.OK, want[5:])


async def test_logprobs_come_only_where_they_are_asked_for() -> None:
    async with server(limits=LIMITS) as up, RawClient(up.address) as client:
        for wanted in (False, True):
            stream = await client.open(opening(PROMPT, want_logprobs=wanted))
            await stream.rest()
            commits = [message for message in stream.received if isinstance(message, Commit)]
            assert all(len(commit.logprobs) == wanted * len(commit.tokens) for commit in commits)


class GatedWorker(ProfiledWorker):
    """The profiled worker, whose steps wait until the test has said what it has to say."""

    def __init__(self) -> None:
        super().__init__(PROFILE)
        self.gate = threading.Event()

    def step(self, step):  # type: ignore[no-untyped-def]
        if step.items and not self.gate.wait(30):
            raise TimeoutError("the test never opened the gate")
        return super().step(step)
