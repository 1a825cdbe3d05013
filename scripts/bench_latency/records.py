"""What was measured, as frozen values: one JSON line each. The report is made of these and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_client.stats import Stats
from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.plan import Plan
from shared.errors import UserError
from shared.profiled import Profile

FORMAT: Final = "slipstream-latency"
VERSION: Final = 1

Commit = tuple[float, int]
"""(milliseconds since the request, tokens that became final)."""


@dataclass(frozen=True, slots=True)
class Header:
    """First line: what was asked for, and of what."""

    plan: Plan
    command: str
    """Without paths and addresses."""
    machine: dict[str, str]
    began: str
    """Local time, ISO 8601."""
    jobs: int = 1
    """Cells that ran side by side."""
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Drafter forwards on so many nodes, from the wish to the answer on the edge's event loop."""

    nodes: int
    count: int
    mean_ms: float


@dataclass(frozen=True, slots=True)
class Overheads:
    """What the runtime adds to the models and the link, measured on probes that count for nothing else."""

    step_ms: float
    """A verify step as it is felt: cloud alone, per token."""
    rtt_ms: float
    """Shortest round trip of a message on the standing connection."""
    forwards: tuple[ForwardCost, ...]
    acceptance: float | None
    """Of a chain. None: nothing was judged."""


@dataclass(frozen=True, slots=True)
class Lookahead:
    """The block length of an SI arm, and why."""

    arm: str
    chosen: int
    predicted_ms: dict[int, float]
    """TPOT by block length, simulated."""
    live_ms: dict[int, float]
    """TPOT of the best one and its neighbours, live."""


@dataclass(frozen=True, slots=True)
class CellFacts:
    """What was found out about a cell before its runs."""

    cell: str
    enforcer: str
    """none: nothing is emulated."""
    reason: str
    cannot_show: str
    overheads: Overheads
    believed: Profile
    """The pair with its overheads: what the simulator is told."""
    lookaheads: tuple[Lookahead, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """What happened when, milliseconds since the request, on the edge's clock."""

    forwards: tuple[tuple[float, float, int], ...]
    """(begin, end, nodes)."""
    sent: tuple[tuple[float, int], ...]
    """(at, draft nodes)."""
    commits: tuple[tuple[float, int, float, float, int], ...]
    """(arrival, tokens, queue ms and verify ms as measured in the cloud, tokens that drafts had right)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One generation that counts."""

    cell: str
    arm: str
    prompt: int
    seed: int
    load: float
    """Load average of the minute before."""
    tokens: tuple[int, ...]
    finish_reason: str
    commits: tuple[Commit, ...]
    stats: Stats | None = None
    """None: a peer, which has none."""
    link_bytes_up: int | None = None
    """What came out of the link; None: there is no link."""
    link_bytes_down: int | None = None
    verify_ms: float | None = None
    """Mean duration of a step, measured in the cloud."""
    queue_ms: float | None = None
    """Mean time from wanting the fact at the end until its step began, measured in the cloud."""
    picture: Picture | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Predicted:
    """The simulator's TPOT of one unit."""

    cell: str
    arm: str
    prompt: int
    seed: int
    tpot_ms: float
    """Told the overheads."""
    ideal_ms: float | None
    """Told the nominal pair and link; None: real models have no nominal figures."""


@dataclass(frozen=True, slots=True)
class CellEnd:
    """A cell's runs are complete."""

    cell: str
    neighbours: float | None
    """Share of all cores that other processes used meanwhile; None: not known."""


@dataclass(frozen=True, slots=True)
class End:
    """Last line. A file without it is of an invocation that was killed."""

    outcome: str
    """complete, interrupted, or what broke."""
    runs: int
    took_s: float


Record = Header | CellFacts | Run | Predicted | CellEnd | End
KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind for kind in (Header, CellFacts, Run, Predicted, CellEnd, End)
}


@dataclass(frozen=True, slots=True)
class Results:
    """All records of one invocation, by kind."""

    header: Header
    facts: tuple[CellFacts, ...]
    runs: tuple[Run, ...]
    predicted: tuple[Predicted, ...]
    cell_ends: tuple[CellEnd, ...]
    end: End | None

    @classmethod
    def of(cls, records: Iterable[Record]) -> Results:
        """Sort them out.

        Raises:
            UserError: there is no header.
        """
        given = list(records)
        if not given or not isinstance(given[0], Header):
            raise UserError("no results: the first line is not that of a latency benchmark")

        def all_of(kind: type[Any]) -> tuple[Any, ...]:
            return tuple(record for record in given if isinstance(record, kind))

        ends = all_of(End)
        return cls(
            given[0],
            all_of(CellFacts),
            all_of(Run),
            all_of(Predicted),
            all_of(CellEnd),
            ends[-1] if ends else None,
        )

    @property
    def state(self) -> str:
        """Whether it is whole, for people; empty: it is."""
        planned, done = self.header.plan.runs, len(self.runs)
        if self.end is None:
            return f"cut off after {done} of {planned} runs"
        if self.end.outcome == "complete":
            return ""
        return f"{self.end.outcome} after {done} of {planned} runs"


def to_line(record: Record) -> str:
    """One line of JSON."""
    return json.dumps({"kind": type(record).__name__} | encode(record), allow_nan=False)


def from_line(line: str) -> Record:
    """The record of a line.

    Raises:
        ValueError: it is none.
    """
    document = json.loads(line)
    kind = KINDS.get(document.pop("kind", ""))
    if kind is None:
        raise ValueError("of no known kind")
    record: Record = decode(kind, document)
    if isinstance(record, Header) and (record.format, record.version) != (FORMAT, VERSION):
        raise ValueError(f"format {record.format} version {record.version}, not {FORMAT} {VERSION}")
    return record


def read(path: Path) -> Results:
    """The results in a file.

    Raises:
        UserError: it cannot be read, or a line is none of ours. A last line that was cut off in writing is left out.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        try:
            records.append(from_line(line))
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{path}, line {number}: {error}: another version of this benchmark wrote it, or something else"
            ) from error
    return Results.of(records)
