"""Carries out rows: all live ones first, one at a time on a quiet machine, then their simulation in parallel."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from scripts.validate.configuration import Configuration
from scripts.validate.figures import figures_of
from scripts.validate.live import run
from scripts.validate.overheads import NONE, Overheads
from scripts.validate.records import Measured, Record, Results, Simulated, to_line
from scripts.validate.simulated import simulate
from scripts.wan.link import Enforcer

Told = Callable[[Measured | Simulated], None]


class Journal:
    """A file of results: begins with those that are kept, and takes each further one as it is found."""

    def __init__(self, path: Path, kept: Results) -> None:
        self.results = kept
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8")
        for record in self.results.records:  # written again: the last line may have been cut off
            self._line(record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, record: Measured | Simulated) -> None:
        """One record more."""
        self._line(record)
        if isinstance(record, Measured):
            self.results = replace(self.results, measured=(*self.results.measured, record))
        else:
            self.results = replace(self.results, simulated=(*self.results.simulated, record))

    def _line(self, record: Record) -> None:
        if self._file is None:
            raise ValueError("the journal is closed")
        self._file.write(to_line(record) + "\n")
        self._file.flush()


def execute(
    journal: Journal, grid: Sequence[Configuration], enforcer: Enforcer | None, jobs: int, told: Told
) -> None:
    """Whatever of the grid is missing in the journal, which ends up with all of it.

    Raises:
        UserError: the enforcer is not possible here.
        ChildError: something does not come up, or breaks.
    """
    there = {one.configuration for one in journal.results.measured}
    for configuration in grid:
        if configuration not in there:
            measured = measure(configuration, enforcer)
            journal.write(measured)
            told(measured)
    there = {one.configuration for one in journal.results.simulated}
    missing = [one for one in grid if one not in there]
    for simulated in simulate_all(missing, journal.results.header.overheads, jobs):
        journal.write(simulated)
        told(simulated)


def measure(configuration: Configuration, enforcer: Enforcer | None) -> Measured:
    """The live side of a row."""
    live = run(configuration, enforcer)
    return Measured(
        configuration,
        figures_of(live.generations, configuration.stretch),
        wrong=live.wrong,
        load=live.load,
        clients_cpu=live.clients_cpu,
        server_cpu=live.server_cpu,
        busy=live.busy,
        neighbours=live.neighbours,
    )


def predict(configuration: Configuration, overheads: Overheads) -> Simulated:
    """The simulated side of a row."""
    told, ideal = (
        figures_of(simulate(configuration, one), configuration.stretch) for one in (overheads, NONE)
    )
    return Simulated(configuration, told, ideal)


def simulate_all(rows: Sequence[Configuration], overheads: Overheads, jobs: int) -> Iterator[Simulated]:
    """As they are ready, in so many processes."""
    if jobs == 1 or len(rows) < 2:
        yield from (predict(one, overheads) for one in rows)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(predict, one, overheads) for one in rows]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
