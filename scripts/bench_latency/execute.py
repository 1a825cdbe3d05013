"""Carries out a plan: opens cells, one after the other or several at a time, and writes down what they find."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from scripts.bench.measure import Neighbours
from scripts.bench_latency.cell_run import CellRun, Interrupted
from scripts.bench_latency.deployment import Deployment
from scripts.bench_latency.plan import Cell, Plan
from scripts.bench_latency.records import CellEnd, CellFacts, End, Header, Record, Results, Run, to_line
from scripts.bench_latency.simulate import predictable, predictions
from scripts.bench_latency.stations import open_stations
from scripts.processes import ChildError

BREATH_S = 0.5
"""How long the main thread waits without looking up: a signal is noticed at the latest then."""


class Watcher(Protocol):
    """Told how far it is."""

    def cell(self, cell: Cell) -> None:
        """A cell begins."""

    def ran(self, cell: Cell, run: Run) -> None:
        """A run has ended."""

    def simulates(self, count: int) -> None:
        """All runs have ended; so many predictions follow."""

    def predicted(self) -> None:
        """One prediction more."""


class Journal:
    """Takes records from any thread: keeps them, and writes each to the file at once."""

    def __init__(self, path: Path) -> None:
        self.records: list[Record] = []
        self._path = path
        self._lock = threading.Lock()
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, record: Record) -> None:
        """One record more."""
        with self._lock:
            if self._file is None:
                raise ValueError("the journal is closed")
            self._file.write(to_line(record) + "\n")
            self._file.flush()
            self.records.append(record)


@dataclass(slots=True)
class _Slot:
    """A cell that is being played."""

    cell: Cell
    stack: contextlib.ExitStack
    neighbours: Neighbours


def execute(
    header: Header, deployment: Deployment, journal: Journal, watcher: Watcher
) -> tuple[Results, Exception | None]:
    """Play all cells of the header's plan, then simulate them. Ctrl-C ends either early; what was found is kept.

    Returns:
        What was found, and what broke, if something did.

    Raises:
        UserError: what was asked for is not possible here.
    """
    began = time.monotonic()
    journal.write(header)
    outcome, broke = "complete", None
    try:
        _play_all(header.plan, deployment, header.jobs, journal, watcher)
        _simulate_all(header.plan, journal, watcher)
    except KeyboardInterrupt:
        outcome = "interrupted"
    except ChildError as error:
        outcome, broke = f"broke off ({str(error).partition(chr(10))[0]})", error
    runs = sum(isinstance(record, Run) for record in journal.records)
    journal.write(End(outcome, runs, round(time.monotonic() - began, 1)))
    return Results.of(journal.records), broke


def _play_all(plan: Plan, deployment: Deployment, jobs: int, journal: Journal, watcher: Watcher) -> None:
    stop = threading.Event()
    waiting = list(reversed(plan.cells))
    playing: dict[Future[None], _Slot] = {}
    with ThreadPoolExecutor(jobs, thread_name_prefix="cell") as pool:
        try:
            while waiting or playing:
                while waiting and len(playing) < jobs:
                    cell = waiting.pop()
                    watcher.cell(cell)
                    _open(cell, deployment, plan.seed, journal, watcher, stop, pool, playing)
                done, _ = wait(playing, timeout=BREATH_S, return_when=FIRST_COMPLETED)
                for future in done:
                    _close(playing.pop(future), future, jobs, journal)
        finally:
            stop.set()
            for slot in playing.values():  # their threads wait for children that end here
                slot.stack.close()


def _open(
    cell: Cell,
    deployment: Deployment,
    seed: int,
    journal: Journal,
    watcher: Watcher,
    stop: threading.Event,
    pool: ThreadPoolExecutor,
    playing: dict[Future[None], _Slot],
) -> None:
    def sink(record: Record) -> None:
        journal.write(record)
        if isinstance(record, Run):
            watcher.ran(cell, record)

    with contextlib.ExitStack() as stack:
        neighbours = stack.enter_context(Neighbours())
        stations = open_stations(cell, deployment, seed, stack)
        future = pool.submit(CellRun(cell, stations, sink, stop).run)
        playing[future] = _Slot(cell, stack.pop_all(), neighbours)


def _close(slot: _Slot, future: Future[None], jobs: int, journal: Journal) -> None:
    slot.stack.close()
    with contextlib.suppress(Interrupted):
        future.result()
        # Beside other cells of our own nobody can tell whose load it was.
        journal.write(CellEnd(slot.cell.key, round(slot.neighbours.share, 4) if jobs == 1 else None))


def _simulate_all(plan: Plan, journal: Journal, watcher: Watcher) -> None:
    """Afterwards, so that it takes no core from what is measured."""
    facts = {one.cell: one for one in journal.records if isinstance(one, CellFacts)}
    watcher.simulates(sum(len(predictable(cell)) * len(cell.units) for cell in plan.cells))
    for cell in plan.cells:
        runs = [record for record in journal.records if isinstance(record, Run) and record.cell == cell.key]
        for one in predictions(cell, facts[cell.key], runs):
            journal.write(one)
            watcher.predicted()
