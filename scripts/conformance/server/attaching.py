"""Attached streams: drafters of other devices help a session, and change nothing about it."""

from __future__ import annotations

import time

import grpc

from scripts.conformance.rules import SkippedError, check
from scripts.conformance.server.opening import SAMPLED
from scripts.conformance.server.subject import AT, NEW, PROMPT, PROTOCOL, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

Code = grpc.StatusCode


@RULES.rule("Attached")
def attached_tells_the_session(server: Server) -> None:
    """Attached comes first and says the log as it is, how it is sampled and bounded, the model and the limits."""
    stop = [
        token for token in range(server.model.vocabulary_size) if token not in server.text(sampling=SAMPLED)
    ][:1]
    owner = server.patient(sampling=SAMPLED, stop_tokens=stop)
    owner.step_now()
    owner.read_tokens(1)
    attached = server.attach(owner).attached
    said = attached.prompt_length, attached.max_length, list(attached.stop_tokens), attached.sampling
    check(said == (AT, AT + NEW, stop, SAMPLED), f"it says {said}")
    check(list(attached.tokens) == [*PROMPT, *owner.tokens], "its log is not the session's")
    check(attached.model_fingerprint == server.model.model_fingerprint, "another model's fingerprint")
    check(attached.HasField("limits"), "limits are not set")


@RULES.rule("Attach.session_id")
def attaching_needs_id_and_secret(server: Server) -> None:
    """An unknown session and a wrong secret are NOT_FOUND, with the same words."""
    owner = server.resting()
    secret = owner.opened.secret
    said = {
        name: server.attach(owner, **fields).ends_with(Code.NOT_FOUND, name, fence=True).detail
        for name, fields in {
            "an unknown session": {"session_id": "nobody"},
            "a wrong secret": {"secret": secret[:-1] + ("a" if secret[-1] != "a" else "b")},
            "no secret": {"secret": ""},
        }.items()
    }
    check(len(set(said.values())) == 1, f"the words differ, and tell which ids are sessions: {said}")


@RULES.rule("Attach.protocol_version")
def attaching_needs_the_same_model(server: Server) -> None:
    """Another protocol version, model or tokenizer is FAILED_PRECONDITION."""
    owner = server.resting()
    model = server.model
    for fields in (
        {"protocol_version": 0},
        {"protocol_version": PROTOCOL + 1},
        {"model_fingerprint": model.model_fingerprint + "0"},
        {"tokenizer_fingerprint": model.tokenizer_fingerprint + "0"},
    ):
        server.attach(owner, **fields).ends_with(
            Code.FAILED_PRECONDITION, f"Attach with {fields}", fence=True
        )


@RULES.rule("Attach")
def attach_comes_first(server: Server) -> None:
    """An Attach that is not the first message of its stream is INVALID_ARGUMENT, and so is an Open behind it."""
    server.takes_attached()
    owner = server.patient()
    again = pb.Attach(
        protocol_version=PROTOCOL, session_id=owner.opened.session_id, secret=owner.opened.secret
    )
    message = pb.EdgeMessage(attach=again)
    opened = server.patient()
    opened.send(message)
    opened.ends_with(Code.INVALID_ARGUMENT, "Attach on a stream that has opened a session", fence=True)
    part = server.stream(server.opening(more=True), message)
    part.ends_with(Code.INVALID_ARGUMENT, "Attach between the parts of an Open")
    for name, second in (("a second Attach", message), ("Open behind Attach", server.opening())):
        stream = server.attach(owner)
        _ = stream.attached
        stream.send(second)
        stream.ends_with(Code.INVALID_ARGUMENT, name, fence=True)


@RULES.rule("Model.takes_attached")
def attaching_is_offered(server: Server) -> None:
    """A server that does not offer attached streams answers Attach with INVALID_ARGUMENT."""
    if server.model.takes_attached:
        raise SkippedError("this server takes attached streams")
    attach = pb.Attach(protocol_version=PROTOCOL, session_id="nobody", secret="nothing")  # noqa: S106 - nobody's
    server.stream(pb.EdgeMessage(attach=attach)).ends_with(Code.INVALID_ARGUMENT, "Attach")


@RULES.rule("Attach")
def attached_drafts_are_accepted(server: Server) -> None:
    """What an attached stream drafts is committed where it is right, counted as its own, and told to everybody."""
    want = server.text()
    owner = server.patient()
    helper = server.attach(owner)
    _ = helper.attached
    helper.draft(1, AT, [*want[:3], server.wrong(want[3])])
    check(owner.read_tokens(4) == want[:4], "another text than without drafts")
    check(helper.read_tokens(4) == owner.tokens[:4], "the attached stream is told something else")
    accepted, judged = helper.total("accepted"), helper.total("judged")
    check((accepted, judged) == (3, 4), f"accepted {accepted} of {judged} judged; 3 of 4 drafts were right")
    owners = {name: owner.total(name) for name in ("judged", "accepted", "received", "stale")}
    check(not any(owners.values()), f"the owner, who drafted nothing, is told {owners}")
    check(owner.total("self_decoded") == 0, "a step with an attached stream's drafts counts as self_decoded")


