"""DSI's theorems and bound, on a few cells; and that the checks can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.reproduce.checks import check
from scripts.reproduce.dsi import (
    QUICK,
    CellTask,
    cell,
    cell_tasks,
    lookahead_for,
    row,
    row_tasks,
    servers_for,
)
from scripts.reproduce.dsi_checks import theorems
from scripts.reproduce.interruptible import CHAIN, text_ms
from scripts.reproduce.texts import hits
from shared.profiled import Profile

PAIR = Profile(acceptance=0.8, step_ms=100.0, draft_ms=20.0, iid=True)


def test_the_rule_for_servers():
    assert servers_for(PAIR, 1) == 5
    assert servers_for(PAIR, 2) == 3
    assert servers_for(replace(PAIR, draft_ms=100.0), 1) == 1
    assert servers_for(replace(PAIR, draft_ms=1.0), 1) == 100  # and not 101, whatever floats make of 100 / 1
    assert lookahead_for(PAIR, 7) == 1
    assert lookahead_for(replace(PAIR, draft_ms=1.0), 7) == 15
    for lookahead in range(1, 30):
        assert (
            lookahead_for(replace(PAIR, draft_ms=1.0), servers_for(replace(PAIR, draft_ms=1.0), lookahead))
            <= lookahead
        )


@pytest.mark.parametrize(
    ("share", "acceptance"), [(0.05, 0.9), (0.3, 0.5), (0.5, 0.8), (0.6, 0.1), (1.0, 0.7)]
)
def test_the_bound_is_met_with_equality_where_a_drafter_can_be_stopped(share, acceptance):
    pair = replace(PAIR, acceptance=acceptance, draft_ms=100.0 * share)
    times = text_ms(pair, CHAIN, servers_for(pair, 1), 60, 0, interruptible=True)
    right = hits(pair, 0, 60)
    expected = 100.0
    for place, at in enumerate(times):
        assert at == pytest.approx(expected)
        expected += pair.draft_ms if right[place] else 100.0


def test_too_few_servers_miss_the_bound():
    pair = replace(PAIR, acceptance=0.9, draft_ms=10.0)
    assert (
        text_ms(pair, CHAIN, 2, 60, 0, interruptible=True)[-1]
        > 1.05 * text_ms(pair, CHAIN, servers_for(pair, 1), 60, 0, interruptible=True)[-1]
    )


def test_theorems_hold_on_a_few_cells():
    found = theorems([cell(task) for task in cell_tasks(QUICK)])
    assert all(one.passed for one in found if one.must)
    assert all(one.passed for one in found if one.key.startswith("theorem"))
    # The product's drafter is not stopped in the middle of a forward, and the grid is fine enough to see it.
    assert not all(one.passed for one in found if one.key == "proposition-1")


def test_a_slower_text_breaks_them():
    good = cell(CellTask(0.5, 0.9, 1, 30))
    slow = replace(
        good, ideal=replace(good.ideal, time=good.si * 1.01, worst_by_alone=1.01, worst_by_bound=1.01)
    )
    assert [one.passed for one in theorems([good, slow]) if one.must] == [False, False, False, True]
    failed = theorems([good, slow])[0]
    assert (failed.cells, failed.failed, failed.worst) == (2, 1, 1.01)


def test_a_check_names_its_worst_cell():
    found = check("key", "claim", "", [("one", 0.5), ("two", 1.0), ("three", 1.0 + 1e-9)])
    assert found.passed
    assert found.worst_cell == "three"
    assert check("key", "claim", "", [("one", 1.00001)]).verdict == "FAIL"
    assert check("key", "claim", "", [("one", 1.00001)], must=False).verdict == "does not hold"


def test_a_row_is_faster_than_si_and_more_so_in_the_paper_s_counting():
    (task, _) = row_tasks(QUICK)
    one = row(task)
    assert one.chain_ms < one.si_ms < one.paper_si_ms < one.step_ms + one.draft_ms
    assert one.policy_ms < one.chain_ms
