"""The figures of a run, from records written by hand."""

from __future__ import annotations

import dataclasses
import json
from array import array

import pytest

from shared.sim.deployment import (
    Counts,
    DeploymentRecord,
    Ending,
    GenerationRecord,
    Spread,
    WorkerRecord,
    figures_of,
)
from tests.shared.sim.deployment.small import mean

MS = 1_000_000


def generation(
    started: float, *commits: tuple[float, int], ending: Ending = Ending.DONE, group: str = "a", user: int = 0
) -> GenerationRecord:
    """Commits are (ms, tokens); each token costs a step and two facts."""
    tokens = sum(size for _, size in commits)
    return GenerationRecord(
        user=user,
        visit=0,
        group=group,
        started=round(started * MS),
        ended=round((commits[-1][0] if commits else started) * MS),
        ending=ending,
        refusals=0,
        times=array("q", [round(at * MS) for at, _ in commits]),
        sizes=array("I", [size for _, size in commits]),
        counts=Counts(
            judged=tokens, accepted=tokens // 2, facts=2 * tokens, steps=tokens, bytes_up=10 * tokens
        ),
    )


def record(*generations: GenerationRecord, warm_up: float = 0.0, workers: tuple[WorkerRecord, ...] = ()):
    groups = tuple(dict.fromkeys(one.group for one in generations))
    return DeploymentRecord(1000 * MS, round(warm_up * MS), generations, workers, groups, 7, 1, "hash")


def test_tokens_that_come_together_are_nothing_apart():
    found = figures_of(record(generation(0.0, (100.0, 1), (130.0, 3), (150.0, 1)))).total
    assert found.tokens == 5
    assert found.tokens_per_s == 5.0
    assert found.ttft_ms == Spread(100.0, 100.0, 100.0, 100.0)
    assert mean(found.tpot_ms) == 50.0 / 4
    # Gaps: 30, 0, 0, 20.
    assert found.itl_ms == Spread(12.5, 20.0, 30.0, 30.0)
    assert mean(found.user_tokens_per_s) == pytest.approx(5 / 0.150)


def test_a_gap_ends_with_its_generation():
    found = figures_of(record(generation(0.0, (10.0, 1)), generation(500.0, (520.0, 1)))).total
    assert found.itl_ms is None
    assert found.tpot_ms is None
    assert mean(found.ttft_ms) == 15.0


def test_what_came_before_the_warm_up_ended_does_not_count():
    early = generation(0.0, (100.0, 1), (200.0, 2), (600.0, 2), (640.0, 1))
    found = figures_of(record(early, warm_up=500.0)).total
    assert found.tokens == 3
    assert found.tokens_per_s == 6.0
    assert found.ttft_ms is None
    assert found.tpot_ms is None
    # 400 up to the first of them, 0 and 40.
    assert mean(found.itl_ms) == pytest.approx(440 / 3)
    gone = generation(0.0, (100.0, 1), (200.0, 2))
    assert figures_of(record(gone, warm_up=500.0)).total.generations == 0


def test_ratios_are_of_sums():
    one, two = generation(0.0, (100.0, 4)), generation(0.0, (100.0, 1), ending=Ending.CUT, user=1)
    found = figures_of(record(one, two)).total
    assert found.acceptance_rate == 2 / 5
    assert found.accepted_per_step == 2 / 5
    assert found.facts_per_token == 2.0
    assert found.bytes_per_token_up == 10.0
    assert (found.users, found.generations, found.unfinished) == (2, 1, 1)


def test_groups_are_counted_apart():
    found = figures_of(record(generation(0.0, (100.0, 4)), generation(0.0, (200.0, 1), group="b")))
    assert list(found.groups) == ["a", "b"]
    assert [one.tokens for one in found.groups.values()] == [4, 1]
    assert found.groups["b"].ttft_ms == Spread(200.0, 200.0, 200.0, 200.0)


def test_nothing_measured_is_none_and_no_number():
    found = figures_of(record(generation(0.0, ending=Ending.REFUSED))).total
    assert (found.ttft_ms, found.tpot_ms, found.itl_ms, found.user_tokens_per_s) == (None,) * 4
    assert (found.tokens, found.refused, found.facts_per_token) == (0, 1, 0.0)


def test_utilisation_is_of_the_time_that_workers_were_there():
    workers = (
        WorkerRecord(0, 0, "gpu", 1000 * MS, 500 * MS, 50, 200, 150),
        WorkerRecord(0, 1, "gpu", 250 * MS, 250 * MS, 25, 25, 25),
    )
    found = figures_of(record(generation(0.0, (100.0, 5)), workers=workers))
    assert [one.busy_share for one in found.workers] == [0.5, 1.0]
    assert [one.nodes_per_step for one in found.workers] == [4.0, 1.0]
    assert found.utilisation == 750 / 1250
    assert found.facts_per_token == 35.0


def test_percentiles_are_values_that_were_measured():
    """As in the fleet's prediction: the smallest value that so many of them do not exceed."""
    gaps = [generation(0.0, (5.0, 1), (5.0 + gap, 1)) for gap in range(100)]
    found = figures_of(record(*gaps)).total.itl_ms
    assert found == Spread(49.5, 50.0, 95.0, 99.0)


def test_figures_are_a_json_document():
    figures = figures_of(record(generation(0.0, (100.0, 1), (130.0, 3))))
    assert json.loads(json.dumps(dataclasses.asdict(figures)))["total"]["tokens"] == 4
