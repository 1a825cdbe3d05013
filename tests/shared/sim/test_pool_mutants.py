"""Negative controls of the pool: schedulers of several workers, broken on purpose, which the worlds must catch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import pytest

from shared.messages import Commit
from shared.pool import PoolScheduler, Transfer
from shared.pool.books import WorkerBooks
from shared.pool.checks import Checks
from shared.pool.placement import Placement
from shared.session.cloud import CloudEffect, CloudSession, Send
from shared.session.missing import MissingNodes
from shared.session.tree import Node
from shared.sim.fuzz import make_world
from shared.step import Fact, StepItem, StepOutcome

WORLDS = 150

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


# ---- workers that are gone ----


def facts_of_a_dead_worker_are_not_given_back(patch: Patch) -> None:
    patch.setattr(PoolScheduler, "_lost", lambda pool, books: None)


def a_dead_worker_keeps_its_sessions(patch: Patch) -> None:
    patch.setattr(Placement, "left", lambda placement, number: None)


def a_dead_worker_is_asked_on(patch: Patch) -> None:
    """It is given steps as if it were there."""

    def broken(pool: PoolScheduler, worker: int) -> None:
        books = pool._workers[worker]
        if books.out is not None:
            pool._take_back(books)
            books.out = None

    patch.setattr(PoolScheduler, "worker_left", broken)


def who_waits_for_a_worker_is_forgotten(patch: Patch) -> None:
    """Sessions that have no worker stay so when one joins."""
    patch.setattr(Placement, "joined", lambda placement, number: None)


def a_draining_worker_takes_sessions(patch: Patch) -> None:
    patch.setattr(WorkerBooks, "serves", property(lambda books: not books.late))


def a_draining_worker_keeps_its_sessions(patch: Patch) -> None:
    patch.setattr(Placement, "vacate", lambda placement, books: None)


# ---- steps that are late ----


def late_facts_are_committed_twice(patch: Patch) -> None:
    """What a step that was given up on states of a committed node is sent again."""
    learn = CloudSession.learn

    def broken(
        cloud: CloudSession, facts: tuple[tuple[int, Fact], ...], *, verify_us: int, now: int
    ) -> list[CloudEffect]:
        late = [fact.token for key, fact in facts if key not in cloud._nodes and key < cloud.tree.root.key]
        effects = learn(cloud, facts, verify_us=verify_us, now=now)
        if late and not cloud.over:
            cloud.log.append(late[-1])
            if cloud.stream is not None:
                effects.append(Send(cloud.stream, Commit(len(cloud.log) - 1, (late[-1],))))
        return effects

    patch.setattr(CloudSession, "learn", broken)


def what_comes_late_is_refused(patch: Patch) -> None:
    """A step that was given up on is forgotten: nobody expects its answer."""
    give_up = PoolScheduler._give_up_on_overdue

    def broken(pool: PoolScheduler, now: int) -> None:
        give_up(pool, now)
        for books in pool._workers.values():
            if books.late:
                books.out = None

    patch.setattr(PoolScheduler, "_give_up_on_overdue", broken)


def an_overdue_step_keeps_its_facts(patch: Patch) -> None:
    """It is given up on, and what it was asked for is still taken to be under way."""
    complete = PoolScheduler.complete

    def broken(pool: PoolScheduler, outcome: StepOutcome, now: int, worker: int = 0) -> list[CloudEffect]:
        if pool._workers[worker].late:
            outcome = dataclasses.replace(
                outcome, items=tuple(dataclasses.replace(item, facts=()) for item in outcome.items)
            )
            out = pool._workers[worker].out
            assert out is not None
            items = tuple(dataclasses.replace(item, end_key=None, nodes=()) for item in out.step.items)
            out.step = dataclasses.replace(out.step, items=items)
        return complete(pool, outcome, now, worker)

    patch.setattr(PoolScheduler, "complete", broken)
    patch.setattr(CloudSession, "give_back", lambda cloud, keys: None)


# ---- speculation parallelism ----


def a_helper_is_given_no_ancestors(patch: Patch) -> None:
    """Whoever is not asked for the end is told the wanted nodes alone, hanging from it."""
    take = CloudSession.take

    def broken(cloud: CloudSession, nodes: Iterable[Node], *, now: int) -> StepItem:
        item = take(cloud, nodes, now=now)
        if item.end_key is not None:
            return item
        wanted = tuple(dataclasses.replace(node, parent=-1) for node in item.nodes if node.wanted)
        return dataclasses.replace(item, nodes=wanted)

    patch.setattr(CloudSession, "take", broken)


def a_helper_begins_from_the_log_that_it_has(patch: Patch) -> None:
    """Its trunk is what it was given last, not what the log is now."""
    take = CloudSession.take

    def broken(cloud: CloudSession, nodes: Iterable[Node], *, now: int) -> StepItem:
        item = take(cloud, nodes, now=now)
        short = item.end_key is None and item.length > item.prompt_length
        return dataclasses.replace(item, length=item.length - 1) if short else item

    patch.setattr(CloudSession, "take", broken)


def two_workers_are_asked_for_one_fact(patch: Patch) -> None:
    def broken(missing: MissingNodes, node: Node) -> bool:
        return node.alive and node.parent is not None and node.fact is None

    patch.setattr(MissingNodes, "_counts", broken)


# ---- KV ----


def kv_is_released_at_home_only(patch: Patch) -> None:
    def broken(pool: PoolScheduler, key: int) -> None:
        place = pool._places.remove(key)
        for books in pool._workers.values():
            if place is not None and books.number == place.home:
                books.cached.pop(key, None)
                books.released.append(key)

    patch.setattr(PoolScheduler, "leave", broken)


def released_kv_is_forgotten_with_a_failed_step(patch: Patch) -> None:
    failed = PoolScheduler.failed

    def broken(pool: PoolScheduler, worker: int = 0) -> list[int]:
        left = failed(pool, worker)
        pool._workers[worker].released = []
        return left

    patch.setattr(PoolScheduler, "failed", broken)


def a_session_waits_for_its_kv_for_ever(patch: Patch) -> None:
    """It belongs to nobody while it is under way, and a transfer that fails is never over."""
    transferred, following = Placement.transferred, Placement.next_transfer

    def under_way(placement: Placement, now: int) -> Transfer | None:
        transfer = following(placement, now)
        if transfer is not None:
            placement._places.give(placement._places[transfer.session], None)
        return transfer

    def broken(placement: Placement, session: int, target: int, tokens: int | None, now: int) -> None:
        if tokens is not None:
            transferred(placement, session, target, tokens, now)

    patch.setattr(Placement, "next_transfer", under_way)
    patch.setattr(Placement, "transferred", broken)


def the_kv_of_checks_is_kept(patch: Patch) -> None:
    """Facts that are established twice: what the second worker computed for it stays there."""
    complete = PoolScheduler.complete

    def broken(pool: PoolScheduler, outcome: StepOutcome, now: int, worker: int = 0) -> list[CloudEffect]:
        effects = complete(pool, outcome, now, worker)
        books = pool._workers[worker]
        books.released = [key for key in books.released if key >= 0]
        return effects

    patch.setattr(PoolScheduler, "complete", broken)


def a_check_asks_for_another_prefix(patch: Patch) -> None:
    """Caught because facts never disagree in these worlds."""
    take = Checks.take

    def broken(checks: Checks, worker: int, most: int) -> StepItem | None:
        item = take(checks, worker, most)
        return None if item is None else dataclasses.replace(item, length=max(1, item.length - 1))

    patch.setattr(Checks, "take", broken)


MUTANTS: tuple[Mutant, ...] = (
    a_dead_worker_keeps_its_sessions,
    a_dead_worker_is_asked_on,
    who_waits_for_a_worker_is_forgotten,
    a_draining_worker_takes_sessions,
    a_draining_worker_keeps_its_sessions,
    what_comes_late_is_refused,
    an_overdue_step_keeps_its_facts,
    a_helper_is_given_no_ancestors,
    a_helper_begins_from_the_log_that_it_has,
    two_workers_are_asked_for_one_fact,
    kv_is_released_at_home_only,
    released_kv_is_forgotten_with_a_failed_step,
    a_session_waits_for_its_kv_for_ever,
    the_kv_of_checks_is_kept,
    a_check_asks_for_another_prefix,
)
"""Beside those of `broken.BROKEN`."""


def _fuzz() -> None:
    for seed in range(WORLDS):
        make_world(seed).run(max_events=50_000)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_worlds_catch(mutant: Mutant, monkeypatch: pytest.MonkeyPatch):
    mutant(monkeypatch)
    with pytest.raises(Exception) as caught:  # a broken law, or a state that it excludes
        _fuzz()
    assert not isinstance(caught.value, TypeError | AttributeError), (
        "the mutant does not fit the code any more"
    )
