"""The first message: what it must keep, and what it may say."""

from __future__ import annotations

from typing import Any, Final

import grpc

from scripts.conformance.rules import SkippedError, check
from scripts.conformance.server.subject import AT, NEW, PROMPT, PROTOCOL, RULES, Server, refused
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

Code = grpc.StatusCode
NAN, INF = float("nan"), float("inf")
SAMPLED: Final = pb.Sampling(temperature=0.9, seed=7)
LONGEST_CONTEXT: Final = 1 << 17
"""Beyond this a log that fills it takes long to send, and to read."""


@RULES.rule("Opened")
def opened_comes_first_and_once(server: Server) -> None:
    """The first message down is Opened, and the only one: with an id, a secret, the seed in force, the model's
    fingerprint and limits.
    """
    stream = server.stream(server.opening(sampling=pb.Sampling(seed=11)))
    opened = stream.opened
    check(opened.session_id, "session_id is empty")
    check(opened.secret, "secret is empty")
    check(opened.seed == 11, f"seed is {opened.seed}, the Open's is 11")
    check(opened.model_fingerprint == server.model.model_fingerprint, "model_fingerprint is not GetModel's")
    check(opened.HasField("limits"), "limits are not set")
    stream.finish()
    check(sum(message.HasField("opened") for message in stream.received) == 1, "Opened came twice")


@RULES.rule("Opened.secret")
def ids_and_secrets_are_a_sessions_own(server: Server) -> None:
    """No two sessions have the same id or secret, and a secret is too long to guess."""
    opened = [server.resting().opened for _ in range(4)]
    for name in ("session_id", "secret"):
        check(len({getattr(one, name) for one in opened}) == len(opened), f"two sessions share a {name}")
    check(min(len(one.secret) for one in opened) >= 16, "a secret has less than 16 characters")


@RULES.rule("Open")
def open_comes_first(server: Server) -> None:
    """Anything but Open or Attach as the first message of a stream is INVALID_ARGUMENT."""
    draft = pb.Draft(first_node=1, root_position=AT, tokens=[1])
    cases = {
        "Draft first": pb.EdgeMessage(draft=draft),
        "Draft without tokens first": pb.EdgeMessage(draft=pb.Draft(root_position=AT)),
        "Close first": pb.EdgeMessage(close=pb.Close()),
    }
    refused(server, Code.INVALID_ARGUMENT, dict(cases))


@RULES.rule("Open")
def open_comes_once(server: Server) -> None:
    """An Open after a complete one is INVALID_ARGUMENT."""
    stream = server.resting()
    stream.send(server.opening())
    stream.ends_with(Code.INVALID_ARGUMENT, "a second Open", fence=True)


@RULES.rule("Open.protocol_version")
def protocol_version_is_spoken(server: Server) -> None:
    """A protocol version that the server does not speak, and 0, is FAILED_PRECONDITION."""
    cases = {f"version {one}": server.opening(protocol_version=one) for one in (0, PROTOCOL + 1, 2**32 - 1)}
    refused(server, Code.FAILED_PRECONDITION, dict(cases))


@RULES.rule("Open.tokens")
def log_is_of_tokens(server: Server) -> None:
    """An empty log, and a token beyond the vocabulary, is INVALID_ARGUMENT."""
    size = server.model.vocabulary_size
    cases = {
        "an empty log": server.opening((), prompt_length=0, new=8),
        "an empty log with a prompt": server.opening((), prompt_length=1, new=8),
        "the first token beyond": server.opening((1, size, 2)),
        "the greatest number": server.opening((1, 2, 2**32 - 1)),
    }
    refused(server, Code.INVALID_ARGUMENT, dict(cases))


@RULES.rule("Open.tokens")
def log_fits_the_context(server: Server) -> None:
    """A log of context_length tokens or more is OUT_OF_RANGE."""
    context = server.model.context_length
    if context > LONGEST_CONTEXT:
        raise SkippedError(f"would send a log of {context} tokens")
    parts = server.openings([1] * context, max_length=context + 8)
    refused(server, Code.OUT_OF_RANGE, {f"a log of {context} tokens": parts})


