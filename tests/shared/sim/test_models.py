from __future__ import annotations

import pytest

from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.session.edge import Forward
from shared.sim.models import SyntheticDrafter, SyntheticWorker, Temper
from shared.step import Step, StepItem, StepNode

PAIR = ProfiledPair(Profile())


def item(session: int, log: list[int], *nodes: StepNode, end: int | None = 0) -> StepItem:
    return StepItem(session, log, len(log), nodes, end, SamplingParams(), 1)


def test_a_worker_states_the_facts_of_the_paths_that_an_item_names():
    worker = SyntheticWorker(PAIR)
    nodes = (
        StepNode(1, 10, -1, True),
        StepNode(2, 11, 0, True),
        StepNode(3, 20, -1, False),
        StepNode(4, 21, 2, True),
    )
    outcome = worker.step(Step(1, (item(7, [1, 2], *nodes),)), 30)
    stated = {key: fact.token for key, fact in outcome.items[0].facts}
    paths = {0: (), 1: (10,), 2: (10, 11), 4: (20, 21)}
    assert stated == {key: PAIR.target(PAIR.state((1, 2, *path))) for key, path in paths.items()}
    assert (outcome.duration_us, outcome.items[0].cached_length, worker.nodes) == (30, 2, 4)


def test_facts_do_not_depend_on_what_the_worker_holds():
    worker = SyntheticWorker(PAIR)
    asked = item(7, [1, 2, 3])
    first = worker.step(Step(1, (asked,)), 0).items[0].facts
    assert worker.step(Step(2, (asked,)), 0).items[0].facts == first
    worker.forget(7)
    assert worker.step(Step(3, (asked,)), 0).items[0].facts == first


def test_released_sessions_leave_the_cache():
    worker = SyntheticWorker(PAIR)
    worker.step(Step(1, (item(7, [1]), item(8, [1]))), 0)
    assert worker.held == 2
    worker.step(Step(2, (), released=(7, 9)), 0)
    assert worker.held == 1


def candidates(temper: Temper, width: int = 3):
    request = Forward((0, 1), [1, 2], 2, ((), (10,)), width)
    return SyntheticDrafter(PAIR, temper, seed=5).forward(request)


@pytest.mark.parametrize("temper", Temper)
def test_a_drafter_answers_each_path_the_same_every_time(temper: Temper):
    found = candidates(temper)
    assert len(found) == 2
    assert found == candidates(temper)
    assert all(one.cost >= 0 for answers in found for one in answers)


def test_tempers():
    targets = [PAIR.target(PAIR.state((1, 2))), PAIR.target(PAIR.state((1, 2, 10)))]
    assert [[one.token for one in answers] for answers in candidates(Temper.PERFECT)] == [
        [t] for t in targets
    ]
    for answers, target in zip(candidates(Temper.WRONG), targets, strict=True):
        assert target not in [one.token for one in answers]
    good = [PAIR.candidates(PAIR.state(prefix), 3) for prefix in ((1, 2), (1, 2, 10))]
    assert candidates(Temper.GOOD) == good
