"""PoolScheduler: what goes into a step, and that every end makes progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from shared.messages import Limits
from shared.policy.batching import FlatBudget, NodeBudget
from shared.pool import PoolScheduler, PrefillLimits, one_worker
from shared.session.cloud import CloudSession, Send
from shared.step import Fact, ItemOutcome, Step, StepItem, StepOutcome
from tests.shared.session.builders import draft, facts_of, idle, model_info, opening, writes

TEXT = tuple(range(10, 90))
ANSWER = writes(*TEXT)


def serve(
    *sessions: CloudSession,
    budget: NodeBudget | None = None,
    prefill: PrefillLimits | None = None,
    kv_tokens: int | None = None,
):
    pool = one_worker(FlatBudget() if budget is None else budget, prefill, kv_tokens)
    for one in sessions:
        pool.join(one)
    return pool


def session(key: int, *, prompt: Sequence[int] = (1, 2, 3), now: int = 0, **fields: object) -> CloudSession:
    return CloudSession(key, key, opening(prompt, room=70, **fields), model_info(), now=now)


def outcome(step: Step, **changes: object) -> StepOutcome:
    items = [ItemOutcome(item.session, tuple(facts_of(item, ANSWER)), item.length, 1) for item in step.items]
    return dataclasses.replace(StepOutcome(tuple(items), 10), **changes)


def run(pool: PoolScheduler, now: int) -> list[StepItem]:
    """One step; its items."""
    step = pool.next_step(now)
    assert step is not None
    pool.complete(outcome(step), now)
    return list(step.items)


def test_all_ends_that_are_due_go_into_one_step_oldest_first():
    late, early, waiting = session(1, now=30), session(2, now=10), session(3, now=0, patience_us=1)
    pool = serve(late, early, waiting)
    assert pool.wake_at() == 10
    assert pool.next_step(5) is None
    assert [item.session for item in run(pool, 100)] == [2, 1]
    assert pool.wake_at() == 100
    assert [item.session for item in run(pool, 1000)] == [1, 2, 3]  # equally old: in the order of their keys


def test_one_step_is_out_at_a_time():
    pool = serve(session(1))
    step = pool.next_step(0)
    assert step is not None
    assert pool.next_step(0) is None
    assert pool.wake_at() is None
    pool.complete(outcome(step), 0)
    with pytest.raises(ValueError, match="no step is out"):
        pool.complete(outcome(step), 0)
    with pytest.raises(ValueError, match="no step is out"):
        pool.failed()


def test_steps_are_numbered():
    pool = serve(session(1))
    numbers = []
    for _ in range(3):
        step = pool.next_step(0)
        assert step is not None
        numbers.append(step.number)
        pool.complete(outcome(step), 0)
    assert numbers == [1, 2, 3]


def test_speculation_never_displaces_an_end():
    """Twenty sessions and room for three nodes: every end is in the step, drafts or none."""
    sessions = [session(key) for key in range(20)]
    for one in sessions[:5]:
        one.draft(draft(1, TEXT[:8]), now=0)
    items = run(serve(*sessions, budget=FlatBudget(nodes=3)), 0)
    assert [item.session for item in items] == list(range(20))
    assert all(item.end_key is not None for item in items)
    assert all(len(one.log.completion) == 1 for one in sessions)


def test_spare_room_goes_to_drafts_and_never_more_than_a_sessions_share():
    sessions = [session(key) for key in range(3)]
    for one in sessions:
        one.draft(draft(1, TEXT[:20]), now=0)
    items = run(serve(*sessions, budget=FlatBudget(nodes=15, per_session=6)), 0)
    assert sum(len(item.nodes) for item in items) == 12
    assert max(len(item.nodes) for item in items) <= 6


def test_between_sessions_what_the_cloud_measured_decides_whatever_the_edges_claim():
    good, bad = session(1), session(2)
    pool = serve(good, bad, budget=FlatBudget(nodes=6, per_session=4))
    for turn in range(6):
        done = len(good.log.completion)
        good.draft(draft(1 + 4 * turn, TEXT[done : done + 4], root=len(good.log), costs=(16,) * 4), now=0)
        bad.draft(draft(1 + 4 * turn, (99, 98, 97, 96), root=len(bad.log), costs=(0,) * 4), now=0)
        items = run(pool, 0)
    counts = {item.session: len(item.nodes) for item in items}
    assert counts == {1: 4, 2: 0}
    assert good.accepted == good.judged > 0
    assert bad.accepted == 0


def test_what_did_not_fit_enters_a_later_step():
    one = session(1)
    one.draft(draft(1, TEXT[:5]), now=0)
    pool = serve(one, budget=FlatBudget(nodes=3))
    assert [len(item.nodes) for item in run(pool, 0)] == [2]
    assert one.log.completion == list(TEXT[:3])
    assert [len(item.nodes) for item in run(pool, 0)] == [2]
    assert one.log.completion == list(TEXT[:6])


def test_a_failed_step_gives_its_facts_back_and_the_cache_with_them():
    long, short = session(1, prompt=(1,) * 30), session(2)
    pool = serve(long, short, prefill=PrefillLimits(chunk=10, per_step=10))
    for _ in range(2):
        run(pool, 0)
    long.draft(draft(1, TEXT[:2], root=30), now=0)
    step = pool.next_step(0)
    assert step is not None
    assert long.missing_drafts() == []
    assert long.end_due_at() is None
    assert pool.failed() == [1, 2]
    assert len(long.missing_drafts()) == 2
    assert long.end_due_at() == 0
    step = pool.next_step(0)  # whatever the worker held, it may hold no more: in chunks again
    assert step is not None
    assert [(item.session, item.prefill_only) for item in step.items] == [(1, True), (2, False)]


def test_a_failed_steps_releases_are_not_forgotten():
    pool = serve(session(1), session(2))
    run(pool, 0)
    pool.leave(1)
    step = pool.next_step(0)
    assert step is not None
    assert step.released == (1,)
    pool.leave(2)
    assert pool.failed() == []
    again = pool.next_step(0)
    assert again is not None
    assert again.released == (1, 2)
    pool.complete(outcome(again), 0)
    assert pool.next_step(0) is None
    assert pool.sessions == 0


def test_a_session_that_left_while_its_step_was_out_is_skipped_and_released():
    gone, here = session(1), session(2)
    pool = serve(gone, here)
    step = pool.next_step(0)
    assert step is not None
    pool.leave(1)
    effects = pool.complete(outcome(step), 0)
    assert [effect.stream for effect in effects if isinstance(effect, Send)] == [2]
    assert gone.log.completion == []
    after = pool.next_step(0)
    assert after is not None
    assert after.released == (1,)


def test_a_session_that_is_over_leaves_by_itself():
    one = session(1, stop_tokens=(TEXT[0],))
    pool = serve(one)
    run(pool, 0)
    assert one.over
    assert pool.sessions == 0
    assert run(pool, 0) == []


def test_an_outcome_must_state_what_was_asked():
    """A fact that a worker leaves out would be in flight for ever: that is an error, not a wait."""
    one = session(1)
    one.draft(draft(1, TEXT[:2]), now=0)
    pool = serve(one)
    step = pool.next_step(0)
    assert step is not None
    right = outcome(step)
    (item,) = right.items
    for wrong in (
        (),
        (dataclasses.replace(item, facts=item.facts[1:]),),
        (dataclasses.replace(item, facts=(*item.facts, (77, Fact(1)))),),
        (dataclasses.replace(item, session=2),),
        (item, item),
    ):
        with pytest.raises(ValueError, match="asked for facts that its outcome does not state"):
            pool.complete(StepOutcome(wrong, 10), 0)
    pool.complete(right, 0)
    assert one.log.completion == list(TEXT[:3])


# ---- prefill ----


def test_a_long_prompt_is_prefilled_in_chunks_beside_other_sessions_steps():
    long, short = session(1, prompt=(1,) * 30), session(2)
    pool = serve(long, short, prefill=PrefillLimits(chunk=10, per_step=100))
    lengths = []
    for _ in range(3):
        items = run(pool, 0)
        (chunk,) = [item for item in items if item.session == 1]
        lengths.append((chunk.length, chunk.prefill_only))
        assert [item.session for item in items if item.end_key is not None][-1] == 2
    # Nine tokens are left after two chunks of ten: they go with the step that asks for the end.
    assert lengths == [(10, True), (20, True), (30, False)]
    assert len(short.log.completion) == 3
    assert len(long.log.completion) == 1


def test_chunks_share_the_room_of_a_step_first_come_first_served():
    pool = serve(*(session(key, prompt=(1,) * 40) for key in range(3)), prefill=PrefillLimits(16, 20))
    items = run(pool, 0)
    assert [(item.session, item.length) for item in items] == [(0, 16), (1, 4)]
    items = run(pool, 0)
    assert [(item.session, item.length) for item in items] == [(0, 32), (1, 8)]
    for _ in range(8):
        items = run(pool, 0)
    assert [item.end_key is not None for item in items] == [True, True, True]


def test_an_evicted_prefix_is_told_by_the_worker_and_prefilled_again():
    one = session(1, prompt=(1,) * 30)
    pool = serve(one, prefill=PrefillLimits(chunk=10, per_step=10))
    for _ in range(3):
        run(pool, 0)
    step = pool.next_step(0)
    assert step is not None
    pool.complete(outcome(step, items=(dataclasses.replace(outcome(step).items[0], cached_length=0),)), 0)
    assert len(one.log.completion) == 2
    (item,) = run(pool, 0)
    assert (item.prefill_only, item.length) == (True, 10)


def test_a_session_that_may_not_run_ahead_waits_without_a_timer():
    one = CloudSession(1, 1, opening(room=70), model_info(limits=Limits(run_ahead=2)), now=0)
    pool = serve(one)
    run(pool, 0)
    run(pool, 0)
    assert (pool.next_step(9), pool.wake_at()) == (None, None)
    one.draft(idle(5), now=9)
    assert pool.wake_at() == 0


def test_advice_travels_with_the_next_commit():
    budget = FlatBudget(nodes=80, per_session=64)
    pool = serve(*(session(key) for key in range(8)), budget=budget)
    step = pool.next_step(0)
    assert step is not None
    commit = pool.complete(outcome(step), 0)[0]
    assert isinstance(commit, Send)
    assert commit.message.advised_window == budget.advice(8) > 0


def test_more_than_the_worker_can_hold_is_served_oldest_first_and_nobody_for_ever_in_vain():
    # Three prompts where there is room for one: served together they would evict each other's prefill for ever.
    sessions = [session(key, prompt=(1,) * 40) for key in (1, 2, 3)]
    pool = serve(*sessions, prefill=PrefillLimits(8, 16), kv_tokens=120)
    served: list[int] = []
    while pool.sessions:
        items = run(pool, 0)
        served += [item.session for item in items if item.session not in served]
        assert len(served) <= 1 + sum(one.log.closed is not None for one in sessions)
    assert served == [1, 2, 3]
    assert all(len(one.log.completion) == 70 for one in sessions)