@RULES.rule("Open.prompt_length")
def prompt_is_within_the_log(server: Server) -> None:
    """A prompt_length of 0, or beyond the log, is INVALID_ARGUMENT."""
    cases = {f"prompt_length {one}": server.opening(prompt_length=one) for one in (0, AT + 1, 2**32 - 1)}
    refused(server, Code.INVALID_ARGUMENT, dict(cases))


@RULES.rule("Open.max_length")
def there_is_room_for_a_token(server: Server) -> None:
    """A max_length that is not above the log's length is INVALID_ARGUMENT."""
    cases = {f"max_length {one}": server.opening(max_length=one) for one in (0, AT - 1, AT)}
    refused(server, Code.INVALID_ARGUMENT, dict(cases))


@RULES.rule("Open.sampling")
def sampling_is_set(server: Server) -> None:
    """An Open without sampling is INVALID_ARGUMENT."""
    message = server.opening()
    message.open.ClearField("sampling")
    refused(server, Code.INVALID_ARGUMENT, {"no sampling": message})


@RULES.rule("Sampling")
def sampling_is_valid(server: Server) -> None:
    """A temperature below 0 or not finite, a top_p outside (0, 1], a min_p outside [0, 1] is INVALID_ARGUMENT."""
    broken = (
        *(pb.Sampling(temperature=value) for value in (-1.0, NAN, INF, -INF)),
        *(pb.Sampling(temperature=1.0, top_p=value) for value in (0.0, -0.5, 1.5, NAN)),
        *(pb.Sampling(temperature=1.0, min_p=value) for value in (-0.1, 1.1, NAN)),
    )
    cases = {f"sampling {str(one).strip()}": server.opening(sampling=one) for one in broken}
    refused(server, Code.INVALID_ARGUMENT, dict(cases))


@RULES.rule("Sampling.top_p")
def absent_filters_keep_everything(server: Server) -> None:
    """An absent top_p is 1 and a top_k of 0 keeps all: the text is the one with top_p 1."""
    filtered = pb.Sampling()
    filtered.CopyFrom(SAMPLED)
    filtered.top_p = 1.0
    check(server.text(sampling=SAMPLED) == server.text(sampling=filtered), "top_p 1 changes the text")


@RULES.rule("Sampling.temperature")
def greedy_knows_no_seed(server: Server) -> None:
    """At temperature 0 the seed changes nothing."""
    check(server.text() == server.text(sampling=pb.Sampling(seed=2**64 - 1)), "a seed changes a greedy text")


@RULES.rule("Sampling.seed")
def same_seed_same_text(server: Server) -> None:
    """Above temperature 0 the text is a function of the log and the seed: twice the same."""
    want = server.text(sampling=SAMPLED)
    again = server.open(sampling=SAMPLED)
    again.finish()
    check(again.tokens == want, "the same prompt and seed give another text")


@RULES.rule("Open.stop_tokens")
def stop_tokens_are_tokens(server: Server) -> None:
    """A stop token beyond the vocabulary is INVALID_ARGUMENT."""
    beyond = server.opening(stop_tokens=[0, server.model.vocabulary_size])
    refused(server, Code.INVALID_ARGUMENT, {"a stop token beyond the vocabulary": beyond})


@RULES.rule("Open.stop_tokens")
def nothing_is_added_to_the_stop_tokens(server: Server) -> None:
    """The model's own stop tokens close no log unless the edge names them."""
    if not server.model.stop_tokens:
        raise SkippedError("this model has no stop tokens")
    stream = server.open((*PROMPT, server.model.stop_tokens[0]), prompt_length=AT, new=2)
    finish = stream.finish()
    check(len(stream.tokens) == 2, f"a log that ends with one is closed ({finish})")


@RULES.rule("Open.model_fingerprint")
def model_is_the_servers_own(server: Server) -> None:
    """A model fingerprint that is neither empty nor the server's own is FAILED_PRECONDITION."""
    own = server.model.model_fingerprint
    others = {
        f"fingerprint {one!r}": server.opening(model_fingerprint=one) for one in (own + "0", own[:-1] or "x")
    }
    refused(server, Code.FAILED_PRECONDITION, dict(others))
    stream = server.open(model_fingerprint=own)
    stream.finish()
    check(stream.tokens == server.text(), "its own fingerprint changes the text")


