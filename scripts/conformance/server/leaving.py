"""A server that goes away. After these rules it is of no use any more."""

from __future__ import annotations

import grpc

from scripts.conformance.rules import SkippedError, check
from scripts.conformance.server.client import Ended
from scripts.conformance.server.subject import RULES, Server

Code = grpc.StatusCode


@RULES.rule("Drain", last=True)
def drain_is_said_once_and_streams_are_served(server: Server) -> None:
    """A server that goes away says Drain once on each stream, serves it on within its grace, and takes no new one:
    UNAVAILABLE.
    """
    if server.drain is None:
        raise SkippedError("needs a way to tell the server to go away")
    want = server.text()
    streams = [server.patient(), server.patient()]
    server.drain()
    for stream in streams:
        while not (stream.received and stream.received[-1].HasField("drain")):
            check(not isinstance(ended := stream.read(), Ended), f"no Drain came: {ended}")
        stream.step_now()
        check(stream.read_tokens(1) == want[:1], "the stream is not served after Drain")
    server.stream(server.opening()).ends_with(Code.UNAVAILABLE, "an Open at a server that drains")
    streams[0].close()
    streams[0].finish()
    drains = [sum(message.HasField("drain") for message in stream.received) for stream in streams]
    check(drains == [1, 1], f"Drain came {drains} times")


@RULES.rule("Decode", last=True)
def nothing_comes_before_opened(server: Server) -> None:
    """A stream that has no session yet when the server goes away ends with UNAVAILABLE: Opened comes before Drain."""
    if server.drain is None:
        raise SkippedError("needs a way to tell the server to go away")
    waiting = server.stream(server.opening(more=True))
    server.served()  # so the server knows of both streams
    server.drain()
    waiting.ends_with(Code.UNAVAILABLE, "half an Open at a server that goes away")
    check(not waiting.received, "a message came before Opened")
