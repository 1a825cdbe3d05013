"""EdgeSession: lost streams, the end, and servers that break the contract."""

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
)
from shared.policy.expansion import BestFirst
from shared.policy.reconnect import Reconnect
from shared.session.edge import (
    Connect,
    Done,
    Emit,
    Failed,
    SendUp,
)
from tests.shared.session.builders import PROMPT, SECOND
from tests.shared.session.edge_bench import START, Bench, sent, triple

# ---- reconnecting ----


def test_after_a_loss_it_opens_with_the_log_and_sends_its_live_nodes_again_with_ids_from_1():
    bench = Bench(window=6, expansion=BestFirst(branches=2, width=2)).open()
    bench.drafted((10, 20))
    bench.drafted((11, 12), (21, 22))
    bench.commit(10)
    assert bench.lost()[0] == Connect(2, 0)
    news = bench.connected()
    assert isinstance(news[0], SendUp)
    opening = news[0].message
    assert isinstance(opening, Open)
    assert (opening.tokens, opening.prompt_length) == ((*PROMPT, 10), START)
    assert opening.max_length == START + 20  # absolute: opening again does not extend it
    assert [triple(one) for one in sent(news)] == [(1, START + 1, (11, 12), (0, 0))]
    assert bench.session.in_flight == 2


def test_a_node_below_another_is_sent_again_with_its_offset():
    bench = Bench(window=4).open()
    bench.chain(10, 11, 12)
    bench.lost()
    assert [triple(one) for one in sent(bench.connected())] == [(1, START, (10, 11, 12), (0, 1, 1))]


def test_what_was_in_flight_when_the_stream_broke_is_not_counted_as_in_flight():
    bench = Bench(window=3).open()
    bench.chain(10, 11, 12)
    bench.lost()
    bench.connected()
    assert bench.session.in_flight == 3
    assert bench.session.counts.sent == 6


def test_a_message_of_an_earlier_stream_is_late():
    bench = Bench().open()
    bench.lost()
    bench.connected()
    assert bench.session.receive(1, Commit(START, (10,)), 0) == []
    assert bench.session.lost(1, Status.INTERNAL, "late", 0) == []
    assert bench.session.connected(1, 0) == []
    assert len(bench.session.log) == START


def test_attempts_back_off_and_end_at_the_deadline():
    bench = Bench(reconnect=Reconnect(patience=1.0)).start()
    times = []
    for _ in range(4):
        (connect, *_) = bench.lost(now=times[-1] if times else 0)
        assert isinstance(connect, Connect)
        times.append(connect.at)
    assert times == sorted(times)
    assert times[0] > 0
    (failed,) = bench.lost(now=2 * SECOND)
    assert failed == Failed(Status.UNAVAILABLE, "gone")
    assert bench.session.over


@pytest.mark.parametrize(
    "status",
    [
        Status.INVALID_ARGUMENT,
        Status.FAILED_PRECONDITION,
        Status.RESOURCE_EXHAUSTED,
        Status.INTERNAL,
        Status.UNKNOWN,
    ],
)
def test_a_status_that_is_not_transient_ends_it_loudly(status: Status):
    bench = Bench().open()
    assert bench.lost(status) == [Failed(status, "gone")]
    assert bench.session.over
    assert (bench.commit(10), bench.session.close(0), bench.drafted(10)) == ([], [], [])


@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.ABORTED])
def test_a_transient_one_does_not(status: Status):
    assert isinstance(Bench().open().lost(status)[0], Connect)


def test_a_stream_that_ends_well_without_a_farewell_is_a_bug_of_the_server():
    (failed,) = Bench().open().lost(Status.OK)
    assert failed == Failed(Status.INTERNAL, "the server ended the stream without a Finish: report a bug")


# ---- the end ----


def test_it_is_done_when_the_cloud_says_farewell():
    bench = Bench(room=2).open()
    bench.commit(10, 11)
    assert bench.receive(Finish(FinishReason.LENGTH, 3, 2)) == [Done(FinishReason.LENGTH, 2)]
    assert bench.lost(Status.OK) == []


@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.INTERNAL])
def test_a_loss_after_the_last_commit_loses_nothing(status: Status):
    bench = Bench(stop=(50,)).open()
    assert bench.commit(10, 50) == [Emit(START, (10, 50))]
    assert bench.lost(status) == [Done(FinishReason.STOP, 2)]


def test_a_close_names_the_position_and_drops_all_drafts():
    bench = Bench().open()
    bench.chain(10, 11)
    bench.commit(10, 50)
    assert bench.apply(bench.session.close(0, START + 1)) == [SendUp(1, Close(START + 1))]
    assert (bench.session.tree.live, bench.session.in_flight) == (0, 0)
    assert bench.apply(bench.session.close(0)) == []
    assert bench.commit(99) == []  # crossed the close
    assert bench.drafted(99) == []
    assert bench.receive(Finish(FinishReason.CLOSED, 3, 1)) == [Done(FinishReason.CLOSED, 1)]


