"""Who asks for what, and when: the users of a fleet, each a function of the seed, the fleet and its number alone."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from scripts.simulate.recorded import Lengths, read_arrivals, read_lengths
from scripts.simulate.schema import Scenario, Workload
from scripts.simulate.schema_draws import Spread
from scripts.simulate.schema_fleets import ClosedLoop, Fleet, Poisson, RecordedArrivals, Steady
from shared.profiled import mix
from shared.sim.deployment.plan import Loop, Visit
from shared.sim.random import Keyed

MS_PER_S: Final = 1000.0
GRID: Final = 1024
"""Values by which a distribution is told where its own draws do not do."""
Waits = Callable[[int], Iterator[float]]
"""For an edge of the fleet, the milliseconds before each of its visits."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How the edges of one fleet ask."""

    loop: Loop
    start_ms: Callable[[int], float]
    """By the edge's number in its fleet."""
    waits: Waits


def asking_of(fleet: Fleet, seed: int) -> Asking:
    """When the edges of a fleet ask; see `UserPlan.start_ms` and `Visit.wait_ms`."""
    arrivals = fleet.arrivals
    match arrivals:
        case ClosedLoop():
            ramp_ms, begun = arrivals.ramp_s * MS_PER_S, _in_progress(arrivals.think_s)
            return Asking(
                Loop.CLOSED,
                lambda edge: ramp_ms * edge / fleet.count,
                lambda edge: _thinking(arrivals.think_s, begun, Keyed(seed, "think", fleet.name, edge)),
            )
        case Poisson():
            gaps_ms = MS_PER_S * fleet.count / arrivals.per_s
            return Asking(
                Loop.OPEN, _at_once, lambda edge: _poisson(gaps_ms, Keyed(seed, "arrivals", fleet.name, edge))
            )
        case Steady():
            gap_ms = MS_PER_S / arrivals.per_s
            each_ms = gap_ms * fleet.count
            return Asking(Loop.OPEN, lambda edge: gap_ms * edge, lambda _: _steady(each_ms))
        case RecordedArrivals():
            times = read_arrivals(arrivals.file)
            return Asking(Loop.OPEN, _at_once, lambda edge: _recorded(times[edge :: fleet.count]))


def visits_of(
    scenario: Scenario, fleet: Fleet, edge: int, waits: Waits, lengths: Callable[[Keyed], Lengths], seed: int
) -> Iterator[Visit]:
    """What the user of one edge asks for, one after the other."""
    random = Keyed(seed, "lengths", fleet.name, edge)
    state = mix(Keyed(seed, "prompts", fleet.name, edge).integer(0, 2**62))
    vocabulary = scenario.target.vocabulary_size
    for number, wait_ms in enumerate(waits(edge)):
        asked = lengths(random)
        # Counter-based: a token costs two multiplications, and prompts are most of what is drawn.
        begin = mix(state ^ number)
        yield Visit(wait_ms, tuple(mix(begin + at) % vocabulary for at in range(asked.prompt)), asked.output)


def lengths_of(workload: Workload) -> Callable[[Keyed], Lengths]:
    """Draws the lengths of one generation."""
    if workload.file is not None:
        rows = read_lengths(workload.file)
        return lambda random: random.choice(rows)
    prompt, output = workload.prompt_tokens, workload.output_tokens
    if prompt is None or output is None:
        raise AssertionError("a workload without a file has both spreads")
    return lambda random: Lengths(round(prompt.at(random.uniform())), round(output.at(random.uniform())))


def _thinking(spread: Spread, begun: Callable[[float], float], random: Keyed) -> Iterator[float]:
    """Whoever is there at the beginning has thought for a while already."""
    yield random.uniform() * begun(random.uniform()) * MS_PER_S
    while True:
        yield spread.at(random.uniform()) * MS_PER_S


def _in_progress(spread: Spread) -> Callable[[float], float]:
    """How long what is in progress at some moment takes in all, for a draw in 0..1: the longer, the likelier it is met.

    Otherwise a run would begin with a rush: of those who think for very different times, it would be the short ones'.
    """
    values = [spread.at((place + 0.5) / GRID) for place in range(GRID)]
    sums = list(itertools.accumulate(values))
    return lambda draw: values[min(bisect.bisect_right(sums, draw * sums[-1]), GRID - 1)]


def _poisson(mean_ms: float, random: Keyed) -> Iterator[float]:
    while True:
        yield -mean_ms * math.log1p(-random.uniform())


def _steady(gap_ms: float) -> Iterator[float]:
    yield 0.0
    while True:
        yield gap_ms


def _recorded(times: tuple[float, ...]) -> Iterator[float]:
    for before, after in itertools.pairwise((0.0, *times)):
        yield (after - before) * MS_PER_S


def _at_once(_edge: int) -> float:
    return 0.0
