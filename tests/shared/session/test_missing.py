"""MissingNodes: the same nodes in the same order as a search of the whole tree, at less cost."""

from __future__ import annotations

import random

from shared.session.missing import SWEEP, MissingNodes
from shared.session.tree import DraftTree, Node, settle
from shared.step import Fact
from tests.shared.session.builders import new_log


def searched(tree: DraftTree, in_flight: set[int]) -> list[Node]:
    found = [node for node in tree.nodes() if node.fact is None and node.key not in in_flight]
    return sorted(found, key=lambda node: (node.path_cost, node.key))


def test_it_is_what_a_search_finds_whatever_happens():
    source = random.Random(3)
    log = new_log(room=400)
    tree, in_flight = DraftTree(log), set[int]()
    missing = MissingNodes(in_flight)
    for _ in range(1500):
        nodes = [tree.root, *tree.nodes()]
        match source.randrange(5):
            case 0 | 1:
                parent = source.choice(nodes)
                if parent.fact is None:
                    token = source.randrange(4)
                    if token not in parent.children:
                        missing.add(tree.add(parent, token, source.choice((0.0, 0.5, 1.0))))
            case 2:
                in_flight.update(node.key for node in missing.first(source.randrange(4)))
            case 3:
                back = {key for key in in_flight if source.random() < 0.3}
                in_flight -= back
                for node in tree.nodes():
                    if node.key in back and node.fact is None:
                        missing.add(node)
            case _:
                node = source.choice(nodes)
                if node.fact is None:
                    tree.learn(node, Fact(source.randrange(4)))
                    settle(log, tree)
        most = source.randrange(6)
        assert missing.first(most) == searched(tree, in_flight)[:most]
        assert len(missing._entries) <= 4 * max(tree.live, 1) + 2 * SWEEP
    assert len(log) > 100
