"""The rules for edges. `Recordings` plays each script once."""

from __future__ import annotations

from typing import Final

from scripts.conformance.edge.scripts import BROKEN_CLOUDS, PUSHBACK_MS
from scripts.conformance.edge.subject import RULES, Recording, Recordings
from scripts.conformance.rules import SkippedError, check
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

SERVED: Final = ("agreeing", "contradicting", "narrow", "lost", "lost-before-opened", "moved")
"""Scripts that end with Finish."""
SLACK_S: Final = 0.02
"""Two clocks of one machine, and a thread that runs a little later."""


# ---- opening ----


@RULES.rule("GetModel")
def the_model_is_asked_for_first(edge: Recordings) -> None:
    """An edge asks what the server serves before its first Open."""
    for recording in edge:
        began = [talk.began for talk in recording.talks]
        check(recording.asked_at, f"in the script {recording.script} GetModel was never called")
        check(not began or min(recording.asked_at) <= min(began), "a stream began before GetModel was called")


@RULES.rule("Open")
def open_comes_first(edge: Recordings) -> None:
    """The first message of a stream is Open, in as many parts as it needs, and then no other."""
    edge.without("open-comes-first")


@RULES.rule("Open")
def opens_are_complete(edge: Recordings) -> None:
    """Every Open, each part of one included, has sampling and protocol_version 1; a first one has a log that is all
    prompt, of tokens, with room behind it, and names no session.
    """
    edge.without("opens-are-complete")
    for recording in edge:
        for opening in recording.opens[:1]:
            length = len(opening.tokens)
            model = recording.talks[0].cloud.model
            check(length > 0, "the first log is empty")
            check(
                opening.prompt_length == length, f"the prompt is {opening.prompt_length} of {length} tokens"
            )
            check(
                opening.max_length > length, f"max_length {opening.max_length} leaves no room after {length}"
            )
            check(not opening.session_id, "the first Open names a session")
            beyond = [
                token for token in (*opening.tokens, *opening.stop_tokens) if token >= model.vocabulary_size
            ]
            check(not beyond, f"tokens {beyond} are beyond the vocabulary of {model.vocabulary_size}")
            for name in ("model_fingerprint", "tokenizer_fingerprint"):
                said, own = getattr(opening, name), getattr(model, name)
                check(said in ("", own), f"{name} is {said!r}, the server's is {own!r}")


@RULES.rule("Sampling")
def sampling_is_valid(edge: Recordings) -> None:
    """Every Open's sampling lies in its ranges."""
    for recording in edge:
        for opening in recording.opens:
            one = opening.sampling
            top_p = one.top_p if one.HasField("top_p") else 1.0
            valid = 0.0 <= one.temperature < float("inf") and 0.0 < top_p <= 1.0 and 0.0 <= one.min_p <= 1.0
            check(valid, f"sampling {str(one).strip()}")


@RULES.rule("Open.patience_us")
def patience_is_within_the_limit(edge: Recordings) -> None:
    """No Open asks for more than Limits.max_patience_us."""
    for recording in edge:
        for talk in recording.talks:
            most = talk.cloud.limits.max_patience_us
            if talk.open is not None:
                for name in ("patience_us", "adaptive_patience_us"):
                    asked = getattr(talk.open, name)
                    check(
                        asked <= most, f"in the script {recording.script} {name} is {asked}, at most {most}"
                    )


@RULES.rule("Limits.max_message_bytes")
def the_message_size_is_kept(edge: Recordings) -> None:
    """No message is larger than max_message_bytes; a log that does not fit comes in parts."""
    edge.without("the-message-size-is-kept")


# ---- drafts ----


@RULES.rule("Draft.first_node")
def ids_are_dense(edge: Recordings) -> None:
    """Ids are dense from 1 on every stream; a message without tokens uses none."""
    _drafts(edge)
    edge.without("ids-are-dense")


@RULES.rule("Draft.root_position")
def root_position_is_kept(edge: Recordings) -> None:
    """root_position is at least the prompt's length, never decreases and never exceeds what was sent."""
    _drafts(edge)
    edge.without("root-position-is-kept")


@RULES.rule("Draft.seen")
def seen_is_kept(edge: Recordings) -> None:
    """Seen never decreases and never exceeds what was sent; where it is absent, root_position is held to that."""
    edge.without("seen-is-kept")


