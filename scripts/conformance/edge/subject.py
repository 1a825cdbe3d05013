"""An edge that is looked at: scripts are played when a rule first wants to see one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from scripts.conformance.edge.cloud import DEADLINE_S, Talk
from scripts.conformance.edge.launch import Edge
from scripts.conformance.edge.scripts import ASSIST_SCRIPTS, SCRIPTS
from scripts.conformance.edge.stage import Stage, stage
from scripts.conformance.edge.tracker import Problem
from scripts.conformance.rules import BrokenError, RuleBook, check
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

EVERY: Final = SCRIPTS | ASSIST_SCRIPTS
TOGETHER: Final = 4
"""Scripts that are played side by side."""
RULES: Final[RuleBook[Recordings]] = RuleBook()
ASSIST_RULES: Final[RuleBook[Recordings]] = RuleBook()
"""For edges that attach to a session of another."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What an edge did in a script."""

    script: str
    talks: tuple[Talk, ...]
    """Its streams, in the order in which they began."""
    log: tuple[int, ...]
    exit_code: int | None
    """None: the script could not go on so far."""
    problems: tuple[Problem, ...]
    stuck: str
    """Why the script could not go on; empty: it came to its end."""
    asked_at: tuple[float, ...]
    """When the edge asked for the model."""
    secrets: tuple[str, ...]
    """Of the clouds."""

    @property
    def opens(self) -> list[pb.Open]:
        """Of all streams that came so far."""
        return [talk.open for talk in self.talks if talk.open is not None]

    @property
    def went(self) -> Recording:
        """Itself; raises `BrokenError` if the script did not come to its end."""
        check(not self.stuck, f"in the script {self.script} {self.stuck}")
        return self


@dataclass
class Recordings:
    """Of one edge."""

    edge: Edge
    scripts: tuple[str, ...] = tuple(SCRIPTS)
    """Those that are played for rules about all."""
    deadline_s: float = DEADLINE_S
    """For whatever the edge has to do."""
    _played: dict[str, Recording] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Recording:
        if name not in self._played:
            ahead = [one for one in self.scripts if one not in self._played and one != name]
            self._play([name, *ahead[: TOGETHER - 1]])
        return self._played[name]

    def __iter__(self) -> Iterator[Recording]:
        return (self[name] for name in self.scripts)

    def talks(self) -> Iterator[tuple[str, Talk]]:
        """All streams, with the script that they came in."""
        return ((recording.script, talk) for recording in self for talk in recording.talks)

    def without(self, rule: str) -> None:
        """Raises `BrokenError` if something that speaks against `rule` was seen in any script."""
        for recording in self:
            for problem in recording.problems:
                check(problem.rule != rule, f"in the script {recording.script}: {problem.what}")

    def hang_up(self) -> None:
        """Every script ends what it begins."""

    def _play(self, names: Sequence[str]) -> None:
        """Side by side: an edge mostly takes its time to start."""
        with contextlib.ExitStack() as stack:
            stages = {
                name: stack.enter_context(stage(self.edge, EVERY[name], self.deadline_s)) for name in names
            }
            with ThreadPoolExecutor(len(names)) as threads:
                stuck = dict(zip(names, threads.map(_through, names, stages.values()), strict=True))
        # Looked at once nothing more can come.
        self._played |= {name: _recorded(name, on, stuck[name]) for name, on in stages.items()}


def _through(name: str, on: Stage) -> str:
    try:
        EVERY[name].play(on)
    except BrokenError as broken:
        return str(broken)
    return ""


def _recorded(name: str, on: Stage, stuck: str) -> Recording:
    talks = tuple(on.talks)
    problems = [*on.problems, *(problem for talk in talks for problem in talk.problems)]
    problems += [problem for talk in talks if talk.tracker is not None for problem in talk.tracker.problems]
    return Recording(
        script=name,
        talks=talks,
        log=tuple(on.log),
        exit_code=on.exit_code,
        problems=tuple(problems),
        stuck=stuck,
        asked_at=tuple(at for cloud in on.clouds for at in cloud.asked),
        secrets=tuple(cloud.secret for cloud in on.clouds),
    )
