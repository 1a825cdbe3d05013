"""What a server says about itself, beside streams and before them."""

from __future__ import annotations

from typing import Final

import grpc

from scripts.conformance.rules import SkippedError, check
from scripts.conformance.server.client import DEADLINE_S, Stream
from scripts.conformance.server.subject import AT, PROTOCOL, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

HEALTH: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = b"\x08\x01"
"""A HealthCheckResponse with status 1."""
REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LIST_SERVICES: Final = b"\x3a\x00"
"""A ServerReflectionRequest with an empty list_services."""


@RULES.rule("Model")
def model_is_complete(server: Server) -> None:
    """GetModel names the model that decides, a vocabulary, a context, limits and the protocol version; stop tokens are
    tokens.
    """
    model = server.model
    check(model.model_fingerprint, "model_fingerprint is empty: nobody can tell two models apart")
    check(model.vocabulary_size > max(2, AT), f"vocabulary_size is {model.vocabulary_size}")
    check(model.context_length > AT, f"context_length is {model.context_length}")
    check(model.HasField("limits"), "limits are not set")
    check(model.protocol_version == PROTOCOL, f"protocol_version is {model.protocol_version}, not {PROTOCOL}")
    beyond = [token for token in model.stop_tokens if token >= model.vocabulary_size]
    check(not beyond, f"stop tokens {beyond} are beyond the vocabulary of {model.vocabulary_size}")


@RULES.rule("Limits")
def limits_let_a_client_work(server: Server) -> None:
    """Each of the first six limits is above 0, and so is run_ahead: what nobody could keep is no limit."""
    for name in (
        *("max_message_bytes", "max_nodes_per_message", "max_live_nodes", "max_depth"),
        *("max_messages_per_second", "max_sessions", "run_ahead"),
    ):
        check(getattr(server.limits, name) > 0, f"{name} is 0")


@RULES.rule("README: The wire")
def health_stands_beside_it(server: Server) -> None:
    """The standard gRPC health service says SERVING."""
    call = server.channel.unary_unary(HEALTH, request_serializer=bytes, response_deserializer=bytes)
    answer = call(b"", timeout=DEADLINE_S, metadata=tuple(server.metadata))
    check(answer == SERVING, f"health says {answer!r}")


@RULES.rule("README: The wire")
def reflection_stands_beside_it(server: Server) -> None:
    """The standard gRPC reflection service lists slipstream.v1.Slipstream."""
    call = server.channel.stream_stream(REFLECTION, request_serializer=bytes, response_deserializer=bytes)
    answers = list(call(iter([LIST_SERVICES]), timeout=DEADLINE_S, metadata=tuple(server.metadata)))
    check(any(b"slipstream.v1.Slipstream" in answer for answer in answers), f"it lists {answers!r}")


@RULES.rule("README: Status codes")
def without_a_token_nobody_gets_in(server: Server) -> None:
    """A server that wants a token ends every call without one with UNAUTHENTICATED."""
    if not server.metadata:
        raise SkippedError("needs a token that lets in: none was given")
    try:
        server.ask(())
    except grpc.RpcError as error:
        check(error.code() is grpc.StatusCode.UNAUTHENTICATED, f"GetModel ends with {error.code().name}")
    else:
        check(False, "GetModel answers without a token")
    stream = Stream(server.channel, ())
    stream.send(server.opening())
    stream.ends_with(grpc.StatusCode.UNAUTHENTICATED, "Decode without a token")


@RULES.rule("WatchSessions")
def watching_needs_a_token_of_its_own(server: Server) -> None:
    """Who brings no token that was set aside for it may not watch: PERMISSION_DENIED."""
    call = server.stub.WatchSessions(
        pb.WatchSessionsRequest(), timeout=DEADLINE_S, metadata=tuple(server.metadata)
    )
    try:
        notice = next(iter(call), None)
    except grpc.RpcError as error:
        check(error.code() is grpc.StatusCode.PERMISSION_DENIED, f"it ends with {error.code().name}")
    else:
        call.cancel()
        check(False, f"it is answered ({'a notice' if notice else 'an end'}) without such a token")


@RULES.rule("WatchSessions")
def watching_tells_of_each_session_once(server: Server) -> None:
    """A watcher is sent one notice for each open session and one for each that is opened, good for attaching."""
    if server.watching is None:
        raise SkippedError("needs a token that was set aside for watching: none was given")
    before = server.resting()
    notices = server.stub.WatchSessions(
        pb.WatchSessionsRequest(), timeout=DEADLINE_S, metadata=tuple(server.watching)
    )
    told: list[pb.SessionNotice] = []
    try:
        while before.opened.session_id not in [notice.session_id for notice in told]:
            told.append(next(notices))
        after = server.resting()
        while after.opened.session_id not in [notice.session_id for notice in told]:
            told.append(next(notices))
    finally:
        notices.cancel()
    names = [notice.session_id for notice in told]
    check(len(names) == len(set(names)), "a session was announced twice")
    secrets = {notice.session_id: notice.secret for notice in told}
    attached = server.attach(after, secret=secrets[after.opened.session_id])
    check(list(attached.attached.tokens), "Attached has no log")