@RULES.rule("Attach")
def attached_drafts_change_no_token(server: Server) -> None:
    """Wrong drafts of an attached stream, and the same ones as the owner's, leave the text what it is."""
    want = server.text()
    owner = server.patient()
    helper = server.attach(owner)
    _ = helper.attached
    owner.draft(1, AT, want[:2])
    helper.draft(1, AT, [server.wrong(want[0]), want[0], want[1]], parent_offsets=[0, 0, 1])
    first = 4
    while len(owner.tokens) < NEW:
        owner.step_now()
        owner.read_tokens(len(owner.tokens) + 1)
        helper.read_tokens(len(owner.tokens))
        if (at := len(helper.tokens)) < NEW:
            helper.draft(first, AT + at, [server.wrong(want[at])])
            first += 1
    owner.finish()
    check(owner.tokens == want, "another text than without drafts")
    finish = helper.finish()
    check(helper.tokens == want, "the attached stream was told another text")
    check(finish.reason == pb.FINISH_REASON_LENGTH, f"it is told the reason {finish.reason}")


@RULES.rule("Commit.logprobs")
def attached_streams_get_no_logprobs(server: Server) -> None:
    """Commits of an attached stream carry no logprobs, also where the owner wants them."""
    owner = server.patient(want_logprobs=True)
    helper = server.attach(owner)
    _ = helper.attached
    owner.step_now()
    owner.read_tokens(1)
    helper.read_tokens(1)
    check(owner.commits[0].logprobs, "the owner wants logprobs and has none")
    check(not helper.commits[0].logprobs, "the attached stream has logprobs")


@RULES.rule("Draft.step_now")
def step_now_is_the_owners(server: Server) -> None:
    """step_now of an attached stream has no effect: the owner's patience is waited out."""
    patience_us = min(server.patience(), 400_000)
    began = time.monotonic()
    owner = server.open(patience_us=patience_us)
    helper = server.attach(owner)
    _ = helper.attached
    helper.draft(0, AT, step_now=True)
    owner.read_tokens(1)
    took = time.monotonic() - began
    check(took >= patience_us / 1e6, f"a token came after {took:.3f} s, the patience is {patience_us} us")


@RULES.rule("Attach")
def a_violation_ends_the_attached_stream_alone(server: Server) -> None:
    """A violation by an attached stream ends it alone, and nothing of the message is applied."""
    want = server.text()
    owner = server.patient()
    helper = server.attach(owner)
    _ = helper.attached
    helper.draft(1, AT, [*want[:2], server.model.vocabulary_size])
    helper.ends_with(Code.INVALID_ARGUMENT, "a token beyond the vocabulary behind two right ones", fence=True)
    owner.step_now()
    owner.read_tokens(1)
    check(
        owner.commits[0].self_decoded > 0,
        "a step had drafts, though the message that brought them was refused",
    )
    for fields in ({"first": 2}, {"root": AT - 1, "seen": AT}, {"seen": AT + NEW + 1}):
        other = server.attach(owner)
        _ = other.attached
        values = {"first": 1, "root": other.length} | fields
        other.draft(values.pop("first"), values.pop("root"), [1], **values)
        other.ends_with(Code.INVALID_ARGUMENT, f"an attached stream's Draft with {fields}", fence=True)
    owner.close()
    check(owner.finish().reason == pb.FINISH_REASON_CLOSED, "the owner's session was hurt")


@RULES.rule("Close")
def an_attached_stream_may_leave(server: Server) -> None:
    """Close of an attached stream ends it with OK and the session goes on; with a position it is INVALID_ARGUMENT."""
    owner = server.patient()
    for position, code in ((None, Code.OK), (AT, Code.INVALID_ARGUMENT)):
        helper = server.attach(owner)
        _ = helper.attached
        helper.close(position)
        helper.ends_with(code, f"Close of an attached stream, position {position}")
    owner.step_now()
    owner.read_tokens(1)


@RULES.rule("Attach")
def lost_drafters_leave_their_nodes(server: Server) -> None:
    """A lost attached stream ends nothing, and the nodes that it brought stay."""
    want = server.text()
    owner = server.patient()
    helper = server.attach(owner)
    _ = helper.attached
    helper.draft(1, AT, want[:2])
    owner.read_tokens(2)
    helper.cancel()
    while len(owner.tokens) < NEW:
        owner.step_now()
        owner.read_tokens(len(owner.tokens) + 1)
    check(owner.tokens == want, "another text than without drafts")


@RULES.rule("Limits.max_attached")
def attached_streams_are_limited(server: Server) -> None:
    """At most max_attached streams are attached to a session, else RESOURCE_EXHAUSTED; one that leaves makes room."""
    server.takes_attached()
    most = server.limits.max_attached
    if not 0 < most <= 64:
        raise SkippedError(f"max_attached is {most}")
    owner = server.patient()
    helpers = [server.attach(owner) for _ in range(most)]
    for helper in helpers:
        _ = helper.attached
    server.attach(owner).ends_with(Code.RESOURCE_EXHAUSTED, f"attached stream {most + 1}", fence=True)
    helpers[0].close()
    helpers[0].ends_with(Code.OK, "Close of an attached stream")
    _ = server.attach(owner).attached


@RULES.rule("Draft.seen")
def laggards_are_ended(server: Server) -> None:
    """An attached stream that falls more than run_ahead tokens behind the log ends with RESOURCE_EXHAUSTED, and the
    session goes on.
    """
    server.takes_attached()
    ahead = server.limits.run_ahead
    count = 2 * ahead + 8
    server.affords(count)
    want = server.text(count)
    owner = server.open(new=count)
    helper = server.attach(owner)
    _ = helper.attached
    for seen in range(ahead // 2, count, max(1, ahead // 2)):
        owner.read_tokens(seen)
        owner.draft(0, AT + seen)
    owner.finish()
    check(owner.tokens == want, "another text than without the laggard")
    helper.ends_with(Code.RESOURCE_EXHAUSTED, f"a log {count} tokens on, where nothing was seen")
