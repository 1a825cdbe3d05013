"""CloudFront: the rules that hold before a session exists, and that one stream's fault is its own."""

from __future__ import annotations

import pytest

from shared.errors import ContractViolation, Status
from shared.messages import Close, Draft, Drain, EdgeMessage, Finish, FinishReason, Limits, Open, Opened
from shared.policy.batching import FlatBudget
from shared.pool import one_worker
from shared.session.cloud import EndStream, Send
from shared.session.front import CloudFront, Ticket
from shared.step import ItemOutcome, Step, StepOutcome
from tests.shared.session.builders import (
    PROMPT,
    VOCABULARY,
    commits,
    draft,
    facts_of,
    idle,
    model_info,
    opening,
    writes,
)

START = len(PROMPT)
TEXT = (10, 11, 12, 13)


def front(limits: Limits | None = None, context: int = 1000) -> CloudFront:
    return CloudFront(model_info(limits=limits, context=context), one_worker(FlatBudget()))


def outcome(step: Step) -> StepOutcome:
    items = [
        ItemOutcome(item.session, tuple(facts_of(item, writes(*TEXT))), item.length, 1) for item in step.items
    ]
    return StepOutcome(tuple(items), 10)


def opened(cloud: CloudFront, *streams: int) -> CloudFront:
    for stream in streams:
        assert cloud.connect(stream, Ticket(f"s{stream}", "secret")) == []
        (effect,) = cloud.receive(stream, opening(), 0)
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Opened)
        assert effect.message.session_id == f"s{stream}"
    return cloud


BROKEN: dict[str, tuple[EdgeMessage, Status, str]] = {
    "a second Open": (opening(), Status.INVALID_ARGUMENT, "a second Open: a stream carries one session"),
    "an id out of order": (draft(3, (10,)), Status.INVALID_ARGUMENT, "first_node 3, expected 1"),
    "a token beyond the vocabulary": (draft(1, (VOCABULARY,)), Status.INVALID_ARGUMENT, "token 100"),
    "seen beyond the log": (idle(START + 1), Status.INVALID_ARGUMENT, "seen 4"),
    "a close beyond the log": (Close(START + 1), Status.INVALID_ARGUMENT, "close position 4 is outside 3..3"),
    "too many nodes": (draft(1, (10,) * 257, offsets=(0,) * 257), Status.RESOURCE_EXHAUSTED, "257 nodes"),
}


