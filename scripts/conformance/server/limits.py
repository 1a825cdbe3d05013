"""The limits: what lies within them is taken, what lies beyond ends with RESOURCE_EXHAUSTED."""

from __future__ import annotations

import time
from typing import Final

import grpc

from scripts.conformance.rules import SkippedError, check
from scripts.conformance.server.client import Ended, Stream
from scripts.conformance.server.subject import AT, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

EXHAUSTED: Final = grpc.StatusCode.RESOURCE_EXHAUSTED
LONGEST_MESSAGE: Final = 64 << 20
MOST_SESSIONS: Final = 256
ATTEMPTS: Final = 30
FLOOD_S: Final = 5.0
FLOOD: Final = 4
"""For so long a script tries to be so many times too fast. Twice is what any way of counting may let through."""


@RULES.rule("Limits.max_message_bytes")
def messages_are_no_larger_than_the_limit(server: Server) -> None:
    """A message of max_message_bytes is taken, one of a byte more is RESOURCE_EXHAUSTED."""
    most = server.limits.max_message_bytes
    if most > LONGEST_MESSAGE:
        raise SkippedError(f"would send {most} bytes")
    for size, taken in ((most, True), (most + 1, False), (3 * most, False)):
        stream = server.stream(_of_size(server, size))
        if taken:
            stream.finish()
        else:
            stream.ends_with(EXHAUSTED, f"an Open of {size} bytes, at most {most}")


@RULES.rule("Limits.max_nodes_per_message")
def nodes_of_a_message_are_limited(server: Server) -> None:
    """A Draft with max_nodes_per_message tokens is taken, one with a token more is RESOURCE_EXHAUSTED."""
    limits = server.limits
    most = limits.max_nodes_per_message
    if limits.max_live_nodes > most:
        # Siblings: a right one and others that die with the first fact.
        within = _siblings(server, most)
        within.read_received(most)
    stream = server.patient()
    stream.draft(1, AT, [0] * (most + 1), parent_offsets=[0] * (most + 1))
    stream.ends_with(EXHAUSTED, f"{most + 1} nodes in a message, at most {most}", fence=True)


@RULES.rule("Limits.max_live_nodes")
def live_nodes_are_limited(server: Server) -> None:
    """Ids that stand for a live node, or for a committed token at or past root_position, are at most max_live_nodes:
    one more is RESOURCE_EXHAUSTED, also where one guess is repeated.
    """
    most = server.limits.max_live_nodes
    if most > 1 << 16:
        raise SkippedError(f"would send {most} nodes")
    right = server.text()[0]
    stream = server.patient()
    _repeat(server, stream, right, most)
    # All of them stand for the first token, whether or not it is committed by now.
    stream.step_now()
    stream.read_received(most)
    beyond = server.patient()
    _repeat(server, beyond, right, most + 1)
    beyond.ends_with(EXHAUSTED, f"{most + 1} ids of the first token, at most {most} live nodes", fence=True)


@RULES.rule("Limits.max_live_nodes")
def settled_nodes_make_room(server: Server) -> None:
    """Ids of committed tokens below root_position count no more: a client that moves on is never refused."""
    most = server.limits.max_live_nodes
    if most > 1 << 12:
        raise SkippedError(f"would send {2 * most} nodes")
    want = server.text()
    stream = server.patient()
    _repeat(server, stream, want[0], most)
    stream.read_tokens(1)
    length = stream.length
    first, left = most + 1, most
    while left:
        count = min(left, server.limits.max_nodes_per_message)
        right = want[length - AT]
        stream.draft(first, length, [right] * count, parent_offsets=[0] * count)
        first, left = first + count, left - count
    stream.read_received(2 * most)


@RULES.rule("Limits.max_depth")
def depth_is_limited(server: Server) -> None:
    """A node more than max_depth tokens from the end of the log is RESOURCE_EXHAUSTED."""
    limits = server.limits
    deep = limits.max_depth + 1
    if deep > limits.max_live_nodes:
        raise SkippedError(f"{deep} nodes below each other are beyond max_live_nodes {limits.max_live_nodes}")
    server.room(deep + 1)
    for _ in range(ATTEMPTS):
        stream = server.patient(new=deep + 1)
        parts = range(0, deep, limits.max_nodes_per_message)
        for at in parts:
            count = min(limits.max_nodes_per_message, deep - at)
            stream.draft(at + 1, AT, [0] * count, parent_offsets=[1 if at else 0, *[1] * (count - 1)])
        stream.step_now()
        ended = stream.read()
        if isinstance(ended, Ended):
            check(ended.code is EXHAUSTED, f"a node {deep} below the end: {ended}")
            return
        # A server that decides between two messages has moved the end, or killed the chain, before the last came.
        check(
            len(parts) > 1 and stream.total("received") < deep,
            f"a node {deep} below the end is taken, at most {limits.max_depth}",
        )
        stream.cancel()
    raise SkippedError("the server decides faster than two messages follow each other")


