"""From runs to figures: per cell and arm, each with its interval, compared with the baselines by unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scripts.bench_latency.arms import CLOUD, COLOCATED
from scripts.bench_latency.plan import Arm, Cell, Place, Unit
from scripts.bench_latency.records import CellFacts, Predicted, Results, Run
from scripts.bench_latency.statistic import Interval, interval, median, percentile_intervals, ratio
from scripts.bench_latency.timing import (
    HUNDREDTH,
    commit_gaps_ms,
    itl_ms,
    token_at_ms,
    tokens_per_s,
    tpot_ms,
    ttft_ms,
)
from scripts.demo.compare import first_difference

LATE_MS: Final = 150.0
"""A token that takes longer after its neighbour is felt."""

Spread = tuple[Interval | None, ...]
"""50th, 95th and 99th percentile."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A run whose text is not the reference's: what must not be."""

    cell: str
    arm: str
    prompt: int
    seed: int
    position: int
    """Index in the completion, from 0."""

    def describe(self) -> str:
        """For people."""
        return (
            f"{self.cell}: prompt {self.prompt}, seed {self.seed}: {self.arm} differs from the reference "
            f"at token {self.position}"
        )


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm in one cell. Times in ms; medians over units, percentiles over the tokens of all units."""

    cell: str
    arm: Arm
    lookahead: int | None
    units: int
    tokens: int
    ttft_ms: Interval | None
    """Of an arm on the server's host: with the link's round trip added."""
    tpot_ms: Interval | None
    tokens_per_s: Interval | None
    hundredth_ms: Interval | None
    """From the request to the 100th token, with the round trip where TTFT has it; None: texts are shorter."""
    itl_ms: Spread
    commit_gap_ms: Spread
    late_share: float | None
    """Share of inter-token times above `LATE_MS`."""
    acceptance: float | None
    mean_accepted: float | None
    """Per verify step."""
    facts_per_token: float | None
    """Evaluated in the cloud: what the text costs there."""
    steps_per_token: float | None
    link_up: float | None
    """Bytes per token that came out of the link; None: there is none."""
    link_down: float | None
    message_up: float | None
    """Bytes per token of serialized messages, without framing."""
    message_down: float | None
    to_reference: Interval | None
    """TPOT as a share of the cell's first arm's, paired by unit."""
    to_cloud: Interval | None
    """TPOT as a share of cloud alone's, paired by unit."""
    to_colocated: Interval | None
    """TPOT as a share of co-located SI's, paired by unit."""
    predicted_ms: float | None
    """The simulator's TPOT, told the overheads: median over units."""
    ideal_ms: float | None
    """The same, told the nominal pair and link."""
    error: float | None
    """Live / predicted - 1."""
    ideal_error: float | None
    identical: bool


@dataclass(frozen=True, slots=True)
class CellFigures:
    """One cell."""

    cell: Cell
    facts: CellFacts | None
    """None: it was interrupted before."""
    arms: tuple[ArmFigures, ...]
    """Those that have run at all."""
    neighbours: float | None

    def arm(self, key: str) -> ArmFigures | None:
        """By its key."""
        return next((one for one in self.arms if one.arm.key == key), None)


def figures(results: Results) -> tuple[CellFigures, ...]:
    """Of all cells that have begun."""
    facts = {one.cell: one for one in results.facts}
    ends = {one.cell: one.neighbours for one in results.cell_ends}
    wrong = {(one.cell, one.arm) for one in differences(results)}
    found = []
    for cell in results.header.plan.cells:
        runs = [run for run in results.runs if run.cell == cell.key]
        if not runs:
            continue
        predicted = [one for one in results.predicted if one.cell == cell.key]
        by_arm = {arm.key: [run for run in runs if run.arm == arm.key] for arm in cell.arms}
        arms = tuple(
            _arm_figures(cell, arm, by_arm, facts.get(cell.key), predicted, (cell.key, arm.key) not in wrong)
            for arm in cell.arms
            if by_arm[arm.key]
        )
        found.append(CellFigures(cell, facts.get(cell.key), arms, ends.get(cell.key)))
    return tuple(found)


def differences(results: Results) -> list[Difference]:
    """Every run whose tokens are not those of its cell's reference arm for the same unit."""
    found = []
    for cell in results.header.plan.cells:
        runs = [run for run in results.runs if run.cell == cell.key]
        expected = {_unit(run): run.tokens for run in runs if run.arm == cell.reference.key}
        for run in runs:
            if _unit(run) not in expected:
                continue  # interrupted before the reference had its turn
            position = first_difference(expected[_unit(run)], run.tokens)
            if position is not None:
                found.append(Difference(cell.key, run.arm, run.prompt, run.seed, position))
    return found


