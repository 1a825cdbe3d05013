"""What comes down: the order of messages, the log, the counts, and why it ends."""

from __future__ import annotations

import grpc

from scripts.conformance.rules import SkippedError, check
from scripts.conformance.server.client import Stream
from scripts.conformance.server.opening import LONGEST_CONTEXT
from scripts.conformance.server.subject import AT, NEW, PROMPT, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb


@RULES.rule("Decode")
def messages_come_in_their_order(server: Server) -> None:
    """Opened first, then commits, Finish last and once, after which the stream ends with OK. Every message has a
    kind.
    """
    stream = _drafted(server)
    kinds = [message.WhichOneof("kind") for message in stream.received]
    check(None not in kinds, "a message without a kind")
    between = [kind for kind in kinds[1:-1] if kind not in ("commit", "drain")]
    check(kinds[0] == "opened" and kinds[-1] == "finish" and not between, f"the order is {kinds}")


@RULES.rule("Commit.position")
def commits_leave_no_gap(server: Server) -> None:
    """Each commit begins where the one before it ended, the first at the end of the opened log, and has a token."""
    for stream, at in ((_drafted(server), AT), (_log_goes_on(server), AT + 2)):
        end = at
        for commit in stream.commits:
            check(commit.position == end, f"a commit at {commit.position}, the log ends at {end}")
            check(commit.tokens, f"the commit at {end} has no token")
            end += len(commit.tokens)
        check(end == AT + NEW, f"the log ends at {end}, not at {AT + NEW}")


@RULES.rule("Commit.tokens")
def committed_tokens_are_tokens(server: Server) -> None:
    """Committed tokens are below the vocabulary's size."""
    beyond = [token for token in server.text() if token >= server.model.vocabulary_size]
    check(not beyond, f"tokens {beyond} are beyond the vocabulary of {server.model.vocabulary_size}")


@RULES.rule("Commit.received")
def counts_are_of_what_happened(server: Server) -> None:
    """Counts are deltas of this stream's own drafts: received is what was sent, accepted is at most judged, judged at
    most the tokens; a session without drafts has none, and took steps of its own.
    """
    want = server.text()
    stream = server.patient()
    stream.draft(
        1, AT, [server.wrong(want[0]), want[0], want[1], server.wrong(want[2])], parent_offsets=[0, 0, 1, 1]
    )
    stream.read_tokens(3)
    for commit in stream.commits:
        counts = f"judged {commit.judged}, accepted {commit.accepted}, {len(commit.tokens)} tokens"
        check(commit.accepted <= commit.judged <= len(commit.tokens), counts)
    received = stream.total("received")
    check(received == 4, f"{received} received, 4 were sent")
    check(stream.total("stale") == 0, "stale nodes, though none was")
    judged, accepted = stream.total("judged"), stream.total("accepted")
    check(
        (judged, accepted) == (3, 2),
        f"judged {judged}, accepted {accepted}; of 3 tokens with drafts 2 were right",
    )
    check(stream.total("steps") > 0, "no steps")
    check(stream.total("facts") >= 3, f"{stream.total('facts')} facts for 3 tokens")
    plain = server.open()
    plain.finish()
    for name in ("judged", "accepted", "received", "stale"):
        check(plain.total(name) == 0, f"{name} {plain.total(name)} in a session without drafts")
    check(plain.total("self_decoded") > 0, "a session without drafts took no step without a draft")


@RULES.rule("Finish")
def finish_counts_the_log(server: Server) -> None:
    """Finish names the prompt's tokens and the completion's, those committed before this stream was opened included."""
    for stream, what in (
        (_drafted(server), "a session"),
        (_log_goes_on(server), "a log that was opened again"),
    ):
        finish = stream.finish()
        counts = finish.prompt_tokens, finish.completion_tokens
        check(counts == (AT, NEW), f"{what}: prompt and completion are {counts}, expected {(AT, NEW)}")


@RULES.rule("FinishReason")
def length_closes_the_log(server: Server) -> None:
    """The log ends with exactly max_length tokens and LENGTH."""
    for new in (1, 2, NEW):
        stream = server.open(new=new)
        finish = stream.finish()
        check(len(stream.tokens) == new, f"{len(stream.tokens)} tokens, max_length leaves room for {new}")
        check(finish.reason == pb.FINISH_REASON_LENGTH, f"the reason is {_name(finish)}, not LENGTH")


@RULES.rule("FinishReason")
def a_stop_token_closes_the_log(server: Server) -> None:
    """A committed stop token is the last token, and the reason is STOP, also where it is the last there is room for;
    drafts beyond it change nothing.
    """
    want = server.text()
    at = max(index for index in range(NEW // 2) if want[index] not in want[:index])
    stop = want[at]
    for room, drafted in ((NEW, False), (at + 1, False), (NEW, True)):
        stream = (
            server.resting(new=room, stop_tokens=[stop])
            if drafted
            else server.open(new=room, stop_tokens=[stop])
        )
        if drafted:
            stream.draft(1, AT, want[: at + 3])
        finish = stream.finish()
        check(stream.tokens == want[: at + 1], f"the log does not end with the first stop token ({drafted=})")
        check(finish.reason == pb.FINISH_REASON_STOP, f"the reason is {_name(finish)}, not STOP ({room=})")
        check(
            finish.completion_tokens == at + 1, f"{finish.completion_tokens} completion tokens, not {at + 1}"
        )


@RULES.rule("FinishReason")
def the_context_closes_the_log(server: Server) -> None:
    """A max_length beyond the context is allowed: the log ends with context_length tokens and CONTEXT; where both ends
    meet, LENGTH.
    """
    context = server.model.context_length
    if context > LONGEST_CONTEXT:
        raise SkippedError(f"would send a log of {context - 2} tokens")
    log = [PROMPT[0]] * (context - 2)
    for beyond, reason in ((10, pb.FINISH_REASON_CONTEXT), (0, pb.FINISH_REASON_LENGTH)):
        stream = server.stream(*server.openings(log, max_length=context + beyond))
        finish = stream.finish()
        check(len(stream.tokens) == 2, f"{len(stream.tokens)} tokens, the context has room for 2")
        want = pb.FinishReason.Name(reason)
        check(
            finish.reason == reason,
            f"max_length {context + beyond}: the reason is {_name(finish)}, not {want}",
        )


@RULES.rule("Commit")
def a_plain_client_is_served(server: Server) -> None:
    """A client that never drafts has a streaming client: all tokens, then Finish, then OK."""
    stream = server.open()
    ended = stream.end()
    check(ended.code is grpc.StatusCode.OK, f"it ended with {ended}")
    check(stream.tokens == server.text(), "another text than a session before")


def _drafted(server: Server) -> Stream:
    """A whole session with drafts: two right, then a wrong one."""
    want = server.text()
    stream = server.open()
    stream.draft(1, AT, [*want[:2], server.wrong(want[2])])
    stream.finish()
    return stream


def _log_goes_on(server: Server) -> Stream:
    """A whole session whose log comes with two committed tokens."""
    stream = server.open((*PROMPT, *server.text()[:2]), prompt_length=AT, new=NEW - 2)
    stream.finish()
    return stream


def _name(finish: pb.Finish) -> str:
    return pb.FinishReason.Name(finish.reason)
