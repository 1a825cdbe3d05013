"""An owner and its assistants, in whatever order things happen: the text is the target's, and all agree on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shared.session.drafters import Drafter, Drafters
from shared.session.edge import Done
from shared.session.held import HeldSessions
from shared.session.stream import DraftStream
from tests.shared.session.crowd import end, play


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_the_text_is_the_targets_whoever_drafts_in_whatever_order(first: int):
    for seed in range(first, first + 50):
        with _named(seed):
            end(play(seed))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_text_is_the_targets_for_long():
    for seed in range(1000, 4000):
        with _named(seed):
            end(play(seed))


@contextmanager
def _named(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"replay: end(play({seed}))")
        raise


def test_the_scripts_reach_what_they_are_for():
    """Coverage of the search itself."""
    reached: Counter[str] = Counter()
    for seed in range(120):
        crowd = play(seed)
        owner = crowd.owner.machine
        reached["owner came back"] += owner.counts.reconnects
        reached["to the same session"] += owner.counts.reconnects > 0 and len(crowd.sessions) == 1
        reached["to another"] += len(crowd.sessions) > 1
        for one in crowd.assistants:
            counts = one.machine.counts
            reached["drafts of assistants"] += counts.sent
            reached["right ones"] += counts.accepted
            reached["stale ones"] += counts.stale
            reached["attached again"] += counts.reconnects
            reached["died"] += one.dead
            reached["refused"] += one.outcome is not None and not isinstance(one.outcome, Done)
    assert len(reached) == 9
    assert min(reached.values()) > 10, reached


# ---- negative controls: broken machines that this search must find ----


def _ids_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """One numbering for all streams of a session."""
    monkeypatch.setattr(Drafters, "__getitem__", lambda drafters, _: drafters.owner)


def _nodes_of_who_left_are_killed_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their node keys are forgotten by the others too."""
    leave = Drafters.leave

    def broken(drafters: Drafters, stream: int) -> None:
        leave(drafters, stream)
        for drafter in drafters:
            drafter.drafts._nodes.clear()

    monkeypatch.setattr(Drafters, "leave", broken)


def _dead_ids_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the owner hears of what is dead."""

    def broken(drafters: Drafters, nodes: list[object]) -> None:
        drafters.owner.killed(nodes)  # type: ignore[arg-type]

    monkeypatch.setattr(Drafters, "killed", broken)


def _commits_go_to_the_owner_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Drafters.told
    monkeypatch.setattr(Drafters, "told", lambda *args: told(*args)[:1])


def _the_grace_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldSessions, "ending", lambda *_: [])


def _who_comes_back_has_seen_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    owned = Drafters.owned_by

    def broken(drafters: Drafters, owner: Drafter) -> None:
        owned(drafters, owner)
        owner.drafts.seen = owner.drafts.sent_length

    monkeypatch.setattr(Drafters, "owned_by", broken)


def _promoted_ids_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attached streams get no aliases: their late children seem dead, which only loses speed; keys leak instead."""
    monkeypatch.setattr(DraftStream, "promoted", lambda *_: None)


MUTANTS = (
    _ids_are_shared,
    _nodes_of_who_left_are_killed_silently,
    _dead_ids_are_kept,
    _commits_go_to_the_owner_alone,
    _the_grace_has_no_end,
    _who_comes_back_has_seen_everything,
    _promoted_ids_are_forgotten,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_broken_machines_are_found(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        _search()


def _search() -> None:
    for seed in range(150):
        end(play(seed))
