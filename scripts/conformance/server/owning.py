"""Whose a session is: its owner's loss, return, and end."""

from __future__ import annotations

from typing import Any

import grpc

from scripts.conformance.rules import check
from scripts.conformance.server.client import Stream
from scripts.conformance.server.subject import AT, NEW, PROMPT, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

Code = grpc.StatusCode


@RULES.rule("Open.session_id")
def the_owner_comes_back(server: Server) -> None:
    """A session with attached streams outlives its owner's loss: who opens it again with its secret owns it, under
    the same id and secret, and is sent what its log lacks.
    """
    want = server.text()
    owner = _begun(server)
    helper = server.attach(owner)
    _ = helper.attached
    log = [*PROMPT, *owner.tokens]
    owner.cancel()
    helper.draft(1, helper.length, want[helper.length - AT :][:2])
    helper.read_tokens(2)
    again = server.stream(_again(server, owner, log))
    _same(again, owner)
    again.read_tokens(2)
    check(again.commits[0].position == len(log), f"the first commit is at {again.commits[0].position}")
    check(again.tokens[:2] == want[len(owner.tokens) :][:2], "the log goes on with another text")


@RULES.rule("Open.session_id")
def the_session_moves_to_another_stream(server: Server) -> None:
    """A stream that owned the session until it was opened again ends with FAILED_PRECONDITION; attached ones stay."""
    want = server.text()
    server.takes_attached()
    owner = _begun(server)
    helper = server.attach(owner)
    _ = helper.attached
    again = server.stream(_again(server, owner, [*PROMPT, *owner.tokens]))
    _same(again, owner)
    owner.ends_with(Code.FAILED_PRECONDITION, "the session was opened again on another stream")
    at = len(owner.tokens)
    again.draft(1, AT + at, want[at : at + 2])  # its ids begin at 1
    check(again.read_tokens(2) == want[at : at + 2], "the log goes on with another text")
    check(helper.read_tokens(2) == want[at : at + 2], "the attached stream is told something else")


@RULES.rule("Open.session_id")
def another_log_ends_the_session(server: Server) -> None:
    """With the right secret and another max_length, or a log that is not its own, a new session is opened and the old
    one is over.
    """
    want = server.text()
    server.takes_attached()
    for name, change in (("another max_length", {"max_length": AT + NEW - 1}), ("another log", {})):
        owner = _begun(server)
        helper = server.attach(owner)
        _ = helper.attached
        log = [*PROMPT, *owner.tokens]
        if not change:
            log[-1] = server.wrong(log[-1])
        again = server.stream(_again(server, owner, log, **change))
        check(again.opened.session_id != owner.opened.session_id, f"{name}: the same session goes on")
        check(again.opened.secret != owner.opened.secret, f"{name}: the new session has the old one's secret")
        helper.ends_with(Code.NOT_FOUND, f"{name}: the owner has moved on")
        server.attach(owner).ends_with(Code.NOT_FOUND, f"{name}: Attach to the session that is over")
        if change:
            again.step_now()
            again.read_tokens(1)
            check(again.tokens[0] == want[len(owner.tokens)], f"{name}: the log goes on with another text")


@RULES.rule("Open.secret")
def a_wrong_secret_opens_a_new_session(server: Server) -> None:
    """Without its secret nobody takes a session over: a new one is opened, and the old one goes on undisturbed."""
    want = server.text()
    owner = _begun(server)
    for secret in ("", owner.opened.secret + "x"):
        again = server.stream(_again(server, owner, [*PROMPT, *owner.tokens], secret=secret))
        check(
            again.opened.session_id != owner.opened.session_id, "a session is taken over without its secret"
        )
    owner.step_now()
    count = len(owner.tokens) + 1
    check(owner.read_tokens(count) == want[:count], "the session was disturbed")


@RULES.rule("README: Attached streams")
def the_session_does_not_outlive_a_broken_owner(server: Server) -> None:
    """A violation by the owner ends the session at once: attached streams end with NOT_FOUND."""
    owner = server.patient()
    helper = server.attach(owner)
    _ = helper.attached
    owner.draft(9, AT, [1])
    owner.ends_with(Code.INVALID_ARGUMENT, "first_node 9 at first")
    helper.ends_with(Code.NOT_FOUND, "the session of a broken owner")


@RULES.rule("README: Attached streams")
def attached_streams_end_with_the_session(server: Server) -> None:
    """When the owner closes the log, attached streams are sent Finish and end with OK."""
    owner = server.patient()
    helper = server.attach(owner)
    _ = helper.attached
    owner.close()
    owner.finish()
    check(helper.finish().reason == pb.FINISH_REASON_CLOSED, "the reason is not CLOSED")
    server.attach(owner).ends_with(Code.NOT_FOUND, "Attach to a session that is over")


def _begun(server: Server) -> Stream:
    owner = server.patient()
    owner.step_now()
    owner.read_tokens(1)
    return owner


def _again(server: Server, owner: Stream, log: list[int], **fields: Any) -> pb.EdgeMessage:
    """The Open that owns the session from now on."""
    values: dict[str, Any] = {
        "prompt_length": AT,
        "max_length": AT + NEW,
        "patience_us": server.patience(),
        "session_id": owner.opened.session_id,
        "secret": owner.opened.secret,
    }
    return server.opening(log, **(values | fields))


def _same(again: Stream, owner: Stream) -> None:
    opened, before = again.opened, owner.opened
    check(opened.session_id == before.session_id, "Opened names another session")
    check(opened.secret == before.secret, "Opened has another secret")