def test_a_close_while_the_cloud_finishes_is_a_close():
    bench = Bench(room=2).open()
    bench.commit(10)
    bench.apply(bench.session.close(0))
    assert bench.commit(11) == []
    assert bench.receive(Finish(FinishReason.LENGTH, 3, 2)) == [Done(FinishReason.CLOSED, 1)]


def test_a_close_that_is_lost_is_a_close():
    bench = Bench().open()
    bench.commit(10)
    bench.apply(bench.session.close(0))
    assert bench.lost() == [Done(FinishReason.CLOSED, 1)]


@pytest.mark.parametrize("farewell", [True, False])
def test_a_close_within_the_last_commit_counts_whatever_becomes_of_the_stream(farewell: bool):
    """A stop string in the text of the commit that also carries the stop token."""
    bench = Bench(stop=(50,)).open()
    bench.commit(10, 11, 50)
    assert bench.apply(bench.session.close(0, START + 1)) == [SendUp(1, Close(START + 1))]
    news = bench.receive(Finish(FinishReason.STOP, 3, 3)) if farewell else bench.lost()
    assert news == [Done(FinishReason.CLOSED, 1)]


def test_without_a_stream_a_close_is_done_at_once():
    bench = Bench().open()
    bench.commit(10)
    bench.lost()
    assert bench.apply(bench.session.close(0)) == [Done(FinishReason.CLOSED, 1)]
    assert bench.connected() == []


@pytest.mark.parametrize("position", [START - 1, START + 2])
def test_a_close_outside_the_completion_is_a_callers_mistake_and_changes_nothing(position: int):
    bench = Bench().open()
    bench.commit(10)
    with pytest.raises(ValueError, match=rf"position {position} is outside 3\.\.4"):
        bench.session.close(0, position)
    assert bench.commit(11)[0] == Emit(START + 1, (11,))


def test_a_drain_changes_nothing_until_the_stream_ends():
    bench = Bench().open()
    assert bench.receive(Drain()) == []
    assert bench.commit(10)[0] == Emit(START, (10,))


# ---- a broken server ----


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Commit(START + 2, (12,)), "committed at position 5, this log ends at 4"),  # one was lost
        (Commit(START, (10,)), "committed at position 3, this log ends at 4"),  # the same twice
        (Commit(START + 1, (11, 50, 12)), "committed beyond the end of the log"),
        (Commit(START + 1, (11, 12, 13, 14)), "committed beyond the end of the log"),
        (Finish(FinishReason.STOP, 3, 1), r"finished (stop) but the log of 4 tokens is open"),
    ],
)
def test_a_server_that_breaks_the_contract_is_reported(message: CloudMessage, says: str):
    bench = Bench(stop=(50,), room=4).open()
    bench.commit(10)
    (failed,) = bench.receive(message)
    assert isinstance(failed, Failed)
    assert failed.status is Status.INTERNAL
    assert says in failed.message
    assert "report a bug" in failed.message
    assert bench.session.over
    assert bench.session.tree.live == 0


def test_a_commit_after_the_end_is_reported():
    bench = Bench(stop=(50,)).open()
    bench.commit(50)
    (failed,) = bench.commit(10)
    assert isinstance(failed, Failed)
    assert failed.status is Status.INTERNAL


def test_a_full_server_is_asked_again_for_a_session_that_it_held():
    # It may not have noticed yet that the lost stream's session is free.
    bench = Bench().open()
    bench.commit(10)
    assert isinstance(bench.lost(Status.UNAVAILABLE)[0], Connect)
    bench.connected()
    assert isinstance(bench.lost(Status.RESOURCE_EXHAUSTED)[0], Connect)


def test_a_full_server_refuses_a_new_session_for_good():
    bench = Bench().start()
    bench.connected()
    assert isinstance(bench.lost(Status.RESOURCE_EXHAUSTED)[0], Failed)


def test_a_stream_that_is_opened_again_names_the_session_that_was_lost():
    bench = Bench(limits=Limits(max_message_bytes=16)).open()
    bench.lost()
    opens = [e.message for e in bench.connected() if isinstance(e, SendUp) and isinstance(e.message, Open)]
    assert [(one.session_id, one.secret) for one in opens] == [("s", "x"), ("", "")], (
        "in the first part alone"
    )


def test_the_first_stream_names_none():
    opens = [
        e.message
        for e in Bench().start().connected()
        if isinstance(e, SendUp) and isinstance(e.message, Open)
    ]
    assert [(one.session_id, one.secret) for one in opens] == [("", "")]