@pytest.mark.parametrize(("message", "status", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_a_violation_ends_that_stream_and_its_session_and_no_other(
    message: EdgeMessage, status: Status, says: str
):
    cloud = opened(front(), 1, 2)
    cloud.receive(2, draft(1, (10,)), 0)
    step = cloud.next_step(0)
    assert step is not None
    (end,) = cloud.receive(1, message, 0)
    assert isinstance(end, EndStream)
    assert (end.stream, end.status) == (1, status)
    assert says in end.detail
    assert (cloud.streams, cloud.sessions) == (1, 1)
    # What was on its way to the ended stream is late, not wrong; the other one gets its tokens.
    assert cloud.receive(1, draft(1, (10,)), 0) == []
    effects = cloud.complete(outcome(step), 0)
    assert [effect.stream for effect in effects] == [2]
    assert commits(effects)[0].tokens == (10, 11)
    after = cloud.next_step(0)
    assert after is not None
    assert after.released == (1,)
    assert [item.session for item in after.items] == [2]


@pytest.mark.parametrize("message", [draft(1, (10,)), idle(START), Close()])
def test_nothing_comes_before_open(message: Draft | Close):
    cloud = front()
    cloud.connect(1, Ticket("s", "x"))
    (end,) = cloud.receive(1, message, 0)
    assert isinstance(end, EndStream)
    assert end.status is Status.INVALID_ARGUMENT
    assert end.detail.startswith(f"{type(message).__name__} before Open: the first message")
    assert (cloud.streams, cloud.sessions) == (0, 0)


def test_nothing_but_open_comes_between_its_parts():
    cloud = front()
    cloud.connect(1, Ticket("s", "x"))
    assert cloud.receive(1, opening((1,), more=True), 0) == []
    (end,) = cloud.receive(1, draft(1, (10,)), 0)
    assert isinstance(end, EndStream)
    assert end.status is Status.INVALID_ARGUMENT


def test_the_parts_of_an_open_are_one_log_and_the_first_names_the_rest():
    cloud = front()
    cloud.connect(1, Ticket("s", "x"))
    assert (
        cloud.receive(1, opening((1,), prompt_length=4, max_length=9, stop_tokens=(50,), more=True), 0) == []
    )
    assert cloud.receive(1, opening((2, 3), prompt_length=1, max_length=1, more=True), 0) == []
    assert len(cloud.receive(1, opening((4, 10), prompt_length=1, max_length=1), 0)) == 1
    session = cloud.session_of(1)
    assert session is not None
    assert session.log.tokens == [1, 2, 3, 4, 10]
    assert (session.log.prompt_length, session.log.max_length) == (4, 9)
    assert session.log.stop_tokens == {50}


def test_parts_without_end_are_cut_off_at_the_context():
    cloud = front(context=8)
    cloud.connect(1, Ticket("s", "x"))
    assert cloud.receive(1, opening((1,) * 7, more=True), 0) == []
    (end,) = cloud.receive(1, opening((1,), more=True), 0)
    assert isinstance(end, EndStream)
    assert end.status is Status.OUT_OF_RANGE
    assert (cloud.streams, cloud.sessions) == (0, 0)


def test_a_refused_open_leaves_nothing():
    cloud = front()
    cloud.connect(1, Ticket("s", "x"))
    (end,) = cloud.receive(1, opening(model_fingerprint="model-b"), 0)
    assert isinstance(end, EndStream)
    assert end.status is Status.FAILED_PRECONDITION
    assert (cloud.streams, cloud.sessions) == (0, 0)
    assert cloud.next_step(0) is None


def test_a_full_pool_refuses_and_takes_the_next_when_there_is_room():
    cloud = opened(front(Limits(max_sessions=2)), 1, 2)
    cloud.connect(3, Ticket("s", "x"))
    (end,) = cloud.receive(3, opening(), 0)
    assert isinstance(end, EndStream)
    assert end.status is Status.RESOURCE_EXHAUSTED
    assert "2 sessions are open and there is no room for more: try again" in end.detail
    assert end.retry_ms is not None
    cloud.receive(1, Close(), 0)
    opened(cloud, 4)
    assert cloud.sessions == 2


def test_a_draining_server_takes_no_streams_and_serves_those_it_has():
    cloud = opened(front(), 1, 2)
    assert cloud.drain() == [Send(1, Drain()), Send(2, Drain())]
    (end,) = cloud.connect(3, Ticket("s", "x"))
    assert isinstance(end, EndStream)
    assert (end.stream, end.status) == (3, Status.UNAVAILABLE)
    assert cloud.receive(3, opening(), 0) == []
    step = cloud.next_step(0)
    assert step is not None
    assert [effect.stream for effect in cloud.complete(outcome(step), 0)] == [1, 2]


def test_a_lost_stream_frees_its_session_at_once():
    cloud = opened(front(), 1, 2)
    step = cloud.next_step(0)
    assert step is not None
    cloud.lost(1, 0)
    cloud.lost(1, 0)
    assert (cloud.streams, cloud.sessions) == (1, 1)
    assert [effect.stream for effect in cloud.complete(outcome(step), 0)] == [2]
    after = cloud.next_step(0)
    assert after is not None
    assert after.released == (1,)


def test_a_lost_stream_that_never_opened_is_nothing():
    cloud = front()
    cloud.connect(1, Ticket("s", "x"))
    cloud.lost(1, 0)
    assert (cloud.streams, cloud.next_step(0)) == (0, None)


def test_a_closed_session_says_farewell_and_is_released():
    cloud = opened(front(), 1)
    step = cloud.next_step(0)
    assert step is not None
    cloud.complete(outcome(step), 0)
    assert cloud.receive(1, Close(), 0) == [
        Send(1, Finish(FinishReason.CLOSED, 3, 1)),
        EndStream(1, Status.OK),
    ]
    assert (cloud.streams, cloud.sessions) == (0, 0)
    step = cloud.next_step(0)
    assert step is not None
    assert (step.items, step.released) == ((), (1,))
    assert cloud.complete(outcome(step), 0) == []
    assert cloud.next_step(0) is None


def test_a_log_that_comes_back_complete_takes_no_place():
    cloud = front()
    cloud.connect(1, Ticket("s", "x"))
    effects = cloud.receive(1, opening((*PROMPT, 50), prompt_length=START, stop_tokens=(50,)), 0)
    assert [type(effect) for effect in effects] == [Send, Send, EndStream]
    assert (cloud.streams, cloud.sessions) == (0, 0)


def test_a_lost_step_is_asked_for_again():
    cloud = opened(front(), 1, 2)
    step = cloud.next_step(0)
    assert step is not None
    opened(cloud, 3)
    assert cloud.failed() == []
    assert _asked(cloud) == [1, 2, 3]


def test_a_session_that_breaks_the_worker_is_found_and_ends_alone():
    cloud = opened(front(), 1, 2, 3, 4)
    assert _asked(cloud) == [1, 2, 3, 4]
    opened(cloud, 5)
    assert cloud.broken("the worker is broken") == []
    assert _asked(cloud) == [1, 2]  # in halves; nobody has lost anything
    assert cloud.broken("the worker is broken") == []
    assert _asked(cloud) == [1]
    assert cloud.broken("the worker is broken") == [EndStream(1, Status.INTERNAL, "the worker is broken")]
    assert [_asked(cloud, done=True) for _ in range(3)] == [[2], [3, 4], [2, 3, 4, 5]]
    assert cloud.sessions == 4


def test_who_is_not_due_when_its_turn_comes_is_not_waited_for():
    cloud = opened(front(), 1, 2)
    assert _asked(cloud) == [1, 2]
    cloud.broken("x")
    cloud.lost(1, 0)
    cloud.lost(2, 0)
    opened(cloud, 3)
    assert _asked(cloud) == [3]


def _asked(cloud: CloudFront, *, done: bool = False) -> list[int]:
    """The sessions of the next step."""
    step = cloud.next_step(0)
    assert step is not None
    if done:
        items = [ItemOutcome(i.session, tuple(facts_of(i, lambda _: 9)), i.length, 1) for i in step.items]
        cloud.complete(StepOutcome(tuple(items), 10), 0)
    return [item.session for item in step.items]


def test_a_violation_that_the_codec_found_ends_the_stream_the_same_way():
    cloud = opened(front(), 1)
    violation = ContractViolation(Status.INVALID_ARGUMENT, "not a message")
    assert cloud.violated(1, violation) == [EndStream(1, Status.INVALID_ARGUMENT, "not a message")]
    assert cloud.violated(1, violation) == []
    assert cloud.sessions == 0


def test_opens_of_a_vocabulary_are_judged_over_all_parts():
    cloud = front()
    cloud.connect(1, Ticket("s", "x"))
    parts: list[Open] = [opening((1, 2), more=True), opening((VOCABULARY,))]
    assert cloud.receive(1, parts[0], 0) == []
    (end,) = cloud.receive(1, parts[1], 0)
    assert isinstance(end, EndStream)
    assert end.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("lengths", [(400, 400), (400, 600, 400), (20, 900, 700)])
def test_a_session_that_breaks_the_worker_is_found_though_prompts_are_prefilled_in_chunks(lengths):
    """A worker that broke holds nothing: everybody's prompt comes before the trial."""
    cloud = front(Limits(run_ahead=1 << 20), context=4000)
    for stream, length in enumerate(lengths, start=1):
        cloud.connect(stream, Ticket(f"s{stream}", "x"))
        cloud.receive(stream, opening(tuple(1 + index % 9 for index in range(length)), room=500), 0)
    ended: list[object] = []
    while not ended and (step := cloud.next_step(0)) is not None:
        if any(item.session == 2 and not item.prefill_only for item in step.items):
            ended += cloud.broken("the worker is broken")
            continue
        items = [ItemOutcome(i.session, tuple(facts_of(i, lambda _: 9)), i.length, 1) for i in step.items]
        cloud.complete(StepOutcome(tuple(items), 10), 0)
    assert ended == [EndStream(2, Status.INTERNAL, "the worker is broken")]
    assert cloud.sessions == len(lengths) - 1


def test_sessions_that_are_too_much_only_together_all_get_on():
    cloud = opened(front(Limits(run_ahead=1 << 20)), 1, 2, 3, 4)
    written = dict.fromkeys((1, 2, 3, 4), 0)
    while (step := cloud.next_step(0)) is not None:
        if len(step.items) > 2:  # memory for two
            assert cloud.broken("out of memory") == []
            continue
        for item in step.items:
            written[item.session] += 1
        items = [ItemOutcome(i.session, tuple(facts_of(i, lambda _: 9)), i.length, 1) for i in step.items]
        cloud.complete(StepOutcome(tuple(items), 10), 0)
    assert cloud.sessions == 0  # all of them came to their end
    assert len(set(written.values())) == 1
