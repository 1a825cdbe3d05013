"""What a scripted cloud does to an edge. Each script runs once; many rules look at what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc

from scripts.conformance.edge.cloud import UNKNOWN, Cloud
from scripts.conformance.edge.stage import PAUSE_S, Script, Stage
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

Code = grpc.StatusCode
SCRIPTS: Final[dict[str, Script]] = {}
ASSIST_SCRIPTS: Final[dict[str, Script]] = {}
"""For edges that attach to a session of another."""
PUSHBACK_MS: Final = 400
NARROW: Final = pb.Limits(
    max_message_bytes=200,
    max_nodes_per_message=3,
    max_live_nodes=7,
    max_depth=4,
    max_messages_per_second=60,
    max_sessions=8,
    max_patience_us=0,
    run_ahead=5,
    max_attached=4,
)


def script(
    clouds: Callable[[], tuple[Cloud, ...]] = lambda: (Cloud(),),
    *,
    agrees: bool = True,
    into: dict[str, Script] = SCRIPTS,
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Enter the decorated function: its name is the script's, its docstring what it does."""

    def enter(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
        name = play.__name__.replace("_", "-")
        into[name] = Script(name, " ".join((play.__doc__ or "").split()), play, clouds, agrees)
        return play

    return enter


@script(lambda: (Cloud(unknown=UNKNOWN),))
def agreeing(stage: Stage) -> None:
    """A target that says what is drafted; every message has a field that no version knows."""
    stage.finish(stage.opened())
    stage.ends_well()


@script(agrees=False)
def contradicting(stage: Stage) -> None:
    """A target that never says what is drafted: every draft dies, and nothing is said of it."""
    stage.finish(stage.opened())
    stage.ends_well()


@script(lambda: (Cloud(limits=NARROW),))
def narrow(stage: Stage) -> None:
    """Next to nothing is allowed, and no token is committed beyond what may be unseen."""
    stage.finish(stage.opened())
    stage.ends_well()


@script()
def lost(stage: Stage) -> None:
    """Drain without a target, then the stream is lost; the next one is refused for want of room, with a time to
    wait.
    """
    talk = stage.opened()
    stage.write(talk, 6)
    talk.send(pb.CloudMessage(drain=pb.Drain()))
    stage.write(talk, 4)
    talk.end(Code.UNAVAILABLE)
    stage.begin().end(Code.RESOURCE_EXHAUSTED, pushback_ms=PUSHBACK_MS)
    stage.finish(stage.opened())
    stage.ends_well()


@script()
def lost_before_opened(stage: Stage) -> None:
    """The first stream is lost before Opened."""
    stage.begin().end(Code.UNAVAILABLE)
    stage.finish(stage.opened())
    stage.ends_well()


@script(lambda: (Cloud("a"), Cloud("b")))
def moved(stage: Stage) -> None:
    """Drain names another server; the first one serves on until the edge has gone there."""
    first, second = stage.clouds
    talk = stage.opened(first)
    stage.write(talk, 6)
    talk.send(pb.CloudMessage(drain=pb.Drain(target=second.address)))
    stage.write(talk, 2)
    there = stage.opened(second)
    talk.expect(lambda talk: talk.closed is not None, "Close on the stream of the server that drains")
    talk.say_finish(pb.FINISH_REASON_CLOSED)
    stage.finish(there)
    stage.ends_well()


@script()
def interrupted(stage: Stage) -> None:
    """The user has had enough in the middle of the text."""
    talk = stage.opened()
    stage.write(talk, 6)
    stage.running.interrupt()
    talk.expect(lambda talk: talk.closed is not None, "Close")
    talk.wait(lambda talk: talk.problems, PAUSE_S)  # what comes behind it
    talk.say_finish(pb.FINISH_REASON_CLOSED)
    stage.ends()


@script()
def refused(stage: Stage) -> None:
    """The Open is refused as a violation."""
    stage.begin().end(Code.INVALID_ARGUMENT)
    stage.ends()


@script()
def refused_later(stage: Stage) -> None:
    """A Draft is refused as a violation, after some tokens."""
    talk = stage.opened()
    stage.write(talk, 4)
    talk.end(Code.INVALID_ARGUMENT)
    stage.ends()


# Clouds that break the contract themselves: the edge is to end the session as broken, and to mend nothing.


@script()
def gap(stage: Stage) -> None:
    """A commit leaves a gap."""
    talk = stage.opened()
    stage.write(talk, 4)
    talk.say_commit([1], position=len(stage.log) + 1)
    stage.ends()


@script()
def overlap(stage: Stage) -> None:
    """A commit overlaps the one before it."""
    talk = stage.opened()
    stage.write(talk, 4)
    talk.say_commit(stage.log[-1:], position=len(stage.log) - 1)
    stage.ends()


@script()
def opened_twice(stage: Stage) -> None:
    """A second Opened."""
    talk = stage.opened()
    stage.write(talk, 4)
    talk.say_opened()
    stage.ends()


@script()
def commit_before_opened(stage: Stage) -> None:
    """A commit comes before Opened."""
    talk = stage.begin()
    stage.write(talk, 1)
    stage.ends()


@script()
def no_kind(stage: Stage) -> None:
    """A message without a kind that this version knows."""
    talk = stage.opened()
    stage.write(talk, 4)
    talk.send(UNKNOWN)
    stage.ends()


@script()
def empty_commit(stage: Stage) -> None:
    """A commit without tokens."""
    talk = stage.opened()
    stage.write(talk, 4)
    talk.say_commit([])
    stage.ends()


@script()
def no_message(stage: Stage) -> None:
    """Bytes that are no message."""
    talk = stage.opened()
    stage.write(talk, 4)
    talk.send(b"\xff\xff\xff")
    stage.ends()


BROKEN_CLOUDS: Final = {
    "gap": "a commit that leaves a gap",
    "overlap": "a commit that overlaps",
    "opened-twice": "a second Opened",
    "commit-before-opened": "a commit before Opened",
    "no-kind": "a message without a kind",
    "empty-commit": "a commit without tokens",
    "no-message": "bytes that are no message",
}


# Sessions of others: the edge is an assistant.


@script(lambda: (Cloud(unknown=UNKNOWN),), into=ASSIST_SCRIPTS)
def helping(stage: Stage) -> None:
    """A session of another edge, to its end; every message has a field that no version knows."""
    talk = stage.attached()
    stage.finish(talk)
    stage.ends()


@script(lambda: (Cloud(limits=NARROW),), into=ASSIST_SCRIPTS)
def helping_narrow(stage: Stage) -> None:
    """The same where next to nothing is allowed."""
    talk = stage.attached()
    stage.finish(talk)
    stage.ends()


@script(into=ASSIST_SCRIPTS)
def helping_lost(stage: Stage) -> None:
    """The stream is lost in the middle of the text; the session goes on without it, and it is attached again."""
    talk = stage.attached()
    stage.write(talk, 6)
    talk.end(Code.UNAVAILABLE)
    again = stage.attached()
    stage.finish(again)
    stage.ends()


@script(into=ASSIST_SCRIPTS)
def helping_interrupted(stage: Stage) -> None:
    """The assistant is told to stop in the middle of the text."""
    talk = stage.attached()
    stage.write(talk, 6)
    stage.running.interrupt()
    talk.expect(lambda talk: talk.closed is not None, "Close")
    talk.wait(lambda talk: talk.problems, PAUSE_S)  # what comes behind it
    talk.say_finish(pb.FINISH_REASON_CLOSED)
    stage.ends()


@script(into=ASSIST_SCRIPTS)
def helping_nobody(stage: Stage) -> None:
    """There is no such session."""
    stage.attaching().end(Code.NOT_FOUND)
    stage.ends()
