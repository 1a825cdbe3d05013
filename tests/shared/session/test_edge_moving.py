"""EdgeSession with several servers: moving on when one goes away, and what follows a refusal."""

from __future__ import annotations

import pytest

from shared.errors import Status
from shared.messages import (
    Close,
    CloudMessage,
    Commit,
    Drain,
    Finish,
    FinishReason,
    Limits,
    Open,
    Opened,
)
from shared.policy.expansion import BestFirst
from shared.policy.reconnect import Reconnect
from shared.session.edge import Connect, Done, EdgeEffect, Emit, Failed, Leave, SendUp
from tests.shared.session.builders import PROMPT, SECOND
from tests.shared.session.edge_bench import START, Bench, sent, triple

REFUSALS = [
    Status.RESOURCE_EXHAUSTED,
    Status.FAILED_PRECONDITION,
    Status.UNAUTHENTICATED,
    Status.PERMISSION_DENIED,
    Status.UNIMPLEMENTED,
]
OPENED = Opened("s2", "x", 0, "model-a", Limits())


class Moving(Bench):
    """With several servers; speaks on any stream."""

    def __init__(self, **more: object) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.policies.moves = True

    def say(self, stream: int, message: CloudMessage, now: int = 0) -> list[EdgeEffect]:
        return self.apply(self.session.receive(stream, message, now))

    def gone(
        self,
        stream: int,
        status: Status = Status.UNAVAILABLE,
        now: int = 0,
        retry_at: int | None = None,
    ) -> list[EdgeEffect]:
        return self.apply(self.session.lost(stream, status, "gone", now, retry_at))

    def commit_on(self, stream: int, *tokens: int) -> list[EdgeEffect]:
        return self.say(stream, Commit(len(self.session.log), tokens))


def messages(effects: list[EdgeEffect], stream: int) -> list[object]:
    return [one.message for one in effects if isinstance(one, SendUp) and one.stream == stream]


def moving(drafts: int = 3, **more: object) -> Moving:
    """Drafts 10, 11, 12 are in flight on stream 1, which drains; stream 2 has been made."""
    bench = Moving(**more)
    bench.open()
    bench.chain(*(10, 11, 12)[:drafts])
    assert bench.receive(Drain()) == [Connect(2, 0, elsewhere=True)]
    bench.connected()
    return bench


# ---- a server goes away ----


def test_a_session_opens_elsewhere_with_its_log_and_its_drafts_before_it_leaves():
    bench = Moving(window=6, expansion=BestFirst(branches=2, width=2)).open()
    bench.drafted((10, 20))
    bench.drafted((11, 12), (21, 22))
    bench.commit(10)
    assert bench.receive(Drain()) == [Connect(2, 0, elsewhere=True)]
    news = bench.connected()
    opening, *drafts = messages(news, 2)
    assert isinstance(opening, Open)
    assert (opening.tokens, opening.prompt_length, opening.max_length) == ((*PROMPT, 10), START, START + 20)
    assert [triple(one) for one in sent(news)] == [(1, START + 1, (11, 12), (0, 0))]
    assert len(drafts) == 1
    assert bench.say(2, OPENED)[:2] == [SendUp(1, Close()), Leave(1)]
    assert bench.commit_on(2, 11)[0] == Emit(START + 1, (11,))
    assert (bench.session.counts.moves, bench.session.counts.reconnects) == (1, 0)


def test_until_the_new_stream_is_made_the_old_one_commits():
    bench = Moving().open()
    bench.receive(Drain())
    assert bench.commit_on(1, 10)[0] == Emit(START, (10,))
    opening = messages(bench.connected(), 2)[0]
    assert isinstance(opening, Open)
    assert opening.tokens == (*PROMPT, 10)


def test_what_the_old_server_says_meanwhile_is_decided_again_by_the_new_one():
    bench = moving()
    assert bench.commit_on(1, 10) == []
    bench.say(2, OPENED)
    assert len(bench.session.log) == START, "nothing twice"
    assert bench.commit_on(1, 10) == [], "and nothing late"
    assert bench.commit_on(2, 10, 11)[0] == Emit(START, (10, 11))
    assert bench.session.in_flight == 1


def test_a_server_that_names_no_other_is_kept_where_there_is_no_other():
    bench = Bench().open()
    assert bench.receive(Drain()) == []
    assert bench.receive(Drain("cloud-2:1")) == [Connect(2, 0, elsewhere=True, target="cloud-2:1")]


