"""One run of a script: the clouds, the edge, and the text that they are to agree on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from scripts.conformance.edge.cloud import Cloud, Talk
from scripts.conformance.edge.launch import Edge, Running
from scripts.conformance.edge.tracker import Problem
from scripts.conformance.rules import BrokenError, check
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

TOKENS: Final = 24
"""What the edge is asked for."""
PAUSE_S: Final = 0.2
"""For so long a cloud that agrees waits for drafts."""
MOST_ACCEPTED: Final = 3
"""Drafts in one commit."""


@dataclass(frozen=True, slots=True)
class Script:
    """What clouds do to an edge."""

    name: str
    says: str
    play: Callable[[Stage], None]
    """Raises `BrokenError` where it cannot go on."""
    clouds: Callable[[], tuple[Cloud, ...]]
    """Those that it wants, made anew."""
    agrees: bool
    """See `Stage.agrees`."""


@dataclass
class Stage:
    """Clouds that listen and an edge that runs."""

    clouds: tuple[Cloud, ...]
    running: Running
    agrees: bool = True
    """Whether the clouds' target says what is drafted, as far as that goes; else it never does."""
    log: list[int] = field(default_factory=list)
    """Whatever was committed: law for every later stream."""
    problems: list[Problem] = field(default_factory=list)
    """What the script itself has found."""
    exit_code: int | None = None

    @property
    def cloud(self) -> Cloud:
        """The first."""
        return self.clouds[0]

    @property
    def talks(self) -> list[Talk]:
        """All streams of all clouds, in the order in which they began."""
        return sorted((talk for cloud in self.clouds for talk in cloud.talks), key=lambda talk: talk.began)

    # ---- steps of a script ----

    def begin(self, cloud: Cloud | None = None) -> Talk:
        """The next stream, with its Open; nothing is answered yet."""
        talk = (cloud or self.cloud).next_talk()
        if talk is None:
            raise BrokenError(
                f"the edge begins no stream for {self.cloud.deadline_s:g} s{self.running.report()}"
            )
        talk.expect(lambda talk: talk.tracker is not None or talk.problems, "an Open")
        if talk.open is None:
            raise BrokenError(f"the edge begins a stream with something else: {talk.problems[0].what}")
        if not self.log:
            self.log = list(talk.open.tokens)
        return talk

    def opened(self, cloud: Cloud | None = None) -> Talk:
        """The next stream, with its Open, and Opened."""
        talk = self.begin(cloud)
        talk.say_opened()
        return talk

    def attached(self) -> Talk:
        """The next stream, with its Attach, and Attached: to a session with a prompt of 40 tokens."""
        talk = self.attaching()
        self.log = self.log or list(range(40))
        talk.say_attached(
            pb.Open(tokens=self.log, prompt_length=40, max_length=40 + TOKENS, sampling=pb.Sampling())
        )
        return talk

    def attaching(self) -> Talk:
        """The next stream, with its Attach; nothing is answered yet."""
        talk = self.cloud.next_talk()
        if talk is None:
            raise BrokenError(
                f"the edge begins no stream for {self.cloud.deadline_s:g} s{self.running.report()}"
            )
        talk.expect(lambda talk: talk.attach is not None or talk.problems, "an Attach")
        if talk.attach is None:
            raise BrokenError(f"the edge begins a stream with something else: {talk.problems[0].what}")
        return talk

    def write(self, talk: Talk, count: int) -> None:
        """Commit tokens until `count` more are in the log, as the target decides them, or the log is full."""
        until = min(len(self.log) + count, self._most(talk))
        while (at := self._length(talk)) < until:
            room = talk.cloud.limits.run_ahead
            seen = at - room
            if not talk.wait(lambda talk, seen=seen: talk.tracker.seen > seen):  # type: ignore[misc]
                why = f"{room} tokens are unseen, and nothing is reported for {self.cloud.deadline_s:g} s"
                self.problems.append(Problem("seen-is-reported", why))
                raise BrokenError(why)
            tokens = self._decide(talk, at)[: min(until - at, room)]
            self.log += tokens[max(0, len(self.log) - at) :]
            talk.say_commit(tokens)

    def finish(self, talk: Talk) -> None:
        """Write to the log's end, and say so."""
        self.write(talk, self._most(talk))
        talk.say_finish(pb.FINISH_REASON_LENGTH)

    def ends(self) -> int:
        """Wait for the edge's end: its exit code."""
        self.exit_code = self.running.wait(self.cloud.deadline_s)
        return self.exit_code

    def ends_well(self) -> None:
        """It ends, and says that all is well."""
        check(self.ends() == 0, f"the edge ends with exit code {self.exit_code} after Finish, expected 0")

    # ---- the target ----

    def _decide(self, talk: Talk, at: int) -> list[int]:
        """What follows after `at` tokens: what is in the log already, else what the target says now."""
        if at < len(self.log):
            return self.log[at:]
        talk.wait(lambda talk: talk.guesses, PAUSE_S)
        guesses = talk.guesses
        if self.agrees and guesses:
            path = max(guesses.values(), key=len)[:MOST_ACCEPTED]
            return [*path, self._own(talk, at + len(path), ())]
        return [self._own(talk, at, guesses)]

    def _own(self, talk: Talk, at: int, avoid: object) -> int:
        """A token that depends on its position, closes nothing, and was not drafted."""
        opening = talk.open
        stops = () if opening is None else tuple(opening.stop_tokens)
        drafted = avoid if isinstance(avoid, dict) else {}
        token = (at * 7919 + 17) % talk.cloud.vocabulary_size
        while token in stops or token in drafted:
            token = (token + 1) % talk.cloud.vocabulary_size
        return token

    def _length(self, talk: Talk) -> int:
        if talk.tracker is None:
            raise ValueError("no Open came yet")
        return len(talk.tracker.log)

    def _most(self, talk: Talk) -> int:
        return 0 if talk.open is None else talk.open.max_length


@contextlib.contextmanager
def stage(edge: Edge, script: Script, deadline_s: float) -> Iterator[Stage]:
    """Everything is up while the block is entered; the edge is sent to the first cloud."""
    with contextlib.ExitStack() as stack:
        clouds = tuple(stack.enter_context(cloud.serving()) for cloud in script.clouds())
        for cloud in clouds:
            cloud.deadline_s = deadline_s
        running = stack.enter_context(edge.start(clouds[0].address, TOKENS))
        yield Stage(clouds, running, script.agrees)
