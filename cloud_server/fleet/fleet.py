"""Fleet: all workers of one server behind one asyncio interface, however many come and go.

A task for each place opens a worker there, says that it has joined, waits until it is lost, says that it has left, and
begins again. The engine hears of everything as facts, in order: none about a worker before it has joined or after it
has left, and its step's answer at most once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cloud_server.fleet.member import (
    Answered,
    Gone,
    HopelessError,
    Leaving,
    Member,
    Place,
    Raised,
    Report,
    StartError,
)
from cloud_server.worker import StateError
from shared.errors import UserError
from shared.messages import ModelInfo
from shared.step import Step, StepOutcome

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 10.0
LIVED_S: Final = 10.0
"""A worker that served for so long is replaced at once, however often that happens."""
MOST_FAILURES: Final = 3
"""Failures to start, in a row, after which a process is not started again."""
OTHERS_S: Final = 3.0
"""That other remote workers get to answer once the first has."""
REMOTE_S: Final = 30.0
"""That the first of the remote workers gets, where this server has none of its own."""


# What the engine hears.


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker is up."""

    worker: int
    """Its number, never used before."""
    kv_tokens: int | None
    name: str
    """For people."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step has come back."""

    worker: int
    step: Step
    outcome: StepOutcome


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step raised in the worker, which has lost its caches and goes on."""

    worker: int
    step: Step
    error: str
    """Name of the error."""


@dataclass(frozen=True, slots=True)
class WantsToLeave:
    """Its sessions should be moved; `Fleet.retire` then."""

    worker: int


@dataclass(frozen=True, slots=True)
class Left:
    """A worker is lost, or was retired. Its step, if it had one, will not come back."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Deserted:
    """No place is left that could have a worker again."""

    error: BaseException


FleetFact = Joined | Stepped | StepFailed | WantsToLeave | Left | Deserted


@dataclass(slots=True)
class _Up:
    """A worker that has joined."""

    member: Member
    since: float
    gone: asyncio.Future[Gone | None]
    """None: it was retired."""
    step: Step | None = None


