"""What is told of an outage: once that it began, once that it is over."""

from __future__ import annotations

import pytest

from edge_client.notices import ConnectionBack, ConnectionLost, Notice, OutageWatch, in_plain_words
from edge_client.transport import Ended, Received
from shared.errors import Status
from shared.messages import Commit, Limits, Opened
from shared.session.edge import Connect, Failed

SECOND = 1_000_000_000
OPENED = Opened("session", "secret", 0, "model", Limits())


class Told(list[Notice]):
    def watch(self, patience_s: float = 30.0) -> OutageWatch:
        return OutageWatch(patience_s, self.append)


def commit(stream: int) -> Received:
    return Received(stream, Commit(position=3, tokens=(1,)))


def ended(stream: int, detail: str = "Socket closed") -> Ended:
    return Ended(stream, Status.UNAVAILABLE, detail)


def test_a_connection_that_holds_is_not_news() -> None:
    told = Told()
    watch = told.watch()
    for event in (Connect(1, 0), commit(1), commit(1), ended(1)):
        watch.observe(0, event)
    assert told == []
    assert watch.lasted_s is None


def test_an_outage_is_told_twice_however_many_attempts_it_takes() -> None:
    told = Told()
    watch = told.watch()
    watch.observe(0, Connect(1, 0))
    watch.observe(2 * SECOND, commit(1))
    watch.observe(6 * SECOND, ended(1))
    watch.observe(6 * SECOND, Connect(2, 0))
    assert told == [ConnectionLost("the connection broke", 26.0)]
    for attempt in range(2, 20):  # taken and dropped, over and over
        watch.observe(7 * SECOND, Received(attempt, OPENED))
        watch.observe(7 * SECOND, ended(attempt))
        watch.observe(7 * SECOND, Connect(attempt + 1, 0))
    assert len(told) == 1
    watch.observe(9 * SECOND, commit(19))  # late, of a stream before
    assert len(told) == 1
    watch.observe(10 * SECOND, commit(20))
    assert told[1:] == [ConnectionBack(4.0)]
    assert watch.lost_at is None
    watch.observe(11 * SECOND, ended(20))
    watch.observe(11 * SECOND, Connect(21, 0))
    assert len(told) == 3, "the next one is news again"


def test_a_server_that_never_takes_the_stream_is_told_too() -> None:
    told = Told()
    watch = told.watch(4.0)
    watch.observe(0, Connect(1, 0))
    watch.observe(SECOND, ended(1, "this server is draining: connect to another"))
    watch.observe(SECOND, Connect(2, 0))
    watch.observe(5 * SECOND, ended(2, "failed to connect to all addresses; last error: UNKNOWN: ipv4:..."))
    watch.observe(5 * SECOND, Failed(Status.UNAVAILABLE, ""))
    assert told == [ConnectionLost("this server is draining: connect to another", 3.0)]
    assert (watch.why, watch.lasted_s) == ("nobody answers there", 4.0)


@pytest.mark.parametrize(
    ("detail", "plain"),
    [
        ("recvmsg:Connection reset by peer", "the connection broke"),
        ("keepalive watchdog timeout", "it stopped answering"),
        ("DNS resolution failed for nowhere", "its name cannot be resolved"),
        ("all 4 sessions are taken", "all 4 sessions are taken"),
        ("", "no reason was given"),
    ],
)
def test_plain_words(detail: str, plain: str) -> None:
    assert in_plain_words(detail) == plain


def test_what_people_read() -> None:
    assert str(ConnectionLost("it stopped answering", 25.2)) == (
        "connection lost (it stopped answering), trying again for 26 s"
    )
    assert str(ConnectionBack(3.14)) == "connected again after 3.1 s"
