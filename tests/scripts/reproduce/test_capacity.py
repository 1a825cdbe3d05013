"""What one verifier serves: ratios, prices, and equal waiting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.bench_capacity.setting import Arm
from scripts.reproduce.capacity import QUICK as QUICK_SIZE
from scripts.reproduce.capacity import Prices, Served, Task, baseline, equals, ratios, serve, tasks, within


def served(arm, clients, rate, draft_ms=3.0):
    return Served(arm, clients, draft_ms, None, rate, 30.0, 30.0, 1.0)


def everybody(clients, cloud, si, paid, slipstream):
    rates = {Arm.CLOUD: cloud, Arm.COLOCATED: si, Arm.COLOCATED_PAID: paid, Arm.SLIPSTREAM: slipstream}
    return [served(arm, clients, rate) for arm, rate in rates.items()]


def test_a_baseline_that_drafting_slows_down_does_not_draft():
    found = baseline(
        [*everybody(1, 33, 70, 70, 100), *everybody(64, 2000, 1500, 900, 2100)], Arm.COLOCATED, 3.0
    )
    assert [one.arm for one in found] == [Arm.COLOCATED, Arm.CLOUD]


def test_ratios_and_prices():
    free, paid = ratios(everybody(10, 100, 200, 160, 400), Prices(verifier=5.0, edge=0.5))
    assert free.throughput == 2.0
    assert paid.throughput == 2.5
    assert free.itl == -0.5
    # Twice the tokens for twice the money, and for the same where edges are their users' own.
    assert free.cost_efficiency == pytest.approx(1.0)
    assert free.cost_efficiency_own == pytest.approx(2.0)
    assert free.most_for_edge == pytest.approx(0.5)
    at_most = Prices(verifier=5.0, edge=free.most_for_edge)
    assert ratios(everybody(10, 100, 200, 160, 400), at_most)[0].cost_efficiency == pytest.approx(1.0)


def test_so_many_clients_wait_no_longer():
    # 10 ms between tokens with 1 client, 20 ms with 11: 1 ms more for each.
    own = [served(Arm.SLIPSTREAM, 1, 100.0), served(Arm.SLIPSTREAM, 11, 550.0)]
    point = within(own, 15.0)
    assert (point.clients, point.most) == (6, False)
    assert point.tokens_per_s == pytest.approx(6 * 1000 / 15.0)
    assert within(own, 9.0) is None
    assert within(own, 50.0).most


def test_equal_waiting_is_more_clients():
    found = equals([*everybody(1, 33, 50, 50, 100), *everybody(20, 660, 600, 600, 1000)], Prices())
    same, shorter = (one for one in found if one.baseline is Arm.COLOCATED and one.limit_ms == 25.0)
    assert same.mine.clients > same.other.clients
    assert same.throughput == pytest.approx(same.mine.tokens_per_s / same.other.tokens_per_s)
    assert shorter.mine.clients <= same.mine.clients
    nobody = [one for one in found if one.other is None]
    assert all(one.throughput is None for one in nobody)


def test_drafting_for_many_costs_more_where_it_is_paid_for():
    free, paid, edges = (
        serve(Task(arm, 4, 6.0, 8)) for arm in (Arm.COLOCATED, Arm.COLOCATED_PAID, Arm.SLIPSTREAM)
    )
    assert paid.tokens_per_s < free.tokens_per_s < edges.tokens_per_s
    assert serve(replace(Task(Arm.COLOCATED, 4, 6.0, 8), clients=1)).tokens_per_s == pytest.approx(
        serve(Task(Arm.COLOCATED_PAID, 1, 6.0, 8)).tokens_per_s
    )


def test_the_cloud_alone_is_simulated_once_for_all_drafters():
    found = tasks(replace(QUICK_SIZE, drafts_ms=(3.0, 6.0)))
    assert sum(one.arm is Arm.CLOUD for one in found) == len(QUICK_SIZE.clients)
    assert sum(one.arm is Arm.SLIPSTREAM for one in found) == 2 * len(QUICK_SIZE.clients)