class Fleet:
    """Made, used and stopped on one event loop: `start`, then `listen`, then steps; `stop` at the end."""

    def __init__(self, places: Sequence[Place]) -> None:
        if not places:
            raise ValueError("a fleet without places")
        self._places = tuple(places)
        self._info: ModelInfo | None = None
        self._settled = False
        """Whether the model is what it will stay: every worker from now on must have it."""
        self._up: dict[int, _Up] = {}
        self._last = -1
        self._tasks: list[asyncio.Task[None]] = []
        self._facts: list[FleetFact] = []
        self._post: Callable[[FleetFact], None] | None = None
        self._changed = asyncio.Event()
        self._broken: BaseException | None = None
        self._hopeless: list[str] = []
        """Why places have been given up."""
        self.starts: dict[str, int] = {}
        """How often a worker was started at each place, for metrics."""

    @property
    def workers(self) -> dict[int, str]:
        """Workers that are up, and where."""
        return {worker: up.member.description.name for worker, up in self._up.items()}

    async def start(self) -> ModelInfo:
        """Have workers started; returns the model that all of them serve, once this server's own are up, or some of
        the others.

        Raises:
            UserError: one of its own cannot be started, none of the others answers, or they have different models.
        """
        for place in self._places:
            task = asyncio.create_task(self._keep(place), name=f"keep {place.name}")
            task.add_done_callback(self._surface)
            self._tasks.append(task)
        try:
            await self._settle()
        except BaseException:
            await self.stop()
            raise
        self._settled = True
        if self._info is None:
            raise AssertionError("a worker has joined")
        return self._info

    def listen(self, post: Callable[[FleetFact], None]) -> None:
        """Have facts posted, those first that have been waiting."""
        self._post = post
        for fact in self._facts:
            post(fact)
        self._facts.clear()

    def submit(self, step: Step) -> None:
        """Have a worker perform a step, its only one. `Stepped`, `StepFailed` or `Left` follows."""
        up = self._up.get(step.worker)
        if up is not None:  # else it has left, and whoever asks will hear of it
            up.step = step
            up.member.submit(step)

    def retire(self, worker: int) -> None:
        """Do without a worker that has nothing to do; its place has another in its stead. `Left` follows."""
        up = self._up.get(worker)
        if up is not None and not up.gone.done():
            up.gone.set_result(None)

    async def export_state(self, worker: int, session: int) -> bytes | None:
        """See `Movable.export_state`.

        Raises:
            StateError: the worker is lost.
        """
        return await self._member(worker).export_state(session)

    async def import_state(self, worker: int, session: int, log: Sequence[int], state: bytes) -> int:
        """See `Movable.import_state`.

        Raises:
            StateError: it cannot be used, or the worker is lost.
        """
        return await self._member(worker).import_state(session, log, state)

    async def stop(self) -> None:
        """Give every worker back; steps that are out end in their own time."""
        self._post = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for place in self._places:
            await place.close()

    # ---- a place's task ----

    async def _keep(self, place: Place) -> None:
        shortly = unstarted = 0
        """Workers in a row that served for a moment only, and of these those that did not start."""
        while True:
            lived_s = 0.0
            try:
                lived_s = await self._serve(place, await place.open())
                unstarted = 0
            except StartError as error:
                unstarted += 1
                hopeless = isinstance(error, HopelessError) or unstarted >= MOST_FAILURES
                if hopeless if place.local else isinstance(error, HopelessError) and not self._settled:
                    self._give_up(place, error)
                    return
                if unstarted == 1:
                    log.warning("no worker at %s (%s): trying again", place.name, error)
            shortly = 0 if lived_s >= LIVED_S else shortly + 1
            await asyncio.sleep(_pause_s(shortly))

    async def _serve(self, place: Place, member: Member) -> float:
        """From a worker's joining to its end; returns for how long it served, in seconds."""
        loop = asyncio.get_running_loop()
        trouble = self._trouble(member)
        if trouble is not None:
            await member.close(kill=False)
            raise HopelessError(trouble)
        self._last += 1
        worker, up = self._last, _Up(member, loop.time(), loop.create_future())
        self._up[worker] = up
        self.starts[place.name] = self.starts.get(place.name, 0) + 1
        name = member.description.name
        member.begin(partial(self._report, worker))
        log.info("worker %d is up: %s", worker, name)
        self._tell(Joined(worker, member.description.kv_tokens, name))
        self._changed.set()
        lost = True
        reason = "this server ends"
        try:
            gone = await up.gone
            lost = gone is not None
            reason = gone.reason if gone is not None else "it was asked to go"
        except asyncio.CancelledError:
            lost = False
            raise
        finally:
            del self._up[worker]
            self._tell(Left(worker, reason))
            ending = await member.close(kill=lost)
            said = log.warning if lost else log.info
            said("worker %d, %s, has left: %s%s", worker, name, reason, f"; {ending}" if ending else "")
        return loop.time() - up.since

    def _report(self, worker: int, report: Report) -> None:
        up = self._up.get(worker)
        if up is None or up.gone.done():
            return
        match report:
            case Gone():
                up.gone.set_result(report)
            case Leaving():
                log.info("worker %d wants to leave: its sessions are moved", worker)
                self._tell(WantsToLeave(worker))
            case Answered(outcome):
                self._tell(Stepped(worker, self._returned(up), outcome))
            case Raised(error, message):
                log.error("a step failed on worker %d: %s: %s", worker, error, message)
                self._tell(StepFailed(worker, self._returned(up), error))

    # ---- inside ----

    def _returned(self, up: _Up) -> Step:
        step, up.step = up.step, None
        if step is None:
            raise RuntimeError(f"{up.member.description.name} answers a step that it was not asked for")
        return step

    def _tell(self, fact: FleetFact) -> None:
        if self._post is not None:
            self._post(fact)
        else:
            self._facts.append(fact)

    def _member(self, worker: int) -> Member:
        up = self._up.get(worker)
        if up is None:
            raise StateError(f"worker {worker} has left")
        return up.member

    def _trouble(self, member: Member) -> str | None:
        """Why a worker cannot serve beside the others; None: it can. The first ones decide what the model is."""
        found, known = member.description.info, self._info
        if known is None:
            self._info = found
            return None
        if found.model_fingerprint != known.model_fingerprint:
            return f"it serves another model ({found.name}) than the other workers ({known.name})"
        if found.context_length >= known.context_length:
            return None
        if not self._settled:
            self._info = replace(known, context_length=found.context_length)
            return None
        return (
            f"its cache is too small for sessions of {known.context_length} tokens: give it as much memory as the "
            "other workers have (--kv-cache-mb)"
        )

    def _give_up(self, place: Place, error: StartError) -> None:
        self._hopeless.append(
            str(error) if place.local and len(self._places) == 1 else f"{place.name}: {error}"
        )
        self._changed.set()
        if not self._settled:
            return  # `start` tells
        log.error("no worker at %s any more: %s", place.name, error)
        if len(self._hopeless) == len(self._places):
            self._tell(
                Deserted(UserError(f"no worker is left, and none can be started: {self._hopeless[-1]}"))
            )

    def _surface(self, task: asyncio.Task[None]) -> None:
        """A place's task that died of a bug takes the server with it, loudly."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._changed.set()
            self._tell(Deserted(error))

    async def _settle(self) -> None:
        own = sum(place.local for place in self._places)
        if not own:
            try:
                async with asyncio.timeout(REMOTE_S):
                    await self._until(1)
            except TimeoutError as error:
                names = ", ".join(place.name for place in self._places)
                raise UserError(
                    f"none of the workers answers ({names}): start them with `cloud-server worker --listen HOST:PORT`"
                ) from error
        await self._until(own)
        if len(self._up) < len(self._places):
            try:
                async with asyncio.timeout(OTHERS_S):
                    await self._until(len(self._places))
            except TimeoutError:
                log.warning("serving with %d of %d workers", len(self._up), len(self._places))

    async def _until(self, count: int) -> None:
        """Wait for so many workers.

        Raises:
            UserError: a place will not have one.
        """
        while len(self._up) < count:
            self._changed.clear()
            if self._broken is not None:
                raise self._broken
            if self._hopeless:
                raise UserError(self._hopeless[0])
            await self._changed.wait()


def _pause_s(failures: int) -> float:
    return min(FIRST_PAUSE_S * math.pow(2.0, failures - 1), LONGEST_PAUSE_S) if failures else 0.0
