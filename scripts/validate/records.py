"""What was found, as frozen values: one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.bench_latency.codec import decode, encode
from scripts.validate.configuration import Configuration
from scripts.validate.figures import Figures
from scripts.validate.overheads import Overheads
from shared.errors import UserError

FORMAT: Final = "slipstream-validation"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Header:
    """First line."""

    command: str
    machine: dict[str, str]
    began: str
    network: str
    """What emulates it."""
    overheads: Overheads
    """As measured on this machine before the first row."""
    format: str = FORMAT
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Measured:
    """The live side of one row."""

    configuration: Configuration
    figures: Figures
    wrong: int
    """Texts that are not the target's own."""
    load: float
    """Load average before."""
    clients_cpu: float
    """Share of one core that the clients' process used."""
    server_cpu: float
    busy: float
    """Share of all cores that anybody used."""
    neighbours: float
    """Share of all cores that anybody else used."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """The simulated side of one row."""

    configuration: Configuration
    told: Figures
    """With the overheads."""
    ideal: Figures
    """Without any."""


@dataclass(frozen=True, slots=True)
class Row:
    """Both sides."""

    measured: Measured
    simulated: Simulated

    @property
    def configuration(self) -> Configuration:
        """Of both."""
        return self.measured.configuration


Record = Header | Measured | Simulated
_KINDS: Final[dict[str, type[Record]]] = {"Header": Header, "Measured": Measured, "Simulated": Simulated}


@dataclass(frozen=True, slots=True)
class Results:
    """Everything in a file."""

    header: Header
    measured: tuple[Measured, ...] = ()
    simulated: tuple[Simulated, ...] = ()

    @property
    def records(self) -> tuple[Record, ...]:
        """As they are written."""
        return (self.header, *self.measured, *self.simulated)

    def rows(self) -> list[Row]:
        """Those of which both sides are there, as they were measured."""
        simulated = {one.configuration: one for one in self.simulated}
        return [
            Row(one, simulated[one.configuration]) for one in self.measured if one.configuration in simulated
        ]


def to_line(record: Record) -> str:
    """One line of JSON."""
    return json.dumps({"kind": type(record).__name__} | encode(record), allow_nan=False)


def read(path: Path) -> Results:
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
        raise UserError(f"{path}: {error}: another version of this wrote it, or something else") from error
    return results_of(path, records)


def results_of(path: Path, records: Sequence[Record]) -> Results:
    """Sorted by what they are.

    Raises:
        UserError: the first is not a header.
    """
    if not records or not isinstance(records[0], Header):
        raise UserError(f"{path}: no results: the first line is not that of a validation")
    return Results(
        records[0],
        tuple(one for one in records if isinstance(one, Measured)),
        tuple(one for one in records if isinstance(one, Simulated)),
    )


def _record(line: str) -> Record:
    document = json.loads(line)
    kind = _KINDS.get(document.pop("kind", ""))
    if kind is None:
        raise ValueError("of no known kind")
    record: Record = decode(kind, document)
    if isinstance(record, Header) and (record.format, record.version) != (FORMAT, VERSION):
        raise ValueError(f"format {record.format} version {record.version}, not {FORMAT} {VERSION}")
    return record
