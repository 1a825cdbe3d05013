"""A profiled worker lasts as its profile says for what a step really holds, as the simulator does."""

from __future__ import annotations

import pytest

from cloud_server import profiled
from cloud_server.profiled import ProfiledWorker
from shared.profiled import Profile, ProfiledPair
from shared.sampling import SamplingParams
from shared.sim.models import SyntheticWorker
from shared.step import Step, StepItem, StepNode


def item(session: int, length: int, drafts: int) -> StepItem:
    nodes = tuple(StepNode(1 + i, 7 + i, i - 1, True) for i in range(drafts))
    return StepItem(session, [3] * length, length, nodes, 0, SamplingParams(), 1)


STEPS = (
    Step(1, (item(1, 10, 4), item(2, 1, 0))),
    Step(2, (item(1, 11, 4), item(2, 2, 0))),
    Step(3, (item(1, 12, 0), item(2, 3, 0)), released=()),
    Step(4, (), released=(1, 2)),
)


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """Milliseconds of each sleep; the clock stands still meanwhile."""
    found: list[float] = []
    monkeypatch.setattr(profiled.time, "sleep", lambda s: found.append(s * 1e3))
    monkeypatch.setattr(profiled.time, "perf_counter_ns", lambda: 0)
    return found


def test_a_step_lasts_by_its_nodes(slept):
    worker = ProfiledWorker(Profile(step_ms=10.0, flat_nodes=4, node_ms=1.0))
    for step in STEPS:
        worker.step(step)
    assert slept == pytest.approx([10 + 15 - 4, 10 + 6 - 4, 10.0])


def test_the_simulators_worker_takes_as_long(slept):
    profile = Profile(step_ms=10.0, flat_nodes=4, node_ms=1.0)
    worker, synthetic = ProfiledWorker(profile), SyntheticWorker(ProfiledPair(profile))
    predicted = []
    for step in STEPS:
        predicted.append(synthetic.duration_ms(step))
        assert synthetic.step(step, 0).items == worker.step(step).items
    assert predicted == pytest.approx([*slept, 0.0])


def test_a_floor_counts_where_it_is_higher(slept):
    worker = ProfiledWorker(Profile(step_ms=10.0, node_ms=1.0), step_floor_ms=20.0)
    for step in STEPS:
        worker.step(step)
    assert slept == pytest.approx([25.0, 20.0, 20.0])
