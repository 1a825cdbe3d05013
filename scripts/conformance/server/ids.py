"""The form of a Draft: unknown is loud."""

from __future__ import annotations

from typing import Any, Final

import grpc

from scripts.conformance.rules import check
from scripts.conformance.server.client import Stream
from scripts.conformance.server.subject import AT, NEW, PROMPT, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

Code = grpc.StatusCode
MOST_32, MOST_64 = 2**32 - 1, 2**64 - 1
BEYOND: Final = AT + NEW + 1
"""Longer than the log can be."""


@RULES.rule("Draft.first_node")
def ids_begin_at_one_and_are_dense(server: Server) -> None:
    """A first_node that is not one more than the last id used, 1 at first, is INVALID_ARGUMENT."""
    for first in (2, 7, MOST_64):
        _violates(server, f"first_node {first} at first", _draft(first, [1]))
    for first in (1, 2, 4):
        _violates(server, f"first_node {first} after #2", _draft(1, [1, 2]), _draft(first, [1]))


@RULES.rule("Draft.first_node")
def dead_nodes_use_up_ids(server: Server) -> None:
    """Ids count on over nodes that were dead on arrival: naming one of theirs again is INVALID_ARGUMENT."""
    right = server.text()[0]
    stream = _with_a_token(server)
    dead = _draft(1, [server.wrong(right)], seen=stream.length)
    _refuses(stream, "the id of a dead node again", dead, _draft(1, [right], seen=stream.length))


@RULES.rule("Draft.first_node")
def no_tokens_use_no_id(server: Server) -> None:
    """first_node is 0 where there are no tokens, and only there: else INVALID_ARGUMENT. Such a message uses no id."""
    _violates(server, "first_node 1 without tokens", _draft(1, []))
    _violates(server, "tokens with first_node 0", _draft(0, [1]))
    stream = server.resting()
    stream.draft(0, AT)
    stream.draft(1, AT, server.text()[:2])
    stream.read_tokens(1)


@RULES.rule("Draft.tokens")
def drafted_tokens_are_tokens(server: Server) -> None:
    """A drafted token beyond the vocabulary is INVALID_ARGUMENT."""
    for token in (server.model.vocabulary_size, MOST_32):
        _violates(server, f"token {token}", _draft(1, [1, token]))


@RULES.rule("Draft.parent_offsets")
def offsets_reach_no_lower_than_the_first_id(server: Server) -> None:
    """An offset that reaches below id 1 is INVALID_ARGUMENT."""
    for offsets in ([1, 0], [0, 2], [0, MOST_32]):
        _violates(server, f"offsets {offsets} of #1 and #2", _draft(1, [1, 2], parent_offsets=offsets))


@RULES.rule("Draft.parent_offsets")
def offsets_and_costs_are_as_many_as_tokens(server: Server) -> None:
    """As many parent_offsets, and costs, as tokens or none at all: any other number is INVALID_ARGUMENT."""
    for count in (1, 3):
        values = [0, 1, 1][:count]
        _violates(server, f"{count} offsets for 2 tokens", _draft(1, [1, 2], parent_offsets=values))
        _violates(server, f"{count} costs for 2 tokens", _draft(1, [1, 2], costs=values))
    _violates(server, "offsets without tokens", _draft(0, [], parent_offsets=[1]))
    _violates(server, "costs without tokens", _draft(0, [], costs=[1]))


@RULES.rule("Draft.root_position")
def root_position_is_within_what_was_sent(server: Server) -> None:
    """A root_position below the prompt's length, or beyond the log that the cloud has sent, is INVALID_ARGUMENT."""
    for root in (0, AT - 1, BEYOND, MOST_32):
        _violates(server, f"root_position {root}", _draft(1, [1], root=root, seen=AT))


@RULES.rule("Draft.root_position")
def root_position_never_decreases(server: Server) -> None:
    """A root_position below that of an earlier message with nodes is INVALID_ARGUMENT."""
    stream = _with_a_token(server)
    seen = stream.length
    _refuses(
        stream, "root_position 4, then 3", _draft(1, [1], root=AT + 1, seen=seen), _draft(2, [1], seen=seen)
    )


@RULES.rule("Draft.root_position")
def root_position_counts_with_tokens_only(server: Server) -> None:
    """Without tokens root_position only stands in for an absent seen: it may be anything where seen is there."""
    stream = server.resting()
    stream.draft(0, MOST_32, seen=AT)
    stream.draft(0, 0, seen=AT)
    stream.draft(1, AT, server.text()[:1])
    stream.read_tokens(1)


@RULES.rule("Draft.seen")
def seen_is_within_what_was_sent(server: Server) -> None:
    """A seen beyond the log that the cloud has sent is INVALID_ARGUMENT, also where root_position stands in for it."""
    for seen in (BEYOND, MOST_32):
        _violates(server, f"seen {seen}", _draft(0, [], seen=seen))
        _violates(server, f"seen absent, root_position {seen}", _draft(0, [], root=seen))


@RULES.rule("Draft.seen")
def seen_never_decreases(server: Server) -> None:
    """A seen below an earlier one is INVALID_ARGUMENT; the opened log counts as seen, and an absent one is
    root_position.
    """
    _violates(server, "seen below the opened log", _draft(1, [1], seen=AT - 1))
    said = _draft(0, [], seen=AT + 1)
    _refuses(_with_a_token(server), "seen 4, then 3", said, _draft(1, [1], seen=AT))
    _refuses(_with_a_token(server), "seen 4, then absent with root_position 3", said, _draft(1, [1]))


@RULES.rule("slipstream.proto: MUST")
def a_violation_ends_its_stream_alone(server: Server) -> None:
    """A violation ends its own stream; others are served as if nothing had been."""
    want = server.text()
    other = server.resting()
    _violates(server, "first_node 9", _draft(9, [1]))
    other.draft(1, AT, want[:4])
    check(other.read_tokens(4) == want[:4], "another session got another text")
    server.served()


@RULES.rule("slipstream.proto: MUST")
def commits_before_a_violation_stand(server: Server) -> None:
    """What was committed before is valid, and the log goes on from there on another stream."""
    want = server.text()
    stream = server.resting()
    stream.step_now()
    stream.read_tokens(1)
    stream.draft(5, AT, [1])
    stream.ends_with(Code.INVALID_ARGUMENT, "first_node 5 at first", fence=True)
    check(stream.tokens == want[: len(stream.tokens)], "what was committed is not the target's text")
    again = server.open((*PROMPT, *stream.tokens), prompt_length=AT, max_length=AT + NEW)
    again.finish()
    check([*stream.tokens, *again.tokens] == want, "the log goes on with another text")


def _draft(first: int, tokens: list[int], root: int = AT, **fields: Any) -> pb.EdgeMessage:
    return pb.EdgeMessage(draft=pb.Draft(first_node=first, root_position=root, tokens=tokens, **fields))


def _with_a_token(server: Server) -> Stream:
    """A session with something to have seen."""
    stream = server.patient()
    stream.step_now()
    stream.read_tokens(1)
    return stream


def _violates(server: Server, name: str, *drafts: pb.EdgeMessage) -> None:
    """The last of them is refused."""
    _refuses(server.patient(), name, *drafts)


def _refuses(stream: Stream, name: str, *drafts: pb.EdgeMessage) -> None:
    stream.send(*drafts)
    ended = stream.ends_with(Code.INVALID_ARGUMENT, name, fence=True)
    check(ended.detail, f"{name}: the status says nothing about what was found")
    check(not any(one.HasField("finish") for one in stream.received), f"{name}: a Finish came all the same")
