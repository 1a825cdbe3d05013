"""The load of a profiled step is what a verifier with a cache forwards; the facts do not depend on it."""

from __future__ import annotations

from shared.hardware import StepLoad
from shared.profiled import Profile, ProfiledPair
from shared.profiled_facts import ProfiledFacts
from shared.sampling import SamplingParams
from shared.step import Step, StepItem, StepNode

PAIR = ProfiledPair(Profile())


def item(log: list[int], *nodes: StepNode, session: int = 1, end: int | None = 0) -> StepItem:
    return StepItem(session, log, len(log), nodes, end, SamplingParams(), 1)


def chain(*tokens: int, wanted: bool = True) -> tuple[StepNode, ...]:
    return tuple(StepNode(1 + i, token, i - 1, wanted) for i, token in enumerate(tokens))


def done(facts: ProfiledFacts, *items: StepItem, released: tuple[int, ...] = ()) -> int:
    """Performs a step; the tokens that it forwarded."""
    step = Step(1, items, released)
    load = facts.load(step)
    computed = sum(one.computed for one in facts.establish(step))
    assert computed == load.nodes
    return computed


def test_the_prompt_is_forwarded_once_and_then_ends_and_drafts():
    facts = ProfiledFacts(PAIR)
    assert done(facts, item([5, 6, 7], *chain(1, 2))) == 5
    assert done(facts, item([5, 6, 7, 1, 2, 9])) == 1, "two drafts were accepted and their keys are held"
    assert done(facts, item([5, 6, 7, 1, 2, 9, 4, 4])) == 2, "nothing drafted the first of them"


def test_an_ancestor_that_is_held_is_not_forwarded_again():
    facts = ProfiledFacts(PAIR)
    done(facts, item([5], *chain(1, 2)))
    deeper = (*chain(1, 2, wanted=False), StepNode(3, 8, 1, True))
    assert done(facts, item([5], *deeper, end=None)) == 1
    facts.forget(1)
    assert done(facts, item([5], *deeper, end=None)) == 4


def test_a_dead_branch_is_forgotten_once_the_log_has_passed_it():
    facts = ProfiledFacts(PAIR)
    log = [5]
    for token in range(50):
        done(facts, item(log, *chain(100 + token, 7, 8)))
        log = [*log, token]
    assert len(facts._held[1].drafts) <= 9


def test_one_place_named_twice_is_forwarded_once():
    twins = (StepNode(1, 7, -1, True), StepNode(2, 7, -1, True))
    assert done(ProfiledFacts(PAIR), item([5], *twins)) == 2


def test_the_context_is_the_mean_and_prefill_wants_nothing():
    facts = ProfiledFacts(PAIR)
    step = Step(1, (item([1] * 10, end=None), item([2] * 20, session=2)))
    assert facts.load(step) == StepLoad(30, 2, 15.0)
    assert facts.load(step) == StepLoad(30, 2, 15.0), "asking changes nothing"
    assert facts.sessions == 0
    facts.establish(step)
    assert facts.load(step) == StepLoad(1, 2, 15.0)
    assert facts.load(Step(2, ())) == StepLoad(0, 0, 0.0)
    facts.establish(Step(2, (), released=(1, 2)))
    assert facts.sessions == 0