@RULES.rule("Open.tokenizer_fingerprint")
def tokenizer_is_the_servers_own(server: Server) -> None:
    """A tokenizer fingerprint that is neither empty nor the server's own is FAILED_PRECONDITION."""
    own = server.model.tokenizer_fingerprint
    refused(server, Code.FAILED_PRECONDITION, {"another": server.opening(tokenizer_fingerprint=own + "0")})
    server.open(tokenizer_fingerprint=own).finish()


@RULES.rule("Open.patience_us")
def patience_is_within_the_limit(server: Server) -> None:
    """A patience_us or adaptive_patience_us above Limits.max_patience_us is INVALID_ARGUMENT; the limit
    itself is not.
    """
    most = server.limits.max_patience_us
    for name in ("patience_us", "adaptive_patience_us"):
        beyond: dict[str, Any] = {name: most + 1}
        refused(server, Code.INVALID_ARGUMENT, {f"{name} {most + 1}": server.opening(**beyond)})
        granted: dict[str, Any] = {name: most}
        server.open(**granted).close()


@RULES.rule("Open.want_logprobs")
def logprobs_come_where_they_are_wanted(server: Server) -> None:
    """Commits carry as many logprobs as tokens, each at most 0, if they are wanted, else none."""
    for wanted in (True, False):
        stream = server.open(want_logprobs=wanted)
        stream.finish()
        for commit in stream.commits:
            want = len(commit.tokens) if wanted else 0
            check(
                len(commit.logprobs) == want,
                f"{len(commit.logprobs)} logprobs for {len(commit.tokens)} tokens, want_logprobs {wanted}",
            )
            check(all(one <= 0.0 for one in commit.logprobs), f"a logprob above 0: {list(commit.logprobs)}")


@RULES.rule("Open.more")
def log_may_come_in_parts(server: Server) -> None:
    """A log in parts is the log; of a further part only tokens and more are used."""
    parts = [
        server.opening(PROMPT[:1], prompt_length=AT, max_length=AT + NEW, more=True),
        server.opening((), prompt_length=1, max_length=1, more=True, patience_us=2**40, stop_tokens=[2**31]),
        server.opening(
            PROMPT[1:], prompt_length=77, max_length=1, sampling=pb.Sampling(temperature=2.0, seed=3)
        ),
    ]
    stream = server.stream(*parts)
    stream.finish()
    check(stream.tokens == server.text(), "a log in parts gives another text")


@RULES.rule("Open.more")
def nothing_comes_between_the_parts(server: Server) -> None:
    """Until the last part has come any other message is INVALID_ARGUMENT, and each part is a complete Open."""
    first = server.opening(more=True)
    bare = server.opening()
    bare.open.ClearField("sampling")
    cases = {
        "a Draft between the parts": [first, pb.EdgeMessage(draft=pb.Draft(root_position=AT))],
        "a Close between the parts": [first, pb.EdgeMessage(close=pb.Close())],
        "a part without sampling": [first, bare],
    }
    refused(server, Code.INVALID_ARGUMENT, dict(cases))


@RULES.rule("Open.tokens")
def a_complete_log_is_finished_at_once(server: Server) -> None:
    """A log that ends, after the prompt, with a stop token is complete: Finish follows Opened. One
    at the end of the prompt closes nothing.
    """
    stop = PROMPT[-1]
    stream = server.open(PROMPT, prompt_length=AT - 1, stop_tokens=[stop])
    finish = stream.finish()
    check(not stream.tokens, "tokens were committed after a stop token")
    check(finish.reason == pb.FINISH_REASON_STOP, f"the reason is {finish.reason}, not STOP")
    going = server.open(PROMPT, stop_tokens=[stop], new=1)
    going.finish()
    check(len(going.tokens) == 1, "a stop token at the end of the prompt closes the log")
