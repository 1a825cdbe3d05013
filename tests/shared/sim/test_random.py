from __future__ import annotations

from collections import Counter

import pytest

from shared.sim.random import Keyed


def test_a_stream_belongs_to_its_entity():
    streams = [Keyed(0, "a"), Keyed(0, "b"), Keyed(1, "a"), Keyed(0, "a", 1), Keyed(0, "a", 2)]
    assert len({tuple(stream.uniform() for _ in range(3)) for stream in streams}) == len(streams)


def test_what_one_entity_draws_does_not_move_another():
    alone = [Keyed(0, "b").uniform() for _ in range(1)]
    one, two = Keyed(0, "a"), Keyed(0, "b")
    for _ in range(5):
        one.uniform()
    assert [two.uniform()] == alone


def test_integers_are_uniform_and_within():
    random = Keyed(3, "x")
    counts = Counter(random.integer(2, 5) for _ in range(8000))
    assert set(counts) == {2, 3, 4, 5}
    assert all(count == pytest.approx(2000, rel=0.1) for count in counts.values())


def test_chances_and_choices():
    random = Keyed(3, "y")
    assert not any(random.chance(0.0) for _ in range(100))
    assert all(random.chance(1.0) for _ in range(100))
    assert sum(random.chance(0.25) for _ in range(4000)) == pytest.approx(1000, rel=0.1)
    assert {random.choice("abc") for _ in range(100)} == set("abc")
