"""From runs to the table: what each arm takes per token, and how many times as fast one is as another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scripts.bench_dsi.counting import best_si_ms, recounted_ms, si_tpot_ms
from scripts.bench_dsi.plan import ALONE, ARMS, CHAIN, POLICY, SI
from scripts.bench_dsi.rows import BY_KEY, PAPER_LOOKAHEADS, Row
from scripts.bench_latency.figures import differences
from scripts.bench_latency.plan import Cell, Unit
from scripts.bench_latency.records import CellFacts, Results, Run
from scripts.bench_latency.statistic import Interval, interval
from scripts.bench_latency.timing import tpot_ms
from shared.profiled import Profile

CHAIN_SHARE: Final = 0.96
"""Of the prototype's figure, that a chain must reach on each row."""
GEOMETRIC_MEAN: Final = 1.33
"""That the policy's choice must reach over SI."""


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm in one row; ms per token, the mean over all texts."""

    tpot_ms: Interval
    predicted_ms: float | None
    """By the simulator, told what the runtime adds; None: it was interrupted before."""
    ideal_ms: float | None
    """By the simulator, of the nominal pair alone."""

    @property
    def error(self) -> float | None:
        """Live / predicted - 1."""
        return None if not self.predicted_ms else self.tpot_ms.value / self.predicted_ms - 1.0


@dataclass(frozen=True, slots=True)
class RowFigures:
    """One row. Factors are how many times as fast, over the texts that both arms wrote."""

    row: Row
    pair: Profile
    texts: int
    tokens: int
    """Of each arm."""
    lookahead: int
    """Of SI."""
    arms: Mapping[str, ArmFigures]
    """By the arm's key."""
    chain_over_si: Interval
    policy_over_si: Interval
    policy_over_chain: Interval
    policy_over_alone: Interval
    chain_over_alone: Interval
    formula_ms: float
    """SI at this lookahead by its formula, told what the runtime adds."""
    recounted: Interval
    """Chain over SI, where SI's live runs are counted as the paper counts."""
    paper: float
    """Chain over SI by the formula, counted as the paper counts and at the best of its lookaheads."""
    paper_lookahead: int
    identical: bool


@dataclass(frozen=True, slots=True)
class Aim:
    """Something that must hold."""

    text: str
    measured: str
    met: bool | None
    """None: it cannot be judged, since rows are missing."""


def figures(results: Results) -> tuple[RowFigures, ...]:
    """Of the rows in which every arm has written something, in the table's order."""
    facts = {one.cell: one for one in results.facts}
    wrong = {one.cell for one in differences(results)}
    found = []
    for cell in results.header.plan.cells:
        runs = {
            arm.key: [run for run in results.runs if (run.cell, run.arm) == (cell.key, arm.key)]
            for arm in ARMS
        }
        if cell.key in facts and all(runs.values()):
            found.append(_row(cell, facts[cell.key], runs, results, cell.key not in wrong))
    return tuple(sorted(found, key=lambda one: one.row.number))


def aims(rows: Sequence[RowFigures], *, expected: int) -> list[Aim]:
    """What must hold; `expected` rows are to be there."""
    complete = len(rows) == expected
    low = [one for one in rows if one.chain_over_si.value < CHAIN_SHARE * one.row.prototype]
    slow = [one for one in rows if min(one.policy_over_alone.value, one.chain_over_alone.value) < 1.0]
    mean = geometric_mean([one.policy_over_si.value for one in rows]) if rows else None
    least = min((one.policy_over_alone.value for one in rows), default=None)
    return [
        Aim(
            "all texts are the same",
            _numbers([one for one in rows if not one.identical]),
            _all(rows, complete),
        ),
        Aim(
            f"DSI's chain over SI: at least {CHAIN_SHARE} of the prototype's on each row",
            _numbers(low),
            False if low else True if complete else None,
        ),
        Aim(
            f"the policy's choice over SI: geometric mean at least {GEOMETRIC_MEAN}",
            "-" if mean is None else f"{mean:.3f}",
            None if mean is None or not complete else mean >= GEOMETRIC_MEAN,
        ),
        Aim(
            "neither is slower than the cloud alone on any row",
            _numbers(slow) if slow or least is None else f"at least {least:.2f} times as fast",
            False if slow else True if complete else None,
        ),
    ]