def paired(mine: Sequence[Run], others: Sequence[Run], figure: Callable[[Run], float | None]) -> list[float]:
    """`figure` of mine by the other's, for each unit that both have."""
    theirs = {_unit(run): figure(run) for run in others}
    ratios = []
    for run in mine:
        own, other = figure(run), theirs.get(_unit(run))
        if own is not None and other:
            ratios.append(own / other)
    return ratios


def _arm_figures(
    cell: Cell,
    arm: Arm,
    by_arm: Mapping[str, Sequence[Run]],
    facts: CellFacts | None,
    predicted: Sequence[Predicted],
    identical: bool,
) -> ArmFigures:
    runs = by_arm[arm.key]
    added = 0.0 if arm.place is Place.EDGE else cell.link.rtt_ms
    tpot = interval(runs, lambda some: median([_tpot(run) for run in some]))
    told = [one for one in predicted if one.arm == arm.key]
    believed, ideal = median([one.tpot_ms for one in told]), median([one.ideal_ms for one in told])
    lookaheads = facts.lookaheads if facts is not None else ()
    gaps = [gap for run in runs for gap in itl_ms(run.commits)]
    return ArmFigures(
        cell=cell.key,
        arm=arm,
        lookahead=next((one.chosen for one in lookaheads if one.arm == arm.key), None),
        units=len(runs),
        tokens=sum(len(run.tokens) for run in runs),
        ttft_ms=interval(runs, lambda some: median([_later(ttft_ms(run.commits), added) for run in some])),
        tpot_ms=tpot,
        tokens_per_s=interval(runs, lambda some: median([tokens_per_s(run) for run in some])),
        hundredth_ms=interval(
            runs, lambda some: median([_later(token_at_ms(run.commits, HUNDREDTH), added) for run in some])
        ),
        itl_ms=_spread(runs, lambda run: itl_ms(run.commits)),
        commit_gap_ms=_spread(runs, lambda run: commit_gaps_ms(run.commits)),
        late_share=ratio(sum(gap > LATE_MS for gap in gaps), len(gaps)),
        to_reference=_compared(runs, by_arm[cell.reference.key]),
        to_cloud=_compared(runs, by_arm.get(CLOUD.key, ())),
        to_colocated=_compared(runs, by_arm.get(COLOCATED.key, ())),
        predicted_ms=believed,
        ideal_ms=ideal,
        error=_error(tpot, believed),
        ideal_error=_error(tpot, ideal),
        identical=identical,
        **_costs(runs),
    )


def _costs(runs: Sequence[Run]) -> dict[str, float | None]:
    """What does not depend on the clock: over all tokens of all units."""
    tokens = sum(len(run.tokens) for run in runs)
    known = [run.stats for run in runs if run.stats is not None]
    linked = [run for run in runs if run.link_bytes_up is not None]
    if not known:
        names = ("acceptance", "mean_accepted", "facts_per_token", "steps_per_token")
        names += ("link_up", "link_down", "message_up", "message_down")  # type: ignore[assignment]
        return dict.fromkeys(names)
    steps = sum(stats.steps for stats in known)
    accepted = sum((stats.mean_accepted or 0.0) * stats.steps for stats in known)
    rates = [(run.stats.acceptance_rate, len(run.tokens)) for run in runs if run.stats is not None]
    weighed = [(rate, count) for rate, count in rates if rate is not None]
    return {
        "acceptance": ratio(sum(rate * count for rate, count in weighed), sum(count for _, count in weighed)),
        "mean_accepted": ratio(accepted, steps),
        "facts_per_token": ratio(sum(stats.verified for stats in known), tokens),
        "steps_per_token": ratio(steps, tokens),
        "link_up": ratio(sum(run.link_bytes_up or 0 for run in linked), tokens) if linked else None,
        "link_down": ratio(sum(run.link_bytes_down or 0 for run in linked), tokens) if linked else None,
        "message_up": ratio(sum(stats.bytes_up for stats in known), tokens),
        "message_down": ratio(sum(stats.bytes_down for stats in known), tokens),
    }


def _spread(runs: Sequence[Run], values: Callable[[Run], list[float]]) -> Spread:
    """Percentiles over all values, resampled by whole runs."""
    return percentile_intervals([values(run) for run in runs], (50.0, 95.0, 99.0))


def _compared(runs: Sequence[Run], others: Sequence[Run]) -> Interval | None:
    return interval(paired(runs, others, _tpot), median)


def _tpot(run: Run) -> float | None:
    return tpot_ms(run.commits)


def _unit(run: Run) -> Unit:
    return Unit(run.prompt, run.seed)


def _later(at: float | None, by: float) -> float | None:
    return None if at is None else at + by


def _error(live: Interval | None, predicted: float | None) -> float | None:
    return None if live is None or not predicted else live.value / predicted - 1.0