def test_a_second_drain_is_no_second_move():
    bench = Moving().open()
    assert len(bench.receive(Drain())) == 1
    assert bench.receive(Drain()) == []
    bench.connected()
    assert bench.say(1, Drain()) == []
    bench.say(2, OPENED)
    assert bench.say(2, Drain()) == [Connect(3, 0, elsewhere=True)], "the new one may go away too"


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize(
    "status", [Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.FAILED_PRECONDITION]
)
def test_when_no_other_server_takes_it_it_stays_and_what_was_held_is_applied(made: bool, status: Status):
    bench = Moving().open()
    bench.chain(10, 11)
    bench.receive(Drain())
    if made:
        bench.connected()
        bench.commit_on(1, 10)
    news = bench.gone(2, status)
    assert (Emit(START, (10,)) in news) == made
    assert not any(isinstance(one, Connect | Failed) for one in news)
    if not made:
        bench.commit_on(1, 10)
    assert bench.commit_on(1, 11)[0] == Emit(START + 1, (11,))
    drafts = sent(bench.drafted(12))
    assert [triple(one) for one in drafts] == [(3, START + 2, (12,), (0,))], "ids go on where they were"
    assert bench.session.counts.moves == 0


def test_back_at_the_old_server_nothing_is_sent_twice_and_nothing_is_forgotten():
    bench = moving(window=8)
    (draft,) = sent(bench.drafted(13))  # goes to the new server
    assert draft.tokens == (13,)
    news = bench.gone(2)
    assert [triple(one) for one in sent(news)] == [(4, START, (13,), (1,))]
    assert bench.session.in_flight == 4


def test_a_third_server_is_tried_if_one_is_ready():
    bench = moving()
    bench.commit_on(1, 10)
    news = bench.gone(2, Status.RESOURCE_EXHAUSTED, retry_at=0)
    assert news[0] == Emit(START, (10,))
    assert news[-1] == Connect(3, 0, elsewhere=True)
    bench.connected()
    assert bench.say(3, OPENED)[:2] == [SendUp(1, Close()), Leave(1)]
    assert Connect(5, 0, elsewhere=True) not in bench.effects


def test_one_that_has_room_later_is_not_waited_for():
    assert not any(isinstance(one, Connect) for one in moving().gone(2, retry_at=5 * SECOND))


def test_the_old_server_may_die_meanwhile():
    bench = moving()
    bench.commit_on(1, 10)
    assert bench.gone(1) == []
    bench.say(2, OPENED)
    assert bench.commit_on(2, 10)[0] == Emit(START, (10,))
    assert Leave(1) not in bench.effects
    assert bench.session.counts.reconnects == 0


def test_the_old_server_may_die_before_the_new_stream_is_made():
    bench = Moving().open()
    bench.receive(Drain())
    assert not any(isinstance(one, Connect) for one in bench.gone(1, retry_at=0)), "one is on its way"
    opening = messages(bench.connected(), 2)[0]
    assert isinstance(opening, Open)
    bench.say(2, OPENED)
    assert bench.commit_on(2, 10)[0] == Emit(START, (10,))


def test_both_may_die():
    bench = moving()
    bench.gone(1)
    assert bench.gone(2, retry_at=0)[0] == Connect(3, 0)


def test_the_old_server_may_finish_and_the_new_one_does_it_again():
    bench = moving(drafts=1, room=2)
    bench.say(1, Commit(START, (10, 11)))
    bench.say(1, Finish(FinishReason.LENGTH, START, 2))
    assert bench.gone(1, Status.OK) == []
    bench.say(2, OPENED)
    bench.commit_on(2, 10, 11)
    assert bench.say(2, Finish(FinishReason.LENGTH, START, 2)) == [Done(FinishReason.LENGTH, 2)]


def test_the_old_server_may_finish_and_the_new_one_refuse():
    bench = moving(drafts=1, room=2)
    bench.say(1, Commit(START, (10, 11)))
    bench.say(1, Finish(FinishReason.LENGTH, START, 2))
    assert bench.gone(2) == [Emit(START, (10, 11)), Done(FinishReason.LENGTH, 2)]


def test_a_user_who_has_enough_says_so_to_both():
    bench = moving()
    assert bench.apply(bench.session.close(0, START)) == [
        SendUp(1, Close()),
        Leave(1),
        SendUp(2, Close(START)),
    ]
    assert bench.say(2, Finish(FinishReason.CLOSED, START, 0)) == [Done(FinishReason.CLOSED, 0)]


def test_a_user_who_has_enough_before_the_new_stream_is_made():
    bench = Moving().open()
    bench.receive(Drain())
    assert bench.apply(bench.session.close(0)) == [SendUp(1, Close(START))]
    assert bench.connected() == []
    assert bench.say(1, Finish(FinishReason.CLOSED, START, 0)) == [Done(FinishReason.CLOSED, 0)]


def test_a_complete_log_is_not_moved():
    bench = Moving(room=1).open()
    bench.commit(10)
    assert bench.receive(Drain()) == []


