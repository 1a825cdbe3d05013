"""What was measured, as frozen values: one JSON line each. All times are unstretched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.bench_capacity.setting import Arm, Setting
from scripts.bench_latency.codec import decode, encode
from scripts.bench_latency.statistic import Interval
from shared.errors import UserError

FORMAT: Final = "slipstream-capacity"
VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Header:
    """First line."""

    command: str
    machine: dict[str, str]
    began: str
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Predicted:
    """The simulator's word on an arm."""

    tokens_per_s: float
    itl_p95_ms: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One arm in one cell."""

    setting: Setting
    arm: Arm
    lookahead: int | None
    """Of co-located SI."""
    window_s: float
    tokens: int
    """In the window, of all clients."""
    tokens_per_s: Interval
    """Of all clients; the interval is over parts of the window."""
    itl_p50_ms: float
    itl_p95_ms: float
    itl_p99_ms: float
    ttft_p50_ms: float | None
    """None: no generation began in the window."""
    facts_per_token: float
    acceptance: float | None
    generations: int
    wrong: int
    """Texts that are not the target's own."""
    clients_cpu: float
    """Share of one core that the clients' process used in the window."""
    server_cpu: float
    busy: float
    """Share of all cores that anybody used in the window."""
    neighbours: float
    """Share of all cores that anybody else used meanwhile."""
    predicted: Predicted | None
    """None: not simulated."""

    @property
    def rate(self) -> float:
        """Tokens per second of all clients."""
        return self.tokens_per_s.value

    @property
    def error(self) -> float | None:
        """Live / predicted rate - 1."""
        return None if self.predicted is None else self.rate / self.predicted.tokens_per_s - 1.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """One arm in one cell that was not run live."""

    setting: Setting
    arm: Arm
    lookahead: int | None
    predicted: Predicted

    @property
    def rate(self) -> float:
        """See `Measured.rate`."""
        return self.predicted.tokens_per_s

    @property
    def itl_p95_ms(self) -> float:
        """See `Measured.itl_p95_ms`."""
        return self.predicted.itl_p95_ms

    @property
    def wrong(self) -> int:
        """The simulator stops at the first."""
        return 0


Found = Measured | Simulated
Record = Header | Found
_KINDS: Final[dict[str, type[Record]]] = {"Header": Header, "Measured": Measured, "Simulated": Simulated}


def to_line(record: Record) -> str:
    """One line of JSON."""
    return json.dumps({"kind": type(record).__name__} | encode(record), allow_nan=False)


def read(path: Path) -> tuple[Header, Sequence[Found]]:
    """The results in a file; a last line that was cut off in writing is left out.

    Raises:
        UserError: it cannot be read, or it is another file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error
    try:
        records = [_record(line) for line in lines if line.endswith("\n")]
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: {error}: another version of this benchmark wrote it, or something else"
        ) from error
    if not records or not isinstance(records[0], Header):
        raise UserError(f"{path}: no results: the first line is not that of a capacity benchmark")
    return records[0], [record for record in records if not isinstance(record, Header)]


def _record(line: str) -> Record:
    document = json.loads(line)
    kind = _KINDS.get(document.pop("kind", ""))
    if kind is None:
        raise ValueError("of no known kind")
    record: Record = decode(kind, document)
    if isinstance(record, Header) and (record.format, record.version) != (FORMAT, VERSION):
        raise ValueError(f"format {record.format} version {record.version}, not {FORMAT} {VERSION}")
    return record