@RULES.rule("Limits.max_messages_per_second")
def messages_in_a_second_are_limited(server: Server) -> None:
    """A stream with far more messages a second than max_messages_per_second ends with RESOURCE_EXHAUSTED."""
    most = server.limits.max_messages_per_second
    stream = server.patient()
    began, sent, took = time.monotonic(), 0, 0.0
    while stream.stands and took < FLOOD_S and sent < FLOOD * most * max(1.0, took):
        for _ in range(64):
            stream.draft(0, AT)
        sent += 64
        took = time.monotonic() - began
    stream.close()
    ended = stream.end()
    took = time.monotonic() - began
    if ended.code is not EXHAUSTED and sent < FLOOD / 2 * most * max(1.0, took):
        raise SkippedError(f"{sent / took:.0f} messages a second came through at most, {most} are allowed")
    check(
        ended.code is EXHAUSTED,
        f"{sent} messages in {took:.2f} s, at most {most} a second: ended with {ended}",
    )
    check(sent > most, f"ended after at most {sent} messages, {most} a second are allowed")


@RULES.rule("Limits.max_sessions")
def sessions_are_limited(server: Server) -> None:
    """A server with max_sessions sessions refuses another with RESOURCE_EXHAUSTED, and takes one when there is room."""
    most = server.limits.max_sessions
    if most > MOST_SESSIONS:
        raise SkippedError(f"would open {most} sessions")
    server.patience()
    streams = [server.stream(server.opening(patience_us=server.patience())) for _ in range(most + 1)]
    firsts = [stream.read() for stream in streams]
    refusals = [first for first in firsts if isinstance(first, Ended)]
    check(refusals, f"{most + 1} sessions are open at once, at most {most}")
    for refusal in refusals:
        check(refusal.code is EXHAUSTED, f"session {most + 1} was refused with {refusal}")
    standing = [stream for stream, first in zip(streams, firsts, strict=True) if not isinstance(first, Ended)]
    check(standing, "no session at all was taken")
    standing[0].close()
    standing[0].finish()
    server.open()


@RULES.rule("Limits.run_ahead")
def the_cloud_runs_ahead_of_what_was_seen(server: Server) -> None:
    """A session whose edge reports nothing gets exactly run_ahead tokens, and goes on when it reports what it has
    seen.
    """
    ahead = server.limits.run_ahead
    server.affords(2 * ahead + 8)
    want = server.text(2 * ahead + 8)
    stream = server.open(new=2 * ahead + 8)
    stream.read_tokens(ahead)
    server.served()  # time for whoever would go on
    stream.read_what_is_there()
    check(
        len(stream.tokens) == ahead,
        f"{len(stream.tokens)} tokens without a word of the edge, at most {ahead}",
    )
    stream.draft(0, AT + ahead)
    check(stream.read_tokens(2 * ahead) == want[: 2 * ahead], "another text after what was seen was reported")


@RULES.rule("Open.patience_us")
def the_cloud_waits_for_a_draft(server: Server) -> None:
    """It waits patience_us for a draft before it decodes on its own, and no longer; with 0 not at all."""
    patience_us = min(server.patience(), 300_000)
    want = server.text()
    began = time.monotonic()
    stream = server.open(patience_us=patience_us)
    check(stream.read_tokens(1) == want[:1], "another token")
    took = time.monotonic() - began
    check(
        took >= patience_us / 1e6,
        f"the first token came after {took:.3f} s, the patience is {patience_us} us",
    )
    drafted = server.patient()
    drafted.draft(1, AT, want[:1])
    drafted.read_tokens(1)
    queued = drafted.commits[0].queue_us
    check(queued < server.patience() / 2, f"with a draft at hand it waited {queued} us")


def _siblings(server: Server, count: int) -> Stream:
    size = server.model.vocabulary_size
    stream = server.patient()
    stream.draft(1, AT, [(server.text()[0] + i) % size for i in range(count)], parent_offsets=[0] * count)
    return stream


def _repeat(server: Server, stream: Stream, token: int, times: int) -> None:
    """The same child of the end again and again, each with an id of its own."""
    most = server.limits.max_nodes_per_message
    for at in range(0, times, most):
        count = min(most, times - at)
        stream.draft(at + 1, AT, [token] * count, parent_offsets=[0] * count, seen=AT)


def _of_size(server: Server, size: int) -> pb.EdgeMessage:
    """An Open of exactly so many bytes, which stop tokens fill that the target does not write."""
    written = set(server.text())
    unwritten = next(token for token in range(min(128, server.model.vocabulary_size)) if token not in written)
    message = server.opening(new=1)
    wide = 128 if server.model.vocabulary_size > 128 and 128 not in written else None
    count = size
    while True:
        message.open.stop_tokens[:] = [unwritten] * count
        over = message.ByteSize() - size
        if over == 0:
            return message
        if over < 0:
            break
        count -= over
    if wide is None or not count:
        raise SkippedError(f"cannot make an Open of exactly {size} bytes")
    message.open.stop_tokens[0] = wide  # two bytes
    if message.ByteSize() != size:
        raise SkippedError(f"cannot make an Open of exactly {size} bytes")
    return message
