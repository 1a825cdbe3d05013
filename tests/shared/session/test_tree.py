"""Settling: accept, reject, correct and bonus, as one loop over known facts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from shared.messages import FinishReason
from shared.session.tree import DraftTree, Node, settle
from shared.step import Fact
from tests.shared.session.builders import at, grow, new_log

Path = tuple[int, ...]


@dataclass
class Case:
    """Drafts and facts by their paths below the end, and what settling them does."""

    facts: dict[Path, int]
    written: Path
    drafts: tuple[Path, ...] = ()
    live: tuple[Path, ...] = ()
    """Paths of what is left below the new end."""
    judged: int = 0
    accepted: int = 0
    closed: FinishReason | None = None
    room: int = 20
    context: int = 1000
    stop: tuple[int, ...] = field(default=())


CASES = {
    "nothing known": Case(facts={}, written=(), drafts=((4, 5),), live=((4,), (4, 5))),
    "plain decoding": Case(facts={(): 4}, written=(4,)),
    "a block, all right, and the bonus": Case(
        drafts=((4, 5, 6),),
        facts={(): 4, (4,): 5, (4, 5): 6, (4, 5, 6): 7},
        written=(4, 5, 6, 7),
        judged=3,
        accepted=3,
    ),
    "a block, the second wrong: the correction is the fact after the first": Case(
        drafts=((4, 5, 6),),
        facts={(): 4, (4,): 8, (4, 5): 6, (4, 5, 6): 7},
        written=(4, 8),
        judged=2,
        accepted=1,
    ),
    "a block, the first wrong": Case(
        drafts=((4, 5),), facts={(): 9, (4,): 5, (4, 5): 6}, written=(9,), judged=1
    ),
    "facts below an unknown one wait": Case(
        drafts=((4, 5),), facts={(4,): 5, (4, 5): 6}, written=(), live=((4,), (4, 5))
    ),
    "siblings: the right one becomes the end, the others die with what hangs from them": Case(
        drafts=((4, 40), (5, 50), (6, 60)),
        facts={(): 5, (4,): 40},
        written=(5,),
        live=((50,),),
        judged=1,
        accepted=1,
    ),
    "siblings deeper down, and a correction pre-drafted": Case(
        drafts=((4, 5), (4, 6, 7)),
        facts={(): 4, (4,): 6},
        written=(4, 6),
        live=((7,),),
        judged=2,
        accepted=2,
    ),
    "a stop token in the middle closes, whatever is known behind it": Case(
        drafts=((4, 9, 6),),
        facts={(): 4, (4,): 9, (4, 9): 6, (4, 9, 6): 7},
        written=(4, 9),
        judged=2,
        accepted=2,
        closed=FinishReason.STOP,
        stop=(9,),
    ),
    "a stop token that was only drafted closes nothing": Case(
        drafts=((9, 6),), facts={(): 4}, written=(4,), judged=1, stop=(9,)
    ),
    "the length": Case(
        drafts=((4, 5, 6),),
        facts={(): 4, (4,): 5, (4, 5): 6},
        written=(4, 5),
        judged=2,
        accepted=2,
        closed=FinishReason.LENGTH,
        room=2,
    ),
    "the context": Case(
        drafts=((4, 5, 6),),
        facts={(): 4, (4,): 5, (4, 5): 6},
        written=(4,),
        judged=1,
        accepted=1,
        closed=FinishReason.CONTEXT,
        context=4,
    ),
}


def _live_paths(tree: DraftTree) -> tuple[Path, ...]:
    found: list[Path] = []

    def walk(node: Node, path: Path) -> None:
        for token, child in node.children.items():
            found.append((*path, token))
            walk(child, found[-1])

    walk(tree.root, ())
    return tuple(sorted(found))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_settling(case: Case):
    """In whatever order the facts arrive: what is written, what is counted, and what lives on are the same."""
    for order in itertools.permutations(case.facts.items()):
        log = new_log(room=case.room, context=case.context, stop=case.stop)
        tree = DraftTree(log)
        grow(tree, *case.drafts)
        nodes = {path: at(tree, path) for path in case.facts}
        total = tree.live
        killed: list[Node] = []
        for path, token in order:
            if nodes[path].alive:
                killed += tree.learn(nodes[path], Fact(token))
        done = settle(log, tree)
        assert tuple(log.completion) == case.written == tuple(done.tokens)
        assert [fact.token for fact in done.facts] == done.tokens
        assert (done.judged, done.accepted, log.closed) == (case.judged, case.accepted, case.closed)
        assert _live_paths(tree) == tuple(sorted(case.live))
        assert tree.live == len(case.live)
        # Every node is somewhere: committed, dead or alive, and only one of them.
        assert len(done.promoted) == case.accepted
        assert len(killed) + len(done.killed) + len(done.promoted) + tree.live == total
        assert not any(node.alive for node in [*killed, *done.killed])
        assert tree.root.token == log.tokens[-1]
        assert tree.root.position == len(log) - 1
        assert tree.root.parent is None


def test_a_fact_anywhere_kills_the_children_that_it_contradicts_at_once():
    log = new_log()
    tree = DraftTree(log)
    grow(tree, (4, 5, 6), (4, 7, 8), (9, 1))
    dead = [at(tree, (4, 5)), at(tree, (4, 5, 6))]
    killed = tree.learn(at(tree, (4,)), Fact(7))
    assert killed == dead
    assert not any(node.alive or node.children for node in dead)
    assert _live_paths(tree) == ((4,), (4, 7), (4, 7, 8), (9,), (9, 1))
    assert tree.live == 5
    assert settle(log, tree).tokens == []


def test_the_same_guess_twice_is_one_node():
    tree = DraftTree(new_log())
    assert tree.add(tree.root, 4, 1.0) is tree.add(tree.root, 4, 3.0)
    assert tree.live == 1


def test_nothing_hangs_from_a_dead_node_or_against_a_fact():
    log = new_log()
    tree = DraftTree(log)
    grow(tree, (4, 5))
    dead, right = at(tree, (4, 5)), at(tree, (4,))
    tree.learn(right, Fact(6))
    with pytest.raises(ValueError, match="dead"):
        tree.add(dead, 1, 1.0)
    with pytest.raises(ValueError, match="contradicts"):
        tree.add(right, 5, 1.0)
    assert tree.add(right, 6, 1.0).alive


def test_keys_grow_downwards_and_path_costs_add_up():
    tree = DraftTree(new_log())
    grow(tree, (4, 5, 6), (4, 7))
    for node in tree.nodes():
        assert node.parent is not None
        assert node.key > node.parent.key
        assert node.path_cost == node.parent.path_cost + node.cost
        assert node.position == node.parent.position + 1


def test_clearing_leaves_a_bare_end():
    tree = DraftTree(new_log())
    grow(tree, (4, 5), (6,))
    assert len(tree.clear()) == 3
    assert tree.live == 0
    assert list(tree.nodes()) == []
    assert tree.root.alive
