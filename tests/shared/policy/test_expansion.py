from __future__ import annotations

import pytest

from shared.policy.expansion import BestFirst, Frontier, chain
from shared.session.tree import DraftTree
from shared.step import Fact
from tests.shared.session.builders import new_log


def always(_node: object) -> bool:
    return True


def test_the_likeliest_comes_first_and_ties_go_to_the_older():
    tree, frontier = DraftTree(new_log()), Frontier()
    for token, cost in ((10, 2.0), (11, 0.5), (12, 0.5), (13, 1.0)):
        frontier.push(tree.add(tree.root, token, cost))
    assert frontier.peek().token == 11
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
    assert frontier.peek().token == 10


@pytest.mark.parametrize("times", [1, 5])
def test_a_chain_is_one_node_with_one_child_at_any_cost(times: int):
    shape = chain()
    assert (shape.branches, shape.width, shape.max_cost) == (1, 1, float("inf"))
    tree, frontier = DraftTree(new_log()), Frontier()
    for token in range(times):
        frontier.push(tree.add(tree.root, token, 100.0))
    assert len(shape.choose(frontier, always)) == 1