def geometric_mean(factors: Sequence[float]) -> float:
    """Of at least one positive factor."""
    return math.exp(statistics.fmean(math.log(factor) for factor in factors))


def times_as_fast(
    mine: Sequence[Run],
    others: Sequence[Run],
    others_ms: Callable[[Run], float | None] | None = None,
) -> Interval:
    """How many times as fast mine are: the others' time (TPOT, or `others_ms`) by mine, over the texts that both wrote.

    Times are added up before they are divided: the mean of few ratios would lean towards the texts that vary most.

    Raises:
        ValueError: no text was written by both.
    """
    theirs = {_unit(run): (others_ms or _tpot)(run) for run in others}
    pairs = [(_tpot(run), theirs.get(_unit(run))) for run in mine]
    known = [(own, other) for own, other in pairs if own and other]
    found = interval(known, lambda some: sum(other for _, other in some) / sum(own for own, _ in some))
    if found is None:
        raise ValueError("no text was written by both arms")
    return found


def _row(
    cell: Cell, facts: CellFacts, runs: Mapping[str, Sequence[Run]], results: Results, identical: bool
) -> RowFigures:
    row, told = BY_KEY[cell.key], facts.believed
    alone, si, chain, policy = (runs[arm.key] for arm in (ALONE, SI, CHAIN, POLICY))
    lookahead = next(one.chosen for one in facts.lookaheads if one.arm == SI.key)
    paper_lookahead, paper_ms = best_si_ms(told, PAPER_LOOKAHEADS, as_paper=True)
    measured = {key: _arm(cell, key, some, results) for key, some in runs.items()}
    return RowFigures(
        row=row,
        pair=cell.pair.profile or told,
        texts=len(policy),
        tokens=sum(len(run.tokens) for run in policy),
        lookahead=lookahead,
        arms=measured,
        chain_over_si=times_as_fast(chain, si),
        policy_over_si=times_as_fast(policy, si),
        policy_over_chain=times_as_fast(policy, chain),
        policy_over_alone=times_as_fast(policy, alone),
        chain_over_alone=times_as_fast(chain, alone),
        formula_ms=si_tpot_ms(told, lookahead),
        recounted=times_as_fast(chain, si, lambda run: recounted_ms(run.commits, lookahead, told.step_ms)),
        paper=paper_ms / measured[CHAIN.key].tpot_ms.value,
        paper_lookahead=paper_lookahead,
        identical=identical,
    )


def _arm(cell: Cell, key: str, runs: Sequence[Run], results: Results) -> ArmFigures:
    timed = [one for run in runs if (one := _tpot(run)) is not None]
    tpot = interval(timed, statistics.fmean)
    if tpot is None:
        raise ValueError(f"{cell.key}: {key} wrote no two tokens")
    predicted = [one for one in results.predicted if (one.cell, one.arm) == (cell.key, key)]
    ideal = [one.ideal_ms for one in predicted if one.ideal_ms is not None]
    return ArmFigures(
        tpot,
        statistics.fmean(one.tpot_ms for one in predicted) if predicted else None,
        statistics.fmean(ideal) if ideal else None,
    )


def _all(rows: Sequence[RowFigures], complete: bool) -> bool | None:
    if any(not one.identical for one in rows):
        return False
    return True if complete else None


def _numbers(rows: Sequence[RowFigures]) -> str:
    if not rows:
        return "all rows"
    return "not row " + ", ".join(str(one.row.number) for one in rows)


def _tpot(run: Run) -> float | None:
    return tpot_ms(run.commits)


def _unit(run: Run) -> Unit:
    return Unit(run.prompt, run.seed)
