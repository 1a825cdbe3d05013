from __future__ import annotations

import math

import pytest

from shared.policy.batching import FlatBudget, MeasuredBudget, Pending
from shared.policy.step_curve import StepCurve
from shared.session.tree import DraftTree, Node
from tests.shared.session.builders import new_log


def chain(
    length: int, cost: float = 0.2, *, key: int = 0, acceptance: float = 0.5, honesty: float = 1.0
) -> Pending:
    tree = DraftTree(new_log())
    nodes: list[Node] = []
    node = tree.root
    for token in range(10, 10 + length):
        node = tree.add(node, token, cost)
        nodes.append(node)
    return Pending(key, nodes, tree.root, acceptance, honesty)


def pending(*lengths: int, acceptance: tuple[float, ...] = (), cost: float = 0.2) -> list[Pending]:
    rates = acceptance or (0.5,) * len(lengths)
    return [
        chain(length, cost, key=key, acceptance=rate)
        for key, (length, rate) in enumerate(zip(lengths, rates, strict=True))
    ]


def counts(budget: FlatBudget | MeasuredBudget, ends: int, sessions: list[Pending]) -> list[int]:
    chosen = budget.choose(ends, sessions)
    for nodes, one in zip(chosen, sessions, strict=True):
        assert nodes == one.drafts[: len(nodes)]  # a prefix: parents come before children
    return [len(nodes) for nodes in chosen]


@pytest.mark.parametrize(
    ("budget", "ends", "lengths", "expected"),
    [
        (FlatBudget(100, 50), 2, (5, 8), [5, 8]),
        (FlatBudget(100, 4), 2, (5, 8), [4, 4]),
        (FlatBudget(15, 50), 2, (5, 8), [5, 8]),
        (FlatBudget(14, 50), 2, (5, 8), [5, 7]),
        (FlatBudget(10, 50), 2, (8, 8), [4, 4]),
        (FlatBudget(2, 50), 2, (5, 8), [0, 0]),
        (FlatBudget(1, 50), 5, (5, 8), [0, 0]),
        (FlatBudget(100, 50), 1, (0,), [0]),
    ],
)
def test_ends_take_their_room_first_and_the_rest_is_shared(budget, ends, lengths, expected):
    assert counts(budget, ends, pending(*lengths)) == expected


def test_what_the_cloud_measured_ranks_sessions_and_costs_do_not():
    sessions = [chain(8, cost=0.0, key=0, acceptance=0.1), chain(8, cost=3.0, key=1, acceptance=0.9)]
    assert counts(FlatBudget(8, 50), 0, sessions) == [0, 8]


@pytest.mark.parametrize("acceptance", [0.0, 1.0])
def test_nobody_is_starved_for_good_and_nobody_takes_all(acceptance: float):
    sessions = pending(40, 40, acceptance=(acceptance, 0.5))
    shares = counts(FlatBudget(60, 50), 0, sessions)
    assert sum(shares) == 60
    assert all(shares)


def test_advice_shrinks_as_the_pool_fills_and_never_reaches_nothing():
    advice = [FlatBudget(128, 64).advice(sessions) for sessions in (0, 1, 2, 4, 64, 10_000)]
    assert advice == sorted(advice, reverse=True)
    assert advice[-1] >= 1


def measured(per_token_us: float, base_us: float = 10_000.0, steps: int = 40) -> MeasuredBudget:
    budget = MeasuredBudget()
    for tokens in range(1, steps + 1):
        budget.measured(tokens, round(base_us + per_token_us * tokens))
    return budget


def test_before_there_are_steps_to_go_by_everything_enters():
    assert counts(MeasuredBudget(), 2, pending(5, 8)) == [5, 8]


def test_a_flat_step_takes_everything_and_a_steep_one_the_likely_alone():
    flat, steep = measured(0.0), measured(2000.0)
    assert counts(flat, 4, pending(12, 12)) == [12, 12]
    few = counts(steep, 4, pending(12, 12))
    assert all(count < 12 for count in few)
    assert counts(steep, 64, pending(12, 12)) == [0, 0]  # a full batch decodes plainly


def test_a_likelier_chain_goes_deeper():
    budget = measured(300.0)
    sure, unsure = pending(30, cost=0.02), pending(30, cost=1.0)
    assert counts(budget, 4, sure)[0] > counts(budget, 4, unsure)[0]


def test_a_drafter_that_overstates_itself_taxes_nobody():
    # It claims certainty and was right once in five: its deeper nodes are not worth what they cost the others.
    budget = measured(300.0)
    liar, honest = chain(30, cost=0.0, honesty=0.2), chain(30, cost=-math.log(0.2), key=1)
    assert counts(budget, 4, [liar]) == counts(budget, 4, [honest])
    assert counts(budget, 4, [chain(30, cost=0.0)])[0] > counts(budget, 4, [liar])[0]


def test_a_step_that_got_shorter_with_size_costs_nothing_more():
    curve = StepCurve()
    for tokens in range(1, 100):
        curve.learn(tokens, 100_000 - 100 * tokens)
    assert curve.hinge.token_us == 0.0
    assert math.isfinite(curve.mean_us)
