"""Taking a world apart: what is cut is gone, what is left still holds, and a failure shrinks to something small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import pytest

from shared.sim.cuts import FEATURES, NO_CUTS, PARTS, Cuts, cut, features, parts
from shared.sim.fuzz import draw_world, make_world, run_world
from shared.sim.random import Keyed
from shared.sim.shrink import Shrunk, Trouble, run, shrink
from tests.shared.sim import test_mutants, test_pool_mutants
from tests.shared.sim.broken import BROKEN

SEEDS = range(60)


def test_a_world_without_cuts_is_the_world_of_its_seed():
    for seed in range(8):
        one, two = make_world(seed), draw_world(seed).make()
        one.run()
        two.run()
        assert one.trace == two.trace
        assert run_world(seed) == run_world(seed, Cuts())


def test_what_is_off_is_gone():
    met = set()
    for seed in SEEDS:
        for name in features(draw_world(seed)):
            met.add(name)
            without = cut(draw_world(seed), Cuts(off=(name,)))
            assert name not in features(without)
    assert met == set(FEATURES)  # each of them was met


def test_parts_go_and_texts_get_shorter():
    for seed in SEEDS:
        plan, counts = draw_world(seed), parts(draw_world(seed))
        for name in PARTS:
            left = parts(cut(plan, Cuts(**{name: (0,)})))[name]
            kept = 1 if name in ("edges", "workers") else 0
            assert left == max(counts[name] - 1, kept if counts[name] else 0)
        short = cut(plan, Cuts(tokens=3, prompt=2))
        assert max(edge.request.max_new_tokens for edge in short.edges) <= 3
        assert max(len(edge.request.prompt) for edge in short.edges) <= 2
        alone = cut(plan, Cuts(off=tuple(FEATURES), edges=tuple(range(1, 9)), assistants=tuple(range(99))))
        assert parts(alone)["edges"] == 1
        assert features(alone) == []


def test_a_cut_makes_no_trouble_by_itself():
    """Whatever is taken away from a world that holds, it holds: else the shrinker would find what is not there."""
    for seed in SEEDS:
        random = Keyed(seed, "cuts")
        cuts = Cuts(
            off=tuple(name for name in FEATURES if random.chance(0.4)),
            edges=tuple(index for index in range(4) if random.chance(0.4)),
            workers=tuple(index for index in range(8) if random.chance(0.4)),
            outages=tuple(index for index in range(3) if random.chance(0.4)),
            assistants=tuple(index for index in range(8) if random.chance(0.4)),
            tokens=random.choice((None, 1, 5)),
            prompt=random.choice((None, 1, 5)),
        )
        run_world(seed, cuts)


@pytest.mark.parametrize(
    "values",
    [{"off": ("gravity",)}, {"edges": (-1,)}, {"tokens": 0}, {"prompt": 0}],
)
def test_cuts_that_mean_nothing_are_refused(values: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(values)) if "off" not in values else "gravity"):
        Cuts(**values)  # type: ignore[arg-type]


def find(worlds: int = 150) -> tuple[int, Trouble]:
    for seed in range(worlds):
        trouble = run(make_world(seed))
        if trouble is not None:
            return seed, trouble
    raise AssertionError("no world fails")


def size(seed: int, cuts: Cuts) -> int:
    """Parts and features and tokens that are left."""
    plan = cut(draw_world(seed), cuts)
    tokens = sum(edge.request.max_new_tokens + len(edge.request.prompt) for edge in plan.edges)
    return sum(parts(plan).values()) + len(features(plan)) + tokens


@pytest.mark.parametrize(
    "mutant",
    [
        BROKEN["a token past the stop"].mutant,
        test_mutants.a_commit_is_lost,
        test_mutants.a_failed_step_is_not_given_back,
        test_pool_mutants.a_dead_worker_keeps_its_sessions,
    ],
)
def test_a_failure_gets_small_and_stays_the_same(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    mutant(monkeypatch)
    seed, trouble = find()
    found = shrink(seed, trouble)
    assert size(seed, found.cuts) < size(seed, NO_CUTS) / 2
    assert parts(cut(draw_world(seed), found.cuts))["edges"] == 1
    again = run(make_world(seed, found.cuts))
    assert again == found.trouble
    assert again.like(trouble)
    assert shrink(seed, trouble) == found  # the same small world everywhere


def test_what_is_needed_stays(monkeypatch: pytest.MonkeyPatch):
    """Facts of a failed step that are kept: without failing steps nothing goes wrong."""
    test_mutants.a_failed_step_is_not_given_back(monkeypatch)
    seed, trouble = find()
    left = features(cut(draw_world(seed), shrink(seed, trouble).cuts))
    assert "step failures" in left
    assert len(left) <= 4


def test_the_search_ends_with_its_budget(monkeypatch: pytest.MonkeyPatch):
    test_mutants.a_commit_is_lost(monkeypatch)
    seed, trouble = find()
    assert shrink(seed, trouble, budget=0) == Shrunk(NO_CUTS, trouble, 0)
    assert shrink(seed, trouble, budget=1).tries == 1


def test_trouble_is_alike_if_it_is_of_one_kind_in_one_place():
    one = Trouble("LawBroken", "edge.check", 7, "edge 0")
    assert one.like(Trouble("LawBroken", "edge.check", 9, "edge 3"))
    assert not one.like(Trouble("ValueError", "edge.check", 7, "edge 0"))
    assert not one.like(Trouble("LawBroken", "edge.start", 7, "edge 0"))
    assert set(asdict(one)) == {"error", "place", "line", "text"}
