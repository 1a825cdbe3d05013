"""`simulate fuzz`: seeded worlds with every fault on; a failure names the command that replays it."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import multiprocessing
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from shared.errors import UserError
from shared.sim import fuzz as worlds_of
from shared.sim.fuzz import WorldReport, run_world
from shared.sim.world import World

FAILED = 1
TAIL = 40
"""Lines of a failed world's trace that are printed."""
CHUNK = 50
"""Worlds that a worker process takes at once."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A world that showed a broken law, or a machine in a state that it excludes."""

    seed: int
    error: str
    trace: tuple[tuple[int, str], ...] = ()
    """The end of what happened: (virtual time in ns, what)."""

    def report(self) -> str:
        """What a reader needs to go on."""
        trace = [f"  {at / 1e6:12.3f} ms  {what}" for at, what in self.trace]
        tail = [f"the last {len(trace)} events:", *trace] if trace else []
        replay = f"replay: python -m scripts.simulate fuzz --seed {self.seed}"
        return "\n".join([*tail, f"world {self.seed} failed: {self.error}", replay])


def fuzz(
    *,
    seed: Annotated[
        int | None,
        typer.Option(help="Run this one world twice, compare its traces, show the end of a failure."),
    ] = None,
    worlds: Annotated[int, typer.Option(help="How many worlds.")] = 1000,
    first: Annotated[int, typer.Option(help="Seed of the first.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> int:
    """Seeded worlds with every fault on: the text is the target's own, and every session ends."""
    for name, value, least in (("worlds", worlds, 1), ("first", first, 0), ("jobs", jobs, 1)):
        if value < least:
            raise UserError(f"--{name} {value}: at least {least}")
    if seed is not None:
        if seed < 0:
            raise UserError(f"--seed {seed}: at least 0")
        outcome = replay(seed)
        print(outcome.report() if isinstance(outcome, Failure) else _line(outcome))
        return FAILED if isinstance(outcome, Failure) else 0
    return _sweep(first, worlds, jobs)


def replay(seed: int) -> WorldReport | Failure:
    """One world, run twice."""
    traces: list[list[tuple[int, str]]] = []
    for _ in range(2):
        world = worlds_of.make_world(seed)
        error = _run(world)
        if error is not None:
            return Failure(seed, error, tuple(world.trace[-TAIL:]))
        traces.append(world.trace)
    for index, (one, two) in enumerate(itertools.zip_longest(*traces)):
        if one != two:
            tail = tuple(traces[0][max(0, index - TAIL) : index + 1])
            return Failure(seed, f"two runs of one seed differ at event {index}: {one} and {two}", tail)
    return run_world(seed)


def _run(world: World) -> str | None:
    try:
        world.run()
    except Exception as error:  # noqa: BLE001 - whatever a machine raises is what was looked for
        return _describe(error)
    return None


def _describe(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"


def run_chunk(first: int, count: int) -> list[WorldReport] | Failure:
    """Worlds in a row, up to the first failure."""
    reports: list[WorldReport] = []
    for seed in range(first, first + count):
        try:
            reports.append(run_world(seed))
        except Exception as error:  # noqa: BLE001 - as above
            return Failure(seed, _describe(error))
    return reports


def _sweep(first: int, worlds: int, jobs: int) -> int:
    began = time.perf_counter()
    chunks = [(at, min(CHUNK, first + worlds - at)) for at in range(first, first + worlds, CHUNK)]
    digest, tokens, events, reconnects = hashlib.sha256(), 0, 0, 0
    for outcome in _chunks(chunks, jobs):
        if isinstance(outcome, Failure):
            print(outcome.report())
            return FAILED
        for report in outcome:
            digest.update(report.trace_hash.encode())
            tokens, events = tokens + report.tokens, events + report.events
            reconnects += report.reconnects
    seconds = time.perf_counter() - began
    print(
        f"{worlds} worlds from seed {first}: {tokens} tokens, {events} events, {events / seconds:.0f} events/s, "
        f"{reconnects} reconnects, trace {digest.hexdigest()[:16]}"
    )
    return 0


def _chunks(chunks: Sequence[tuple[int, int]], jobs: int) -> Iterator[list[WorldReport] | Failure]:
    if jobs == 1:
        for first, count in chunks:
            yield run_chunk(first, count)
        return
    # Spawned, not forked: nothing of this process leaks into a world.
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_chunk, first, count) for first, count in chunks]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _line(report: WorldReport) -> str:
    return (
        f"world {report.seed}, twice alike: {report.tokens} tokens, {report.events} events, "
        f"{report.reconnects} reconnects, trace {report.trace_hash}"
    )
