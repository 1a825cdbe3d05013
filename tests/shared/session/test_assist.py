"""AssistSession: it drafts for a session that is another's, and never has more to say than that."""

from __future__ import annotations

import pytest

from shared.errors import Status
from shared.messages import (
    Attach,
    Attached,
    Close,
    Commit,
    Draft,
    Drain,
    Finish,
    FinishReason,
    Limits,
    Opened,
)
from shared.policy.expansion import Candidate, chain
from shared.policy.pacing import Coalescing
from shared.policy.reconnect import Reconnect
from shared.policy.window import FixedWindow
from shared.sampling import SamplingParams
from shared.session.assist import AssistSession
from shared.session.edge import Connect, Done, EdgeEffect, EdgePolicies, Emit, Failed, Forward, SendUp
from tests.shared.session.builders import MILLISECOND, PROMPT, SECOND, model_info

START = len(PROMPT)
LIMITS = Limits(run_ahead=16)
SAMPLING = SamplingParams(0.7, seed=9)


def attached(*tokens: int, limits: Limits = LIMITS) -> Attached:
    return Attached((*PROMPT, *tokens), START, START + 20, SAMPLING, (50,), "model-a", limits)


def policies() -> EdgePolicies:
    return EdgePolicies(FixedWindow(8), Coalescing(), chain(), Reconnect(), 1000)


def assistant() -> AssistSession:
    return AssistSession("s1", "secret", model_info(), policies, Reconnect(patience=5.0))


def joined(*tokens: int) -> AssistSession:
    half = assistant()
    half.start(0)
    half.connected(1, 0)
    half.receive(1, attached(*tokens), MILLISECOND)
    return half


def kinds(effects: list[EdgeEffect]) -> list[type]:
    return [type(effect) for effect in effects]


def test_it_attaches_and_drafts_from_what_it_is_told():
    half = assistant()
    assert half.start(5) == [Connect(1, 5)]
    assert half.connected(1, 6) == [SendUp(1, Attach("s1", "secret", "model-a", "tokenizer-a"))]
    (forward,) = half.receive(1, attached(10, 11), MILLISECOND)
    assert isinstance(forward, Forward)
    assert (list(forward.log), forward.log_length, forward.paths) == ([*PROMPT, 10, 11], START + 2, ((),))
    assert half.sampling == SAMPLING
    sent, forward = half.drafted([[Candidate(12, 0.1)]], 2 * MILLISECOND)
    assert isinstance(sent, SendUp)
    assert sent == SendUp(1, Draft(1, START + 2, (12,), (0,), (2,), START + 2))
    assert isinstance(forward, Forward)


def test_it_shows_no_text_and_opens_no_stream():
    half = joined()
    effects = half.receive(1, Commit(START, (10, 11)), MILLISECOND)
    assert not {Emit, Connect} & set(kinds(effects))
    assert list(half.log) == [*PROMPT, 10, 11]
    assert half.receive(1, Drain("elsewhere"), MILLISECOND) == []


def test_it_reports_what_it_has_seen():
    half = joined()
    (report,) = half.receive(1, Commit(START, (10,)), MILLISECOND)
    assert isinstance(report, SendUp)
    assert isinstance(report.message, Draft)
    assert (report.message.seen, report.message.tokens) == (START + 1, ())


def test_the_time_to_the_answer_is_the_round_trip():
    made = policies()
    half = AssistSession("s1", "secret", model_info(), lambda: made, Reconnect())
    half.start(0)
    half.connected(1, 10 * MILLISECOND)
    half.receive(1, attached(), 50 * MILLISECOND)
    assert isinstance(made.pacing, Coalescing)
    assert made.pacing._round_trip == 40 * MILLISECOND


@pytest.mark.parametrize("reason", list(FinishReason))
def test_it_ends_with_the_session_for_whatever_reason_its_owner_has(reason: FinishReason):
    half = joined(10)
    assert half.receive(1, Finish(reason, START, 1), 0) == [Done(reason, 1)]
    assert half.over
    assert half.drafted([[Candidate(10, 0.1)]], 0) == []


def test_a_session_that_is_gone_is_over_and_one_that_was_never_found_is_an_error():
    assert joined().lost(1, Status.NOT_FOUND, "gone", SECOND) == [Done(FinishReason.CLOSED, 0)]
    half = assistant()
    half.start(0)
    half.connected(1, 0)
    assert half.lost(1, Status.NOT_FOUND, "no such session", 0) == [
        Failed(Status.NOT_FOUND, "no such session")
    ]


@pytest.mark.parametrize(
    "status", [Status.RESOURCE_EXHAUSTED, Status.INVALID_ARGUMENT, Status.PERMISSION_DENIED]
)
def test_what_does_not_pass_by_itself_is_not_tried_again(status: Status):
    half = joined()
    assert half.lost(1, status, "no", SECOND) == [Failed(status, "no")]
    assert half.over


def test_a_lost_stream_is_attached_again_and_told_the_log_anew():
    half = joined()
    (connect,) = half.lost(1, Status.UNAVAILABLE, "gone", SECOND)
    assert connect == Connect(2, SECOND + 50 * MILLISECOND)
    assert half.lost(1, Status.UNAVAILABLE, "gone", SECOND) == []
    assert half.receive(1, Commit(START, (10,)), SECOND) == [], "a message of the stream before is late"
    assert kinds(half.connected(2, SECOND)) == [SendUp]
    assert half.receive(2, attached(10, 11, 12), SECOND) == [], "the forward of the copy before is still out"
    (forward,) = half.drafted([[Candidate(10, 0.1)]], SECOND)
    assert isinstance(forward, Forward)
    assert forward.log_length == START + 3
    (sent, *_) = half.drafted([[Candidate(13, 0.1)]], SECOND)
    assert isinstance(sent, SendUp)
    assert (sent.stream, sent.message) == (2, Draft(1, START + 3, (13,), (0,), (2,), START + 3))
    assert half.counts.reconnects == 1


def test_it_gives_up_when_nothing_was_committed_for_long():
    half = joined()
    half.receive(1, Commit(START, (10,)), 3 * SECOND)
    assert kinds(half.lost(1, Status.UNAVAILABLE, "gone", 7 * SECOND)) == [Connect]
    assert half.lost(2, Status.UNAVAILABLE, "gone", 8 * SECOND) == [Failed(Status.UNAVAILABLE, "gone")]


def test_it_leaves_a_session_that_goes_on():
    half = joined()
    assert half.close(0, START) == [SendUp(1, Close()), Done(FinishReason.CLOSED, 0)]
    assert half.close(0) == []
    assert half.receive(1, Commit(START, (10,)), 0) == []
    assert half.drafted([[Candidate(10, 0.1)]], 0) == []


def test_it_leaves_before_it_was_attached():
    half = assistant()
    half.start(0)
    assert half.close(0) == [Done(FinishReason.CLOSED, 0)]
    assert half.connected(1, 0) == []


@pytest.mark.parametrize("message", [Commit(START, (10,)), Opened("s", "x", 0, "m", Limits())])
def test_a_server_that_breaks_the_contract_ends_it(message: Commit | Opened):
    half = assistant()
    half.start(0)
    half.connected(1, 0)
    (failed,) = half.receive(1, message, 0)
    assert isinstance(failed, Failed)
    assert failed.status is Status.INTERNAL
    (failed,) = joined().receive(1, Commit(START + 1, (10,)), 0)
    assert isinstance(failed, Failed)


def test_a_result_without_a_forward_is_a_bug():
    with pytest.raises(ValueError, match="no forward"):
        assistant().drafted([[]], 0)
