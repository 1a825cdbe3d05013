"""Messages that are none, and messages of another minor version."""

from __future__ import annotations

from typing import Final

import grpc

from scripts.conformance.rules import check
from scripts.conformance.server.subject import AT, RULES, Server, refused
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

Code = grpc.StatusCode
GARBAGE: Final = {
    "no protobuf": b"\xff\xff\xff",
    "a length beyond the end": b"\x0a\x50\x01",
    "a string that is no UTF-8": b"\x0a\x04\x3a\x02\xff\xfe",
}
UNKNOWN_KIND: Final = b"\x7a\x00"
"""Field 15, of no version, and no kind beside it."""
UNKNOWN_FIELD: Final = b"\xfa\x3f\x03new"
"""Field 1023: a string."""


@RULES.rule("EdgeMessage.kind")
def a_message_has_a_kind(server: Server) -> None:
    """A message without a kind, or with one that the server does not know, is INVALID_ARGUMENT."""
    cases: dict[str, pb.EdgeMessage | bytes] = {"no kind": pb.EdgeMessage(), "an unknown kind": UNKNOWN_KIND}
    refused(server, Code.INVALID_ARGUMENT, dict(cases))
    for name, message in cases.items():
        stream = server.patient()
        stream.send(message)
        stream.ends_with(Code.INVALID_ARGUMENT, f"{name} in an open session", fence=True)


@RULES.rule("README: Status codes")
def garbage_is_no_message(server: Server) -> None:
    """Bytes that cannot be parsed are INVALID_ARGUMENT, and end their stream alone."""
    refused(server, Code.INVALID_ARGUMENT, dict(GARBAGE))
    stream = server.patient()
    stream.send(GARBAGE["no protobuf"])
    stream.ends_with(Code.INVALID_ARGUMENT, "garbage in an open session", fence=True)
    server.served()


@RULES.rule("README: Versions")
def unknown_fields_are_ignored(server: Server) -> None:
    """Fields that the server does not know, in any message, change nothing."""
    want = server.text()
    opening = server.opening().open.SerializeToString()
    draft = pb.Draft(first_node=1, root_position=AT, tokens=want[:4]).SerializeToString()
    stream = server.stream(_kind(1, opening + UNKNOWN_FIELD) + UNKNOWN_FIELD, _kind(2, draft + UNKNOWN_FIELD))
    stream.finish()
    check(stream.tokens == want, "unknown fields change the text")
    closed = server.resting()
    closed.send(_kind(3, UNKNOWN_FIELD))
    check(closed.finish().reason == pb.FINISH_REASON_CLOSED, "a Close with an unknown field does not close")


@RULES.rule("README: Status codes")
def an_end_without_close_is_a_loss(server: Server) -> None:
    """A stream whose edge ends its side without Close ends with CANCELLED, whether or not a session is open on it."""
    stream = server.patient()
    stream.half_close()
    stream.ends_with(Code.CANCELLED, "an end without Close")


def _kind(number: int, body: bytes) -> bytes:
    """An EdgeMessage with this kind."""
    digits, rest = [], len(body)
    while rest > 127:
        digits.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2, *digits, rest]) + body
