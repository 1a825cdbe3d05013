"""A worker behind gRPC: the two ends of the workers' protocol against each other, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from cloud_server.fleet.link import Link, dial
from cloud_server.fleet.member import Answered, Gone, HopelessError, Leaving, Raised, Report, StartError
from cloud_server.fleet.service import WorkerService
from cloud_server.fleet.serving import CHANNEL_OPTIONS
from cloud_server.profiled import ProfiledWorker
from cloud_server.worker import StateError
from shared.pb.slipstream.worker.v1 import worker_pb2_grpc as pb_grpc
from shared.profiled import Profile
from shared.sampling import SamplingParams
from shared.security import ClientSecrets
from shared.step import Step, StepItem, StepOutcome

PROFILE = Profile(step_ms=0.0, vocabulary_size=1000)
DEADLINE_S = 30.0


class SlowWorker(ProfiledWorker):
    """Its steps last until they are let go."""

    def __init__(self) -> None:
        super().__init__(PROFILE)
        self.go = threading.Event()

    def step(self, step: Step) -> StepOutcome:
        assert self.go.wait(DEADLINE_S)
        return super().step(step)


class FailingWorker(ProfiledWorker):
    def __init__(self) -> None:
        super().__init__(PROFILE)

    def step(self, step: Step) -> StepOutcome:
        if step.items:
            raise MemoryError("no room")
        return super().step(step)


class LumpyWorker(ProfiledWorker):
    """Has states of many messages."""

    def __init__(self) -> None:
        super().__init__(PROFILE)
        self.state = bytes(range(256)) * 20_000
        self.taken: dict[int, tuple[list[int], bytes]] = {}

    def export_state(self, session: int) -> bytes | None:
        return self.state if session == 1 else None

    def import_state(self, session: int, log: list[int], state: bytes) -> int:
        if state != self.state:
            raise StateError("its checksum is wrong")
        self.taken[session] = (list(log), state)
        return len(log)


@contextlib.asynccontextmanager
async def served(worker: ProfiledWorker, folder: Path) -> AsyncIterator[tuple[str, WorkerService]]:
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    service = WorkerService(worker, "nowhere")
    pb_grpc.add_WorkerServicer_to_server(service, server)
    target = f"unix:{folder / 'worker'}"
    server.add_insecure_port(target)
    await server.start()
    try:
        yield target, service
    finally:
        await server.stop(grace=None)
        await service.close()


@contextlib.asynccontextmanager
async def linked(target: str, deadline_s: float = 5.0) -> AsyncIterator[tuple[Link, asyncio.Queue[Report]]]:
    reports: asyncio.Queue[Report] = asyncio.Queue()
    link = await dial(target, "it", ClientSecrets(), deadline_s=deadline_s, within_s=DEADLINE_S, wait=False)
    link.begin(reports.put_nowait)
    try:
        yield link, reports
    finally:
        await link.close(kill=False)


async def next_of(reports: asyncio.Queue[Report]) -> Report:
    return await asyncio.wait_for(reports.get(), DEADLINE_S)


def step(number: int = 1, log: tuple[int, ...] = (1, 2, 3), session: int = 1) -> Step:
    return Step(number, (StepItem(session, log, len(log), (), 7, SamplingParams(), 1),))


async def test_a_step_is_answered_as_the_worker_itself_answers(tmp_path: Path) -> None:
    async with served(ProfiledWorker(PROFILE), tmp_path) as (target, _), linked(target) as (link, reports):
        assert link.description.info == ProfiledWorker(PROFILE).info
        assert link.description.kv_tokens is None
        for number in range(1, 20):
            log = tuple(range(1, number + 3))
            link.submit(step(number, log))
            answer = await next_of(reports)
            assert isinstance(answer, Answered)
            assert answer.outcome.items[0].facts == ProfiledWorker(PROFILE).step(step(1, log)).items[0].facts


async def test_a_step_that_raises_is_told_and_the_worker_goes_on(tmp_path: Path) -> None:
    async with served(FailingWorker(), tmp_path) as (target, _), linked(target) as (link, reports):
        link.submit(step())
        assert await next_of(reports) == Raised("MemoryError", "no room")
        link.submit(Step(2, (), (1,)))
        assert isinstance(await next_of(reports), Answered)


async def test_a_worker_serves_one_front_and_forgets_it(tmp_path: Path) -> None:
    worker = ProfiledWorker(PROFILE)
    async with served(worker, tmp_path) as (target, service):
        async with linked(target) as (link, reports):
            link.submit(step())
            await next_of(reports)
            assert await link.import_state(5, (1, 2, 3), await link.export_state(1) or b"") == 3
            with pytest.raises(StartError, match="another server uses this worker"):
                await dial(target, "it", ClientSecrets(), deadline_s=1.0, within_s=DEADLINE_S, wait=False)
            assert worker._facts.sessions == 2
        await asyncio.wait_for(service.alone(), DEADLINE_S)
        async with linked(target) as (link, reports):
            link.submit(step(1, (4, 5), session=9))
            await next_of(reports)
            assert worker._facts.sessions == 1, "what the first one had is gone, imported or not"


async def test_pings_are_answered_while_a_step_runs(tmp_path: Path) -> None:
    """A step longer than the deadline is no reason to give its worker up."""
    worker = SlowWorker()
    async with served(worker, tmp_path) as (target, _), linked(target, deadline_s=0.4) as (link, reports):
        link.submit(step())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reports.get(), 1.2)
        worker.go.set()
        assert isinstance(await next_of(reports), Answered)


async def test_a_worker_that_does_not_answer_is_lost_within_its_deadline(tmp_path: Path) -> None:
    """Also when it has nothing to do."""
    loop = asyncio.get_running_loop()
    async with (
        served(ProfiledWorker(PROFILE), tmp_path) as (target, service),
        linked(target, deadline_s=0.6) as (_, reports),
    ):
        front = service._front
        assert front is not None
        front.outgoing = asyncio.Queue()  # whatever it says from now on, nobody sends
        began = loop.time()
        assert await next_of(reports) == Gone("it has not answered for 0.6 s")
        assert 0.3 < loop.time() - began < 1.2


async def test_a_front_that_was_held_up_itself_blames_nobody(tmp_path: Path) -> None:
    worker = ProfiledWorker(PROFILE)
    async with served(worker, tmp_path) as (target, _), linked(target, deadline_s=0.4) as (link, reports):
        for _ in range(3):
            await asyncio.sleep(0.05)
            threading.Event().wait(0.8)  # the event loop stands still, pongs wait unread
        link.submit(step())
        assert isinstance(await next_of(reports), Answered)


async def test_a_worker_that_wants_to_leave_says_so(tmp_path: Path) -> None:
    async with served(ProfiledWorker(PROFILE), tmp_path) as (target, service), linked(target) as (_, reports):
        service.leave()
        assert await next_of(reports) == Leaving()


async def test_a_lost_connection_is_told_once(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        target, _ = await stack.enter_async_context(served(ProfiledWorker(PROFILE), tmp_path))
        async with linked(target) as (link, reports):
            await stack.aclose()
            assert isinstance(await next_of(reports), Gone)
            link.submit(step())  # not known to it yet
            await asyncio.sleep(0.05)
            assert reports.empty()


async def test_states_of_many_messages_arrive_whole(tmp_path: Path) -> None:
    worker = LumpyWorker()
    async with served(worker, tmp_path) as (target, _), linked(target) as (link, _):
        state = await link.export_state(1)
        assert state == worker.state
        assert await link.export_state(2) is None
        log = tuple(range(5000))
        assert await link.import_state(3, log, state) == 5000
        assert worker.taken[3] == (list(log), state)
        with pytest.raises(StateError, match="its checksum is wrong"):
            await link.import_state(3, log, state[:-1])


async def test_a_front_that_makes_no_sense_is_dismissed_with_the_reason(tmp_path: Path) -> None:
    async with served(ProfiledWorker(PROFILE), tmp_path) as (target, service):
        async with linked(target) as (link, reports):
            link._encoder._sent[1] = 2
            link.submit(step())
            gone = await next_of(reports)
            assert isinstance(gone, Gone)
            assert "session 1 was never begun" in gone.reason
        await asyncio.wait_for(service.alone(), DEADLINE_S)


async def test_another_version_is_hopeless(tmp_path: Path) -> None:
    async with served(ProfiledWorker(PROFILE), tmp_path) as (target, service):
        service._description.protocol_version = 2
        with pytest.raises(HopelessError, match="install the same release"):
            await dial(target, "it", ClientSecrets(), deadline_s=1.0, within_s=DEADLINE_S, wait=False)


async def test_nobody_at_the_address(tmp_path: Path) -> None:
    with pytest.raises(StartError):
        await dial(
            f"unix:{tmp_path}/no", "it", ClientSecrets(), deadline_s=1.0, within_s=DEADLINE_S, wait=False
        )
    with pytest.raises(StartError, match="no answer within"):
        await dial(f"unix:{tmp_path}/no", "it", ClientSecrets(), deadline_s=1.0, within_s=0.3, wait=True)
