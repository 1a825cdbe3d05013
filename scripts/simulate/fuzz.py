"""`simulate fuzz`: seeded worlds with every fault on. A failure is made small and written down, to be replayed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from scripts.parallel import spread
from scripts.simulate.fuzz_file import Case, describe, read_case, write_case
from shared.errors import UserError
from shared.sim import fuzz as worlds_of
from shared.sim import shrink as shrinking
from shared.sim.cuts import NO_CUTS
from shared.sim.fuzz import WorldReport, run_world
from shared.sim.shrink import Trouble, run

COMMAND = "python -m scripts.simulate fuzz"
FAILED = 1
TAIL = 40
"""Lines of a failed world's trace that are printed."""
CHUNK = 50
"""Worlds that a worker process takes at once."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A world that showed a broken law, or a machine in a state that it excludes."""

    seed: int
    trouble: Trouble


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is done with a failure."""

    shrinks: bool = True
    save: Path | None = None
    """File, or folder for files named after seeds; None: the current folder."""

    def path(self, seed: int) -> Path:
        """Where the failing world of a seed is written."""
        name = f"fuzz-{seed}.json"
        if self.save is None:
            return Path(name)
        return self.save / name if self.save.is_dir() else self.save


def fuzz(
    *,
    seed: Annotated[
        int | None,
        typer.Option(help="Run this one world twice, compare its traces, show the end of a failure."),
    ] = None,
    worlds: Annotated[int, typer.Option(help="How many worlds.")] = 1000,
    first: Annotated[int, typer.Option(help="Seed of the first.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    shrink: Annotated[bool, typer.Option(help="Make a failing world small.")] = True,
    save: Annotated[
        Path | None, typer.Option(help="File or folder for a failing world. [fuzz-SEED.json here]")
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="Run the failing world of this file once more.")] = None,
) -> int:
    """Seeded worlds with every fault on: the text is the target's own, and every session ends."""
    for name, value, least in (("worlds", worlds, 1), ("first", first, 0), ("jobs", jobs, 1)):
        if value < least:
            raise UserError(f"--{name} {value}: at least {least}")
    keeping = Keeping(shrink, save)
    if replay is not None:
        if seed is not None:
            raise UserError("--replay and --seed: one of them")
        return _replay(replay)
    if seed is not None:
        if seed < 0:
            raise UserError(f"--seed {seed}: at least 0")
        return _twice(seed, keeping)
    return _sweep(first, worlds, jobs, keeping)


# ---- one world ----


def _twice(seed: int, keeping: Keeping) -> int:
    """One world, run twice."""
    traces: list[list[tuple[int, str]]] = []
    for _ in range(2):
        world = worlds_of.make_world(seed)
        trouble = run(world)
        if trouble is not None:
            return _failed(Failure(seed, trouble), keeping)
        traces.append(world.trace)
    for index, (one, two) in enumerate(itertools.zip_longest(*traces)):
        if one != two:
            _show(traces[0][max(0, index - TAIL) : index + 1])
            print(f"world {seed} failed: two runs of one seed differ at event {index}: {one} and {two}")
            print(f"replay: {COMMAND} --seed {seed}")
            return FAILED
    report = run_world(seed)
    print(f"world {seed}, twice alike: {_what(report)}")
    return 0


def _replay(path: Path) -> int:
    """The world of a file; what goes wrong in it is shown and compared with what went wrong when it was written."""
    case = read_case(path)
    world = worlds_of.make_world(case.seed, case.cuts)
    trouble = run(world)
    print(f"world {case.seed}: {describe(case.seed, case.cuts)}")
    if trouble is None:
        print(f"does not fail: {_what(run_world(case.seed, case.cuts))}; it once did: {case.trouble}")
        return 0
    _show(world.trace[-TAIL:])
    same = trouble.like(case.trouble)
    print(f"fails {'as it did' if same else 'otherwise'}: {trouble}")
    if not same:
        print(f"it once failed: {case.trouble}")
    return FAILED


def _failed(failure: Failure, keeping: Keeping) -> int:
    """Shrink, write down, and say what a reader needs to go on."""
    seed, trouble, cuts, tries = failure.seed, failure.trouble, NO_CUTS, 0
    if keeping.shrinks:
        found = shrinking.shrink(seed, trouble)
        trouble, cuts, tries = found.trouble, found.cuts, found.tries
    world = worlds_of.make_world(seed, cuts)
    run(world)
    _show(world.trace[-TAIL:])
    print(f"world {seed} failed: {failure.trouble}")
    if cuts != NO_CUTS:
        print(f"made smaller in {tries} tries, {describe(seed, cuts)}: {trouble}")
    print(f"replay: {COMMAND} {_written(Case(seed, cuts, trouble), keeping)}")
    return FAILED


def _written(case: Case, keeping: Keeping) -> str:
    """The options that replay a failure, after it has been written down."""
    path = keeping.path(case.seed)
    try:
        write_case(case, path)
    except OSError as error:
        print(f"not written to {path}: {error.strerror}")
        return f"--seed {case.seed}"
    print(f"written to {path}")
    return f"--replay {shlex.quote(str(path))}"


def _show(trace: list[tuple[int, str]]) -> None:
    if trace:
        print(f"the last {len(trace)} events:")
    for at, what in trace:
        print(f"  {at / 1e6:12.3f} ms  {what}")


def _what(report: WorldReport) -> str:
    return (
        f"{report.tokens} tokens, {report.events} events, {report.reconnects} reconnects, "
        f"trace {report.trace_hash}"
    )


# ---- many worlds ----


def run_chunk(chunk: range) -> list[WorldReport] | Failure:
    """Worlds in a row, up to the first failure."""
    reports: list[WorldReport] = []
    for seed in chunk:
        try:
            reports.append(run_world(seed))
        except Exception as error:  # noqa: BLE001 - whatever a machine raises is what was looked for
            return Failure(seed, Trouble.of(error))
    return reports


def _sweep(first: int, worlds: int, jobs: int, keeping: Keeping) -> int:
    began = time.perf_counter()
    seeds = range(first, first + worlds)
    chunks = [seeds[at : at + CHUNK] for at in range(0, worlds, CHUNK)]
    digest, tokens, events, reconnects = hashlib.sha256(), 0, 0, 0
    failure: Failure | None = None
    with contextlib.closing(spread(run_chunk, chunks, jobs)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                failure = outcome
                break
            for report in outcome:
                digest.update(report.trace_hash.encode())
                tokens, events = tokens + report.tokens, events + report.events
                reconnects += report.reconnects
    if failure is not None:
        return _failed(failure, keeping)
    seconds = time.perf_counter() - began
    print(
        f"{worlds} worlds from seed {first}: {tokens} tokens, {events} events, {worlds / seconds:.1f} worlds/s, "
        f"{events / seconds:.0f} events/s, {reconnects} reconnects, trace {digest.hexdigest()[:16]}"
    )
    return 0