def test_the_limits_are_those_of_the_server_that_serves():
    small, large = Limits(max_live_nodes=2), Limits(max_live_nodes=50)
    bench = Moving(window=20, limits=large).open()
    bench.receive(Drain())
    bench.apply(bench.session.connected(2, 0, small))
    assert bench.session.capacity == 2
    bench.gone(2)
    assert bench.session.capacity == 20


# ---- what only one server may know ----


def offered(effects: list[EdgeEffect], stream: int) -> tuple[str, str]:
    """The session that a stream is opened with again."""
    opening = messages(effects, stream)[0]
    assert isinstance(opening, Open)
    return opening.session_id, opening.secret


def at(bench: Moving, stream: int, server: str) -> tuple[str, str]:
    return offered(bench.apply(bench.session.connected(stream, 0, server=server)), stream)


def test_a_secret_goes_to_the_server_that_gave_it_and_to_no_other():
    bench = Moving().start()
    assert at(bench, 1, "a:1") == ("", "")
    bench.say(1, Opened("s1", "of a", 0, "model-a", Limits()))
    bench.gone(1, retry_at=0)
    assert at(bench, 2, "b:1") == ("", "")
    bench.gone(2, retry_at=0)
    assert at(bench, 3, "a:1") == ("s1", "of a"), "where it may still live"
    bench.gone(3, retry_at=0)
    assert at(bench, 4, "b:1") == ("", "")
    bench.say(4, Opened("s4", "of b", 0, "model-a", Limits()))
    bench.gone(4, retry_at=0)
    assert at(bench, 5, "a:1") == ("", "")


def test_what_the_server_that_is_left_has_given_is_not_for_the_one_that_did_not_take_it():
    bench = Moving().start()
    at(bench, 1, "a:1")
    bench.receive(Drain())
    assert at(bench, 2, "b:1") == ("", "")
    bench.say(1, Opened("s1", "of a", 0, "model-a", Limits()))  # late: it is held until b has answered
    bench.gone(2)
    bench.gone(1, retry_at=0)
    assert at(bench, bench.stream, "b:1") == ("", "")
    bench.gone(bench.stream, retry_at=0)
    assert at(bench, bench.stream, "a:1") == ("s1", "of a")


def test_nor_is_it_for_one_that_was_asked_for_before_the_other_was_lost():
    bench = Moving().start()
    at(bench, 1, "a:1")
    bench.say(1, Opened("s1", "of a", 0, "model-a", Limits()))
    bench.receive(Drain())
    bench.gone(1, retry_at=0)
    assert at(bench, 2, "b:1") == ("", "")


# ---- a stream that is lost or refused, and what is known of others ----


def test_another_server_is_asked_at_once_however_often_it_failed():
    bench = Moving(reconnect=Reconnect(first_delay=10.0)).open()
    for stream in range(1, 5):
        assert bench.gone(stream, now=7, retry_at=7)[0] == Connect(stream + 1, 7)
        bench.connected(7)


def test_when_none_is_ready_it_waits_for_the_first():
    bench = Moving().open()
    assert bench.gone(1, now=7, retry_at=3 * SECOND)[0] == Connect(2, 3 * SECOND)


def test_nobody_waits_longer_than_the_user_does():
    bench = Moving(reconnect=Reconnect(patience=2.0)).open()
    assert bench.gone(1, now=7, retry_at=3 * SECOND) == [Failed(Status.UNAVAILABLE, "gone")]


@pytest.mark.parametrize("status", REFUSALS)
def test_a_first_open_goes_on_while_a_server_is_ready_and_fails_when_all_have_refused(status: Status):
    bench = Moving().start()
    bench.connected()
    assert bench.gone(1, status, retry_at=0)[0] == Connect(2, 0)
    bench.connected()
    assert bench.gone(2, status, retry_at=SECOND) == [Failed(status, "gone")]


@pytest.mark.parametrize("status", REFUSALS)
def test_a_session_that_was_lost_waits_for_one_that_takes_it(status: Status):
    bench = Moving().open()
    bench.gone(1, retry_at=0)
    bench.connected()
    assert bench.gone(2, status, retry_at=SECOND)[0] == Connect(3, SECOND)


@pytest.mark.parametrize("status", [*REFUSALS, Status.INTERNAL, Status.INVALID_ARGUMENT])
def test_a_server_that_throws_an_open_session_out_is_no_reason_to_ask_another(status: Status):
    bench = Moving().open()
    assert bench.gone(1, status, retry_at=0) == [Failed(status, "gone")]


@pytest.mark.parametrize("status", [Status.INTERNAL, Status.INVALID_ARGUMENT, Status.OUT_OF_RANGE])
def test_what_no_server_would_take_is_not_offered_to_all(status: Status):
    bench = Moving().start()
    bench.connected()
    assert bench.gone(1, status, retry_at=0) == [Failed(status, "gone")]