@RULES.rule("Draft.seen")
def seen_is_reported(edge: Recordings) -> None:
    """An edge reports what it has seen before the cloud has run ahead of it as far as it may."""
    edge.without("seen-is-reported")
    _ = edge["narrow"].went


@RULES.rule("Draft.parent_offsets")
def parents_are_known(edge: Recordings) -> None:
    """No offset reaches below id 1."""
    _drafts(edge)
    edge.without("parents-are-known")


@RULES.rule("Draft.parent_offsets")
def arrays_belong_together(edge: Recordings) -> None:
    """There are as many parent_offsets, and costs, as tokens, or none."""
    _drafts(edge)
    edge.without("arrays-belong-together")


@RULES.rule("Draft.tokens")
def drafted_tokens_are_tokens(edge: Recordings) -> None:
    """Drafted tokens are below the vocabulary's size."""
    _drafts(edge)
    edge.without("drafted-tokens-are-tokens")


@RULES.rule("Limits.max_nodes_per_message")
def nodes_in_a_message_are_kept(edge: Recordings) -> None:
    """No Draft has more than max_nodes_per_message tokens."""
    _drafts(edge)
    edge.without("nodes-in-a-message-are-kept")


@RULES.rule("Limits.max_live_nodes")
def live_nodes_are_kept(edge: Recordings) -> None:
    """Never do more than max_live_nodes ids stand for live nodes, or for tokens at or past root_position."""
    _drafts(edge)
    edge.without("live-nodes-are-kept")


@RULES.rule("Limits.max_depth")
def depth_is_kept(edge: Recordings) -> None:
    """No node hangs deeper than max_depth below the end of the log."""
    _drafts(edge)
    edge.without("depth-is-kept")


@RULES.rule("Limits.max_messages_per_second")
def the_message_rate_is_kept(edge: Recordings) -> None:
    """No stream has more than max_messages_per_second messages a second."""
    edge.without("the-message-rate-is-kept")


# ---- what comes down ----


@RULES.rule("Finish")
def finish_ends_the_generation(edge: Recordings) -> None:
    """After Finish the edge is done: it ends well, and begins no other stream."""
    recording = edge["agreeing"].went
    check(len(recording.talks) == 1, f"{len(recording.talks)} streams for a session that nothing happened to")


@RULES.rule("README: Dead is silent")
def dead_drafts_are_no_matter(edge: Recordings) -> None:
    """An edge whose drafts all die is told nothing of it, and comes to its end."""
    check(len(edge["contradicting"].went.talks) == 1, "it began another stream")


@RULES.rule("README: Versions")
def unknown_fields_are_ignored(edge: Recordings) -> None:
    """Fields of no version, in every message down, change nothing."""
    _ = edge["agreeing"].went


@RULES.rule("Limits")
def next_to_nothing_is_enough(edge: Recordings) -> None:
    """An edge comes to its end within the narrowest limits."""
    check(len(edge["narrow"].went.talks) == 1, "it began another stream")


def _ends_as_broken(name: str) -> None:
    what = BROKEN_CLOUDS[name]

    def exchange(edge: Recordings) -> None:
        _given_up(edge[name], what)

    exchange.__name__ = f"{name.replace('-', '_')}_ends_the_session"
    exchange.__doc__ = (
        f"{what.capitalize()} ends the session as broken: nothing is guessed, and nothing opened again."
    )
    RULES.rule("README: Status codes")(exchange)


for _name in BROKEN_CLOUDS:
    _ends_as_broken(_name)


# ---- streams ----


@RULES.rule("README: Reconnecting with the log")
def a_lost_stream_is_opened_again_with_the_log(edge: Recordings) -> None:
    """The new Open has the same prompt, max_length, sampling and stop tokens, and the log: a prefix of the cloud's, no
    shorter than what was reported as seen.
    """
    for name in ("lost", "lost-before-opened", "moved"):
        recording = edge[name]
        if not recording.opens:
            _ = recording.went
        first = recording.opens[0]
        seen = len(first.tokens)
        for talk in recording.talks[1:]:
            again = talk.open or pb.Open()
            for what in ("prompt_length", "max_length", "sampling", "stop_tokens"):
                check(
                    getattr(again, what) == getattr(first, what), f"in the script {name} {what} has changed"
                )
            length = len(again.tokens)
            check(
                tuple(again.tokens) == recording.log[:length],
                f"in the script {name} the log is not the cloud's",
            )
            before = recording.talks[recording.talks.index(talk) - 1].tracker
            seen = max(seen, before.seen if before is not None and name != "moved" else seen)
            check(
                length >= seen,
                f"in the script {name} the log has {length} tokens, {seen} were reported as seen",
            )
        _ = recording.went


