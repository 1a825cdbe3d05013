"""EdgeSession and the cloud's machines against each other: in whatever order things happen, the two halves agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from shared.messages import Draft
from shared.session import stream as stream_module
from shared.session.cloud import CloudEffect, CloudSession
from shared.session.edge import EdgeEffect, EdgeSession, SendUp
from shared.session.uplink import Uplink
from shared.step import Fact
from tests.shared.session.halves import PROMPT, ROOM, end, play


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_the_two_halves_agree_in_whatever_order_things_happen(first: int):
    for seed in range(first, first + 50):
        with _named(seed):
            end(play(seed))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_two_halves_agree_for_long():
    for seed in range(1000, 6000):
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
    """Coverage of the search itself: late drafts, dead ones, losses in mid-flight, and long logs."""
    reached: Counter[str] = Counter()
    for seed in range(150):
        wire = play(seed)
        reached["stale"] += wire.edge.counts.stale
        reached["accepted"] += wire.edge.counts.accepted
        reached["reconnects"] += wire.edge.counts.reconnects
        reached["sent again"] += wire.edge.counts.sent > wire.edge.counts.drafted
        reached["ended"] += wire.outcome is not None
        reached["half way"] += len(wire.emitted) > ROOM // 2
    assert min(reached[what] for what in ("stale", "accepted", "reconnects")) > 100, reached
    assert min(reached[what] for what in ("sent again", "ended", "half way")) > 20, reached


# ---- negative controls: broken halves that this search must find ----


def _any_alias_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    child = stream_module._Plan.child

    def broken(plan: stream_module._Plan, parent: object, token: int, cost: float) -> object:
        if isinstance(parent, stream_module._Alias) and parent.position + 1 < len(plan._log):
            return stream_module._Alias(parent.position + 1)
        return child(plan, parent, token, cost)

    monkeypatch.setattr(stream_module._Plan, "child", broken)


def _offsets_are_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Uplink._offset
    monkeypatch.setattr(Uplink, "_offset", lambda uplink, node: max(0, right(uplink, node) - 1))


def _ids_go_on_after_a_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = EdgeSession.connected

    def broken(edge: EdgeSession, stream: int, now: int, **more: str) -> list[EdgeEffect]:
        effects = connected(edge, stream, now, **more)
        return [
            SendUp(one.stream, _later(one.message))
            if isinstance(one, SendUp)
            and isinstance(one.message, Draft)
            and one.message.tokens
            and stream > 1
            else one
            for one in effects
        ]

    monkeypatch.setattr(EdgeSession, "connected", broken)


def _later(draft: Draft) -> Draft:
    return replace(draft, first_node=draft.first_node + 1)


def _the_root_is_where_the_prompt_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Uplink.draft
    monkeypatch.setattr(
        Uplink,
        "draft",
        lambda uplink, nodes, **more: replace(right(uplink, nodes, **more), root_position=len(PROMPT)),
    )


def _dead_ids_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module.DraftStream, "killed", lambda stream, nodes: None)


def _a_failed_step_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CloudSession, "give_back", lambda cloud, keys: None)


def _what_is_in_flight_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = CloudSession.learn

    def broken(
        cloud: CloudSession, facts: Iterable[tuple[int, Fact]], *, verify_us: int, now: int
    ) -> list[CloudEffect]:
        before = set(cloud._in_flight)
        effects = learn(cloud, list(facts), verify_us=verify_us, now=now)
        cloud._in_flight |= before
        return effects

    monkeypatch.setattr(CloudSession, "learn", broken)


def _the_window_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EdgeSession, "capacity", property(lambda edge: 1000))


MUTANTS = (
    _any_alias_is_right,
    _offsets_are_one_off,
    _ids_go_on_after_a_reconnect,
    _the_root_is_where_the_prompt_ends,
    _dead_ids_are_kept,
    _a_failed_step_is_not_given_back,
    _what_is_in_flight_stays_so,
    _the_window_is_forgotten,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__.strip("_"))
def test_a_broken_half_is_found(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    mutant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017 - a law, a KeyError or a ValueError: all are finds
        _play_all(range(150))


def _play_all(seeds: Iterable[int]) -> None:
    for seed in seeds:
        end(play(seed))
