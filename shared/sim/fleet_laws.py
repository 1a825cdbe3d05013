"""What must hold of a fleet at any time: law 4 with several workers, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shared.policy.hedging import NoHedging
from shared.pool.books import keys_of
from shared.session.cloud import CloudSession
from shared.sim.setting import LawBroken
from shared.step import Step

if TYPE_CHECKING:
    from shared.sim.fleet import Fleet, SimWorker

_NONE: frozenset[int] = frozenset()


def check_time(fleet: Fleet) -> None:
    """Who wanted to be asked again was, and had something to say."""
    if fleet.wants_at is not None and fleet.wants_at < fleet.setting.clock.now:
        raise LawBroken("the pool wanted to be asked at a time that has passed, and had nothing to ask for")


def check_progress(fleet: Fleet, sessions: Sequence[CloudSession], longest: int) -> None:
    """Law 4: the fact at an end never waits for nothing. `longest` is the longest patience there may be (ns)."""
    now = fleet.setting.clock.now
    fleet.changed = False
    _check_drains(fleet, sessions)
    out = _out(fleet)
    for session in sessions:
        lost = session.in_flight - out.get(session.key, _NONE)
        if lost:
            raise LawBroken(f"facts {sorted(lost)} of session {session.key} are in flight nowhere")
    waiting = {one.key: due for one in sessions if (due := one.end_due_at()) is not None}
    for key, due in waiting.items():
        if due > now + longest:
            raise LawBroken(f"session {key} waits for longer than any patience is granted")
        if due < now and not _carried(fleet, key):
            _check_waits(fleet, key, waiting)


def _check_drains(fleet: Fleet, sessions: Sequence[CloudSession]) -> None:
    """A draining worker's sessions are on their way to another, if there is one."""
    if not fleet.draining or not any(_takes_sessions(worker) for worker in fleet.serving):
        return
    for session in sessions:
        home = fleet.front.pool.home_of(session.key)
        if home in fleet.draining and all(transfer.session != session.key for transfer in fleet.moving):
            raise LawBroken(f"session {session.key} stays with worker {home}, which drains")


def _takes_sessions(worker: SimWorker) -> bool:
    """Whether the pool has no reason to think otherwise. One that hangs, it may have given up on."""
    return worker.thaws_at is None and not worker.dead and worker.step is None


def _check_waits(fleet: Fleet, session: int, waiting: Mapping[int, int]) -> None:
    """A session that is due and in no worker's step: it waits for its worker, or for any."""
    home = fleet.front.pool.home_of(session)
    worker = fleet.workers.get(home) if home is not None else None
    if home is not None and worker is None:
        raise LawBroken(f"session {session} belongs to worker {home}, which is not there")
    if worker is None and any(one.step is None for one in fleet.serving):
        raise LawBroken(f"session {session} is due and belongs to no worker, though there are some")
    if worker is None or worker.step is not None:
        return
    if worker.plan.kv_tokens is not None and any(due > fleet.setting.clock.now for due in waiting.values()):
        return  # perhaps an older one takes up all the room, and waits out its patience
    raise LawBroken(f"session {session} is due, and its worker {home} is idle")


def check_new(fleet: Fleet, step: Step) -> None:
    """No fact is asked for that was stated; none is asked of two workers, unless one of them was given up on."""
    for item in step.items:
        known = fleet.stated.get(item.session, set()).intersection(keys_of(item))
        if known:
            raise LawBroken(f"step {step.number} asks for facts {sorted(known)} of {item.session} once more")
    if not isinstance(fleet.front.pool.policies.hedging, NoHedging):
        return
    out = _out(fleet)
    for item in step.items:
        twice = out.get(item.session, _NONE).intersection(keys_of(item))
        if twice:
            raise LawBroken(f"step {step.number} asks once more for facts {sorted(twice)} of {item.session}")


def note_stated(fleet: Fleet, step: Step) -> None:
    """A worker has answered: what it stated is known until the session ends. A check of a fact is no session."""
    for session in step.released:
        fleet.stated.pop(session, None)
    for item in step.items:
        if item.session >= 0:
            fleet.stated.setdefault(item.session, set()).update(keys_of(item))


def _out(fleet: Fleet) -> dict[int, set[int]]:
    """By session, keys of the nodes whose facts some worker was asked for, and has not stated."""
    out: dict[int, set[int]] = {}
    for worker in fleet.workers.values():
        for item in worker.step.items if worker.step is not None else ():
            out.setdefault(item.session, set()).update(keys_of(item))
    return out


def _carried(fleet: Fleet, session: int) -> bool:
    """Whether a worker prefills the session's log or its KV is on its way."""
    items = (
        item for worker in fleet.workers.values() if worker.step is not None for item in worker.step.items
    )
    return any(item.session == session for item in items) or any(
        transfer.session == session for transfer in fleet.moving
    )


def check_empty(fleet: Fleet) -> None:
    """Nothing is left in the workers, and nothing on its way between them."""
    for worker in fleet.workers.values():
        if worker.dead:
            continue
        if worker.step is not None:
            raise LawBroken(f"worker {worker.number} still has step {worker.step.number}")
        if worker.model.held:
            raise LawBroken(f"{worker.model.held} sessions left in the cache of worker {worker.number}")
    if fleet.moving:
        raise LawBroken(f"{len(fleet.moving)} transfers never came to an end")
    if fleet.front.pool.disagreements:
        raise LawBroken(f"facts disagree: {fleet.front.pool.disagreements[0]}")
    if fleet.draining:
        raise LawBroken(f"workers {sorted(fleet.draining)} drain with nothing to do")
