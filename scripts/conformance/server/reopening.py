"""Opening again with the log: the same text, at once, here or elsewhere, at any time."""

from __future__ import annotations

from typing import Any, Final

from scripts.conformance.rules import check
from scripts.conformance.server.opening import SAMPLED
from scripts.conformance.server.subject import AT, NEW, PROMPT, RULES, Server
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

CUTS: Final = (1, 7, NEW - 1)


@RULES.rule("README: Reconnecting with the log")
def a_log_goes_on_with_the_same_text(server: Server) -> None:
    """Opened with the log so far, a session writes what the first one would have written: greedy and sampled."""
    for sampling in (pb.Sampling(), SAMPLED):
        want = server.text(sampling=sampling)
        for cut in CUTS:
            stream = server.open(
                (*PROMPT, *want[:cut]),
                prompt_length=AT,
                max_length=AT + NEW,
                sampling=sampling,
                model_fingerprint=server.model.model_fingerprint,
            )
            stream.finish()
            check(stream.tokens == want[cut:], f"after {cut} tokens the text goes on differently")


@RULES.rule("README: Reconnecting with the log")
def a_stream_lost_at_any_point_goes_on(server: Server) -> None:
    """A stream that vanishes with drafts in flight and commits on their way loses nothing that the log has not."""
    want = server.text()
    log = list(PROMPT)
    while len(log) < AT + NEW:
        stream = server.open(log, prompt_length=AT, max_length=AT + NEW)
        at = len(log) - AT
        stream.draft(1, len(log), [*want[at : at + 2], server.wrong(want[min(at + 2, NEW - 1)])])
        stream.read_tokens(1)
        log += stream.tokens
        stream.cancel()
    check(log[AT:] == want, "the pieces are not the text of one session")


@RULES.rule("Open.max_length")
def max_length_is_absolute(server: Server) -> None:
    """max_length counts from the prompt's beginning: opening again does not extend it."""
    want = server.text()
    stream = server.open((*PROMPT, *want[:5]), prompt_length=AT, max_length=AT + 7)
    finish = stream.finish()
    check(stream.tokens == want[5:7], f"{len(stream.tokens)} more tokens, expected 2")
    check(finish.completion_tokens == 7, f"{finish.completion_tokens} completion tokens, expected 7")


@RULES.rule("Open.session_id")
def an_unknown_session_is_a_new_one(server: Server) -> None:
    """An Open that names a session that is not served here opens a new one with the log."""
    want = server.text()
    named: dict[str, Any] = dict.fromkeys(("session_id", "secret"), "nobody")
    stream = server.open((*PROMPT, *want[:3]), prompt_length=AT, new=NEW - 3, **named)
    opened = stream.opened
    check(opened.session_id != "nobody", "the unknown session's id was taken over")
    stream.finish()
    check(stream.tokens == want[3:], "the log goes on with another text")