@RULES.rule("Open.model_fingerprint")
def opening_again_names_the_model(edge: Recordings) -> None:
    """An Open with tokens of a session names the model that has decided them."""
    for name in ("lost", "moved"):
        recording = edge[name].went
        for talk in recording.talks[1:]:
            said = "" if talk.open is None else talk.open.model_fingerprint
            want = talk.cloud.model.model_fingerprint
            check(said == want, f"in the script {name} it names the model {said!r}, not {want!r}")


@RULES.rule("Open.session_id")
def opening_again_names_the_session(edge: Recordings) -> None:
    """An edge names the session that it lost, with its secret, so that a server that still has it goes on with it."""
    recording = edge["lost"].went
    for opening in recording.opens[1:]:
        said = opening.session_id, opening.secret
        check(
            said == ("session-a", recording.secrets[0]),
            f"session_id is {opening.session_id!r}, or not its secret",
        )


@RULES.rule("Opened.secret")
def secrets_stay_with_their_server(edge: Recordings) -> None:
    """Another server is not told the session's secret."""
    recording = edge["moved"].went
    for opening in recording.opens[1:]:
        check(opening.secret != recording.secrets[0], "the second server is told the first one's secret")


@RULES.rule("Drain")
def drain_is_obeyed(edge: Recordings) -> None:
    """Drain with a target: the edge opens there with its log, then closes the stream that it leaves."""
    recording = edge["moved"].went
    names = [talk.cloud.name for talk in recording.talks]
    check(names == ["a", "b"], f"streams went to {names}")
    check(recording.talks[0].closed is not None, "the stream that was left was not closed")


@RULES.rule("Drain")
def drain_without_a_target_loses_nothing(edge: Recordings) -> None:
    """Drain without a target, and then the end of the stream, loses nothing: the edge opens again with its log."""
    _ = edge["lost"].went


@RULES.rule("README: Status codes")
def a_time_to_wait_is_waited(edge: Recordings) -> None:
    """Refused with grpc-retry-pushback-ms, an edge does not come again before that time is over."""
    talks = edge["lost"].went.talks
    if len(talks) < 3:
        raise SkippedError("the edge gave up at the refusal, which it may")
    waited = talks[2].began - (talks[1].ended_at or 0.0)
    least = PUSHBACK_MS / 1000 - SLACK_S
    check(waited >= least, f"it came again after {waited:.3f} s, asked for {PUSHBACK_MS} ms")


@RULES.rule("README: Status codes")
def a_violation_is_not_tried_again(edge: Recordings) -> None:
    """INVALID_ARGUMENT ends the generation, before Opened and after it: the same message would be refused again."""
    _given_up(edge["refused"], "an Open that is refused with INVALID_ARGUMENT")
    _given_up(edge["refused-later"], "a stream that ends with INVALID_ARGUMENT")


@RULES.rule("Close")
def close_is_sent_when_the_user_has_had_enough(edge: Recordings) -> None:
    """An edge that is interrupted says Close, within its completion, and ends."""
    recording = edge["interrupted"].went
    talk = recording.talks[0]
    check(len(recording.talks) == 1, "it began another stream")
    check(talk.closed is not None, "no Close came")
    if talk.closed is not None and talk.closed.HasField("position"):
        position, first = talk.closed.position, recording.opens[0].prompt_length
        check(
            first <= position <= len(recording.log),
            f"Close at {position}, the completion is {first} to its end",
        )


@RULES.rule("Close")
def close_is_the_last_message(edge: Recordings) -> None:
    """Nothing is sent after Close."""
    edge.without("close-is-the-last-message")


def _given_up(recording: Recording, after: str) -> None:
    recording = recording.went
    check(len(recording.talks) == 1, f"after {after} it began {len(recording.talks) - 1} more streams")
    check(recording.exit_code != 0, f"after {after} it ends as if all were well")


def _drafts(edge: Recordings) -> None:
    if not any(talk.tracker is not None and talk.tracker.nodes for _, talk in edge.talks()):
        raise SkippedError("this edge drafts nothing")
