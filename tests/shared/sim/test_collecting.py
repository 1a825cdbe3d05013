from __future__ import annotations

import gc

import pytest

from shared.sim.collecting import THRESHOLDS, seldom_collecting


@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_is_as_it_was_afterwards(fails: bool) -> None:
    @seldom_collecting()
    def run() -> tuple[int, int, int]:
        if fails:
            raise ValueError
        return gc.get_threshold()

    before = gc.get_threshold()
    assert before != THRESHOLDS
    if fails:
        with pytest.raises(ValueError):
            run()
    else:
        assert run() == run() == THRESHOLDS
    assert gc.get_threshold() == before
