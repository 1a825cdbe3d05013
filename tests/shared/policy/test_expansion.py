from __future__ import annotations

import pytest

from shared.policy.expansion import BestFirst, Frontier, MarginalGain, chain
from shared.session.tree import DraftTree
from shared.step import Fact
from tests.shared.session.builders import new_log


def always(_node: object) -> bool:
    return True


def test_the_likeliest_comes_first_and_ties_go_to_the_older():
    tree, frontier = DraftTree(new_log()), Frontier()
    for token, cost in ((10, 2.0), (11, 0.5), (12, 0.5), (13, 1.0)):
        frontier.push(tree.add(tree.root, token, cost))
    assert frontier.first().token == 11
    assert [node.token for node in BestFirst(branches=3).choose(frontier, always)] == [11, 12, 13]
    assert [node.token for node in BestFirst(branches=3).choose(frontier, always)] == [10]
    assert not frontier


def test_a_childs_place_is_that_of_its_whole_path():
    tree, frontier = DraftTree(new_log()), Frontier()
    unlikely = tree.add(tree.root, 10, 2.0)
    frontier.push(tree.add(unlikely, 11, 0.1))
    frontier.push(tree.add(tree.root, 12, 1.0))
    assert [node.token for node in BestFirst().choose(frontier, always)] == [12, 11]


def test_the_dead_fall_out():
    tree, frontier = DraftTree(new_log()), Frontier()
    for token in (10, 11):
        frontier.push(tree.add(tree.root, token, 1.0))
    tree.learn(tree.root, Fact(11))
    assert frontier.pop().token == 11
    assert not frontier


def test_the_dead_are_swept_before_they_outnumber_the_living():
    """The unlikely never come to the top, so they would stay for the whole generation."""
    log = new_log(room=10_000)
    tree, frontier = DraftTree(log), Frontier()
    for turn in range(2000):
        for token in range(3):
            frontier.push(tree.add(tree.root, 20 + token, 5.0))
        tree.advance(19)  # none of them
        assert len(frontier._heap) <= 2 * tree.live + 70, turn


def test_what_is_out_of_reach_stays():
    tree, frontier = DraftTree(new_log()), Frontier()
    frontier.push(tree.add(tree.root, 10, 1.0))
    assert BestFirst().choose(frontier, lambda node: node.token != 10) == []
    assert frontier.first().token == 10


@pytest.mark.parametrize("times", [1, 5])
def test_a_chain_is_one_node_with_one_child_at_any_cost(times: int):
    shape = chain()
    assert (shape.branches, shape.width, shape.max_cost) == (1, 1, float("inf"))
    tree, frontier = DraftTree(new_log()), Frontier()
    for token in range(times):
        frontier.push(tree.add(tree.root, token, 100.0))
    assert len(shape.choose(frontier, always)) == 1


def fan(costs: list[float]) -> Frontier:
    tree, frontier = DraftTree(new_log()), Frontier()
    for token, cost in enumerate(costs):
        frontier.push(tree.add(tree.root, 10 + token, cost))
    return frontier


def learned(start_ms: float, each_ms: float) -> MarginalGain:
    policy = MarginalGain(branches=8)
    for turn in range(200):
        nodes = 1 + turn % 4
        policy.forwarded(nodes, round((start_ms + each_ms * nodes) * 1e6))
    return policy


ALIKE = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
SURE = [0.02, 4.0, 4.1, 4.2]


@pytest.mark.parametrize(
    ("start_ms", "each_ms", "costs", "branches"),
    [
        (3.0, 0.0, ALIKE, 6),  # further branches are free
        (3.0, 0.0, SURE, 4),
        (2.7, 0.3, ALIKE, 6),  # a tenth each: the unsure go wide, the sure do not
        (2.7, 0.3, SURE, 1),
        (0.0, 3.0, ALIKE, 1),  # one after the other: a chain, unless two are alike
        (0.0, 3.0, [1.0, 1.0, 2.0], 2),
    ],
)
def test_a_branch_is_taken_if_it_adds_to_the_chance_per_time(start_ms, each_ms, costs, branches):
    policy = learned(start_ms, each_ms)
    start, each = policy.cost.line()
    assert (start / 1e6, each / 1e6) == pytest.approx((start_ms, each_ms), abs=0.2)
    assert len(policy.choose(fan(costs), always)) == branches


def test_where_the_tree_began_does_not_matter():
    policy = learned(2.0, 1.0)
    shifted = [cost + 30.0 for cost in ALIKE]
    assert len(policy.choose(fan(ALIKE), always)) == len(policy.choose(fan(shifted), always)) > 1


def test_forwards_of_one_size_say_nothing_of_the_slope():
    policy = MarginalGain()
    for _ in range(3):
        policy.forwarded(1, 10_000_000)
    start, each = policy.cost.line()
    assert start + each == pytest.approx(10_000_000)
    assert each == pytest.approx(policy.cost.prior * 10_000_000, rel=0.1)


def test_a_drafter_that_got_slower_is_noticed():
    policy = learned(2.7, 0.3)
    for turn in range(400):
        policy.forwarded(1 + turn % 4, (1 + turn % 4) * 5_000_000)
    assert len(policy.choose(fan(ALIKE), always)) == 1


def test_the_marginal_policy_never_takes_more_than_there_is_or_may_be():
    assert len(MarginalGain(branches=2, cost=learned(3.0, 0.0).cost).choose(fan(ALIKE), always)) == 2
    assert MarginalGain().choose(fan([]), always) == []
    assert MarginalGain().choose(fan(ALIKE), lambda _: False) == []
