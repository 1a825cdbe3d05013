from __future__ import annotations

import dataclasses
from array import array
from pathlib import Path

import pytest

from scripts.simulate.load import load
from scripts.simulate.outcome import outcome_of, simulate
from shared.sim.deployment.record import Counts, DeploymentRecord, Ending, GenerationRecord, WorkerRecord

TINY = Path(__file__).with_name("tiny.yaml")
S = 1_000_000_000
MS = 1_000_000


def generation(started, times, ending=Ending.DONE, ended=None, **counts) -> GenerationRecord:
    """One token in each commit; times in ms."""
    at = [time * MS for time in times]
    end = ended * MS if ended is not None else at[-1]
    kept = Counts(**counts)
    sizes = array("I", [1] * len(at))
    return GenerationRecord(0, 0, "phones", started * MS, end, ending, 0, array("q", at), sizes, kept)


def record(*generations: GenerationRecord, workers=()) -> DeploymentRecord:
    return DeploymentRecord(5 * S, 1 * S, generations, tuple(workers), ("phones",), 0, 0, "0")


def worker(kind: str, present_s: float, busy_s: float) -> WorkerRecord:
    return WorkerRecord(0, 1, kind, round(present_s * S), round(busy_s * S), 10, 10, 10)


def scenario(**overrides):
    return load(TINY, overrides)


def test_costs_are_of_the_time_that_workers_were_there_of_energy_and_of_traffic():
    workers = [worker("cloud/big", 4.0, 1.0), worker("cloud/small", 2.0, 2.0)]
    one = generation(1000, [1100, 1200], drafting_ns=2 * S, bytes_up=3_000_000, bytes_down=1_000_000)
    found = outcome_of(scenario(), record(one, workers=workers))
    assert found.cost is not None
    assert found.energy is not None
    assert found.cost.workers == pytest.approx((4 * 2.0 + 2 * 0.5) / 3600)
    # Of the small one nothing is known, so nothing is counted.
    assert found.energy.workers == pytest.approx(1.0 * 100 + 3.0 * 20)
    assert found.energy.drafters == pytest.approx(2.0 * 10)
    assert found.cost.energy == pytest.approx((160 + 20) / 3.6e6 * 0.3)
    assert found.cost.traffic == pytest.approx(0.004 * 0.1)
    assert found.cost.per_hour == pytest.approx(found.cost.total * 3600 / 4)
    assert found.cost.per_million_tokens == pytest.approx(found.cost.total * 1e6 / 2)
    assert found.energy.per_token == pytest.approx(90)


def test_without_prices_and_watts_there_are_no_costs_and_no_energy():
    bare = {
        "servers[0].workers": [{"name": "big", "hardware": {"step_ms": 30}}],
        "fleets[0].drafter.watts": None,
    }
    found = outcome_of(
        scenario(**bare), record(generation(1000, [1100, 1200]), workers=[worker("cloud/big", 4, 1)])
    )
    assert (found.cost, found.energy) == (None, None)
    assert found.document()["cost"] is None


@pytest.mark.parametrize(
    ("ones", "tpot", "ttft"),
    [
        ([generation(1000, [1300, 1340])], 1.0, 1.0),
        ([generation(1000, [1301, 1341])], 1.0, 0.0),
        ([generation(1000, [1300, 1341])], 0.0, 1.0),
        ([generation(1000, [1300, 1340]), generation(1000, [], Ending.REFUSED, 1000)], 0.5, 0.5),
        # What is cut has not failed yet; but who still waits for a first token past the limit has waited too long.
        ([generation(4900, [], Ending.CUT, 5000), generation(1000, [1300, 1340])], 1.0, 1.0),
        ([generation(4600, [], Ending.CUT, 5000), generation(1000, [1300, 1340])], 1.0, 0.5),
        # Before the warm-up nothing counts, and of nothing no limit was shown to be kept.
        ([generation(900, [1300, 1340])], None, None),
    ],
)
def test_limits_are_kept_by_a_share_of_generations(ones, tpot, ttft):
    found = outcome_of(scenario(), record(*ones))
    assert [one.share for one in found.slo] == [tpot, ttft]
    assert [one.met for one in found.slo] == [
        tpot is not None and tpot >= 0.9,
        ttft is not None and ttft >= 0.95,
    ]


def test_the_limit_of_gaps_is_kept_by_a_share_of_gaps():
    slo = [{"itl_ms": 40, "share": 0.5}, {"itl_ms": 40, "fleet": "phones", "share": 0.7}]
    found = outcome_of(scenario(slo=slo), record(generation(900, [990, 1040, 1080, 1130, 1131])))
    assert [one.share for one in found.slo] == [0.5, 0.5]  # 50, 40, 50 and 1 ms; the first token came before
    assert [one.met for one in found.slo] == [True, False]
    assert not found.met


def test_a_run_costs_what_its_own_figures_say():
    record_, found = simulate(scenario())
    assert found.cost is not None
    assert found.energy is not None
    assert found.cost.workers == pytest.approx((2 * 2.0 + 0.5) * 3 / 3600)
    assert found.energy.drafters == pytest.approx(
        sum(one.counts.drafting_ns for one in record_.generations) / 1e8
    )
    assert found.figures.total.tokens > 100
    assert found == dataclasses.replace(simulate(scenario())[1])
