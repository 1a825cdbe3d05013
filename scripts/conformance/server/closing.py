"""Close: the edge has what it wants."""

from __future__ import annotations

from typing import Final

import grpc

from scripts.conformance.rules import check
from scripts.conformance.server.subject import AT, NEW, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

GARBAGE: Final = b"\xff\xff\xff"


@RULES.rule("Close")
def close_is_answered_with_finish(server: Server) -> None:
    """The cloud answers Close with Finish (CLOSED) that counts all tokens, and the stream ends with OK."""
    for count in (0, 2):
        stream = server.patient()
        while len(stream.tokens) < count:
            stream.step_now()
            stream.read_tokens(len(stream.tokens) + 1)
        stream.close()
        finish = stream.finish()
        check(finish.reason == pb.FINISH_REASON_CLOSED, f"the reason is {finish.reason}, not CLOSED")
        counts, want = (finish.prompt_tokens, finish.completion_tokens), (AT, len(stream.tokens))
        check(counts == want, f"prompt and completion are {counts}, expected {want}")


@RULES.rule("Close.position")
def close_says_which_tokens_count(server: Server) -> None:
    """Tokens at the position and after it do not count in completion_tokens: from all down to none."""
    for position in (AT, AT + 1):
        stream = server.patient()
        stream.step_now()
        stream.read_tokens(1)
        stream.close(position)
        finish = stream.finish()
        counted, want = finish.completion_tokens, position - AT
        check(counted == want, f"position {position}: {counted} completion tokens, expected {want}")


@RULES.rule("Close.position")
def close_is_within_the_completion(server: Server) -> None:
    """A position below the prompt's length, or beyond the cloud's log, is INVALID_ARGUMENT."""
    for position in (0, AT - 1, AT + NEW + 1, 2**32 - 1):
        stream = server.patient()
        stream.close(position)
        stream.ends_with(grpc.StatusCode.INVALID_ARGUMENT, f"Close at {position} of a log of {AT}")


@RULES.rule("Close")
def nothing_is_read_after_close(server: Server) -> None:
    """Close is the last message: nothing that follows is read, whatever it is."""
    stream = server.patient()
    stream.send(pb.EdgeMessage(close=pb.Close()), server.opening(), pb.EdgeMessage(), GARBAGE)
    check(stream.finish().reason == pb.FINISH_REASON_CLOSED, "the reason is not CLOSED")
