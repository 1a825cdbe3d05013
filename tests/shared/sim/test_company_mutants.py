"""Negative controls of what goes on between several devices and several servers: the worlds must catch each of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.errors import ContractViolation
from shared.messages import CloudMessage, Commit, Draft
from shared.session import cloud as cloud_module
from shared.session.cloud import CloudEffect, CloudSession
from shared.session.drafters import Drafters
from shared.session.front import CloudFront
from shared.session.held import HeldSessions
from shared.session.moving import Leaving, Streams
from shared.sim.fuzz import make_world

WORLDS = 150

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


# ---- several devices ----


def an_attached_stream_outlives_its_session(patch: Patch) -> None:
    """It is not told that the log is closed, and stays connected."""
    finished = Drafters.finished

    def broken(drafters: Drafters, finish: object) -> list[CloudEffect]:
        own = drafters.stream
        return [effect for effect in finished(drafters, finish) if effect.stream == own]  # type: ignore[arg-type]

    patch.setattr(Drafters, "finished", broken)


def a_grace_never_ends(patch: Patch) -> None:
    patch.setattr(HeldSessions, "ending", lambda held, now: [])


def a_rogue_ends_the_session(patch: Patch) -> None:
    """A violation of an attached stream is laid to its owner."""
    violated = CloudFront.violated

    def broken(front: CloudFront, stream: int, violation: ContractViolation) -> list[CloudEffect]:
        session = front.session_of(stream)
        owner = stream if session is None or session.stream is None else session.stream
        return violated(front, owner, violation)

    patch.setattr(CloudFront, "violated", broken)


def drafts_of_all_streams_share_their_ids(patch: Patch) -> None:
    draft = CloudSession.draft

    def broken(cloud: CloudSession, message: Draft, *, now: int, stream: int | None = None) -> None:
        draft(cloud, message, now=now)

    patch.setattr(CloudSession, "draft", broken)


def ids_of_attached_streams_are_never_forgotten(patch: Patch) -> None:
    killed = Drafters.killed

    def broken(drafters: Drafters, nodes: list[object]) -> None:
        attached, drafters.attached = drafters.attached, {}
        killed(drafters, nodes)  # type: ignore[arg-type]
        drafters.attached = attached

    patch.setattr(Drafters, "killed", broken)


def a_laggard_stays(patch: Patch) -> None:
    """It is told to go, and remains one of the session's drafters."""
    patch.setattr(Drafters, "leave", lambda drafters, stream: None)


def an_owner_that_returns_is_told_nothing(patch: Patch) -> None:
    """What was committed while it was away."""
    patch.setattr(cloud_module, "caught_up", lambda log, length, logprobs: None)


# ---- several servers ----


def what_the_old_server_says_counts(patch: Patch) -> None:
    """While an edge moves, both servers extend its log."""

    def broken(streams: Streams, stream: int, message: CloudMessage) -> bool:
        leaving = streams.leaving is not None and stream == streams.leaving.stream
        return leaving or stream == streams.current

    patch.setattr(Streams, "counts", broken)


def what_the_old_server_said_is_lost(patch: Patch) -> None:
    """The new one came to nothing, and what was held back is thrown away."""
    stay = Streams.stay

    def broken(streams: Streams) -> Leaving | None:
        old = stay(streams)
        if old is not None:
            old.held = [message for message in old.held if not isinstance(message, Commit)]
        return old

    patch.setattr(Streams, "stay", broken)


MUTANTS: tuple[Mutant, ...] = (
    an_attached_stream_outlives_its_session,
    a_grace_never_ends,
    a_rogue_ends_the_session,
    ids_of_attached_streams_are_never_forgotten,
    a_laggard_stays,
    an_owner_that_returns_is_told_nothing,
    what_the_old_server_said_is_lost,
)
"""Beside those of `broken.BROKEN`."""


FIRST = {what_the_old_server_said_is_lost: 600}
"""Where the worlds begin, if not at 0: a server that refuses a session which moves to it is rare."""


def _fuzz(first: int) -> None:
    for seed in range(first, first + WORLDS):
        make_world(seed).run(max_events=50_000)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_worlds_catch(mutant: Mutant, monkeypatch: pytest.MonkeyPatch):
    mutant(monkeypatch)
    with pytest.raises(Exception) as caught:  # a broken law, or a state that it excludes
        _fuzz(FIRST.get(mutant, 0))
    assert not isinstance(caught.value, TypeError | AttributeError), (
        "the mutant does not fit the code any more"
    )
