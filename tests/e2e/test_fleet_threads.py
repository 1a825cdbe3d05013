"""Several workers in one process: what the engine makes of workers that lie, hang, fail and go."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import random
import threading
import urllib.request
from collections.abc import AsyncIterator, Sequence

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.engine import StreamLimits
from cloud_server.fleet.fleet import WantsToLeave
from cloud_server.fleet.member import Gone, StartError
from cloud_server.fleet.thread import ThreadMember, ThreadPlace
from cloud_server.loading import WorkerSpec, make_workers
from cloud_server.metrics_page import page
from cloud_server.profiled import ProfiledWorker
from cloud_server.verifier import Verifier
from cloud_server.worker import StateError
from scripts.pool_faults.plain import Heard, generate
from shared.messages import Draft, Limits
from shared.policy.batching import FlatBudget
from shared.policy.routing import RoundRobin
from shared.pool import PoolPolicies
from shared.profiled import Profile, ProfiledPair, decode
from shared.step import Fact, Step, StepOutcome
from tests.e2e.attack import left, until
from tests.e2e.raw import RawClient, opening
from tests.e2e.reference import TARGET

PROFILE = Profile(step_ms=2.0, draft_ms=0.0, vocabulary_size=1000)
PAIR = ProfiledPair(PROFILE)
DEADLINE_S = 60


class LosablePlace(ThreadPlace):
    """A thread that can be lost by decree, and replaced when it may be."""

    def __init__(self, name: str = "a thread") -> None:
        super().__init__(ProfiledWorker(PROFILE), name)
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.member: ThreadMember | None = None

    async def open(self) -> ThreadMember:
        await self.may_open.wait()
        self._worker = ProfiledWorker(PROFILE)
        self.member = await super().open()
        return self.member

    def lose(self) -> None:
        assert self.member is not None
        assert self.member._report is not None
        self.member._report(Gone("by decree"))


@contextlib.asynccontextmanager
async def served(
    places: Sequence[ThreadPlace], streams: StreamLimits | None = None, pool: PoolPolicies | None = None
) -> AsyncIterator[tuple[Serving, grpc.aio.Channel]]:
    options = ServeOptions(
        listen="127.0.0.1:0",
        streams=streams or StreamLimits(),
        pool=pool or PoolPolicies(routing=RoundRobin),
        budget=FlatBudget,
        drain_s=5.0,
    )
    async with (
        asyncio.timeout(DEADLINE_S),
        serving(places, options) as up,
        grpc.aio.insecure_channel(up.address) as channel,
    ):
        yield up, channel


async def health(channel: grpc.aio.Channel) -> str:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def right(heard: Heard, prompt: tuple[int, ...], new: int) -> bool:
    return heard.status is grpc.StatusCode.OK and heard.tokens == decode(PAIR, prompt, new)


def threads(count: int) -> list[ThreadPlace]:
    return [ThreadPlace(ProfiledWorker(PROFILE), f"thread {number}") for number in range(count)]


async def test_sessions_are_spread_over_the_workers() -> None:
    async with served(threads(3)) as (up, channel):
        heard = await asyncio.gather(*(generate(channel, (1, 2, i), 60) for i in range(6)))
        assert all(right(one, (1, 2, i), 60) for i, one in enumerate(heard))
        assert all(counts.steps > 10 for counts in up.metrics.workers.values())
        assert up.metrics.steps == sum(counts.steps for counts in up.metrics.workers.values())


async def test_several_workers_serve_one_session_at_once() -> None:
    """SP degree: with drafts in flight, steps of one session overlap."""
    out, most = 0, 0
    lock = threading.Lock()

    class Counting(ProfiledWorker):
        def step(self, step: Step) -> StepOutcome:
            nonlocal out, most
            with lock:
                out += any(not item.prefill_only for item in step.items)
                most = max(most, out)
            try:
                return super().step(step)
            finally:
                with lock:
                    out -= any(not item.prefill_only for item in step.items)

    slow = dataclasses.replace(PROFILE, step_ms=20.0)
    places = [ThreadPlace(Counting(slow), f"thread {number}") for number in range(3)]
    pool = PoolPolicies(routing=RoundRobin, sp_degree=3)
    async with served(places, pool=pool) as (up, _), RawClient(up.address) as client:
        assert (await client.model()).sp_degree == 3
        want = decode(PAIR, (1, 2, 3), 64)
        stream = await client.open(opening(new=64))
        await stream.send(Draft(1, 3, tuple(want[:40]), (0, *(1,) * 39), (1,) * 40, 3))
        await stream.rest()
        assert stream.committed == want
    assert most > 1


async def test_without_any_worker_sessions_wait_then_are_sent_away() -> None:
    place = LosablePlace()
    async with served([place], StreamLimits(no_worker_s=0.5)) as (up, channel):
        assert await health(channel) == "SERVING"
        place.may_open.clear()
        waiting = asyncio.create_task(generate(channel, (1, 2, 3), 400))
        await until(lambda: up.metrics.committed_tokens > 10)
        place.lose()
        await until(lambda: not up.metrics.workers)
        assert await health(channel) == "NOT_SERVING"
        heard = await waiting
        assert heard.status is grpc.StatusCode.UNAVAILABLE
        assert "open again with the log" in heard.detail
        assert heard.tokens == decode(PAIR, (1, 2, 3), 400)[: len(heard.tokens)]
        late = await generate(channel, (1, 2, 3), 10)
        assert (late.status, late.tokens) == (grpc.StatusCode.UNAVAILABLE, [])
        place.may_open.set()
        await until(lambda: bool(up.metrics.workers))
        assert right(await generate(channel, (1, 2, 3), 10), (1, 2, 3), 10)
        assert await health(channel) == "SERVING"
        await until(lambda: left(up) == [])


async def test_a_worker_that_comes_back_in_time_finds_its_sessions_waiting() -> None:
    place = LosablePlace()
    async with served([place], StreamLimits(no_worker_s=DEADLINE_S)) as (up, channel):
        place.may_open.clear()
        waiting = asyncio.create_task(generate(channel, (1, 2, 3), 200))
        await until(lambda: up.metrics.committed_tokens > 10)
        place.lose()
        await until(lambda: not up.metrics.workers)
        place.may_open.set()
        assert right(await waiting, (1, 2, 3), 200)


async def test_workers_lost_at_random_change_no_text() -> None:
    places = [LosablePlace(f"thread {number}") for number in range(3)]
    keyed = random.Random(7)
    async with served(places) as (up, channel):
        running = [asyncio.create_task(generate(channel, (1, 2, i), 300)) for i in range(8)]
        while not all(task.done() for task in running):
            await asyncio.sleep(0.02)
            place = keyed.choice(places)
            if place.member is not None and place.member._report is not None and len(up.fleet.workers) > 1:
                place.lose()
        assert all(right(task.result(), (1, 2, i), 300) for i, task in enumerate(running))
        assert up.metrics.workers_left > 2
        await until(lambda: left(up) == [])


async def test_a_state_that_does_not_arrive_costs_time_only(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(ProfiledWorker):
        def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
            raise StateError("its checksum is wrong")

    class Broken(ProfiledWorker):
        def export_state(self, session: int) -> bytes | None:
            raise ZeroDivisionError("a bug")

    places = [ThreadPlace(Deaf(PROFILE), "deaf"), ThreadPlace(Broken(PROFILE), "broken")]
    async with served(places) as (up, channel):
        running = [asyncio.create_task(generate(channel, tuple(range(1, 200 + i)), 150)) for i in range(4)]
        await until(lambda: up.metrics.committed_tokens > 40)
        up.engine._post(lambda: up.engine._learn(WantsToLeave(1)))
        await until(lambda: up.metrics.workers_left > 0)
        heard = await asyncio.gather(*running)
        assert all(right(one, tuple(range(1, 200 + i)), 150) for i, one in enumerate(heard))
        assert up.metrics.failed_transfers > 0
    assert "did not get to worker" in caplog.text


async def test_a_transfer_that_takes_too_long_is_given_up() -> None:
    go = threading.Event()

    class Slow(ProfiledWorker):
        def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
            go.wait(DEADLINE_S)
            return super().import_state(session, log, state)

    places = [ThreadPlace(Slow(PROFILE), "slow"), ThreadPlace(ProfiledWorker(PROFILE), "other")]
    async with served(places, StreamLimits(transfer_s=0.1)) as (up, channel):
        running = [asyncio.create_task(generate(channel, tuple(range(1, 200 + i)), 150)) for i in range(4)]
        await until(lambda: up.metrics.committed_tokens > 40)
        up.engine._post(lambda: up.engine._learn(WantsToLeave(1)))
        await until(lambda: up.metrics.failed_transfers > 0)
        go.set()
        heard = await asyncio.gather(*running)
        assert all(right(one, tuple(range(1, 200 + i)), 150) for i, one in enumerate(heard))


@pytest.mark.parametrize(("margin", "said"), [(2.0, "must not be"), (1e-6, None)])
async def test_a_worker_that_lies_is_found_out(
    margin: float, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A share of the facts is established twice: what differs is counted, and told beyond rounding."""

    class Liar(ProfiledWorker):
        def step(self, step: Step) -> StepOutcome:
            outcome = super().step(step)
            items = tuple(
                dataclasses.replace(
                    item,
                    facts=tuple(
                        (key, Fact((fact.token + 1) % 1000, margin) if item.session < 0 else fact)
                        for key, fact in item.facts
                    ),
                )
                for item in outcome.items
            )
            return dataclasses.replace(outcome, items=items)

    places = [ThreadPlace(Liar(PROFILE), "a"), ThreadPlace(Liar(PROFILE), "b")]
    pool = PoolPolicies(routing=RoundRobin, check_share=1.0)
    async with served(places, pool=pool) as (up, channel):
        heard = await asyncio.gather(*(generate(channel, (1, 2, i), 40) for i in range(2)))
        assert all(right(one, (1, 2, i), 40) for i, one in enumerate(heard)), "the first fact counts"
        assert up.metrics.pool is not None
        await until(lambda: up.metrics.pool is not None and len(up.metrics.pool.disagreements) > 3)
        ties = sum(one.near_tie for one in up.metrics.pool.disagreements)
        assert (ties == 0) == (said is not None)
        assert (said is None) or said in caplog.text
        assert "disagreements" in str(up.metrics)
    assert not any(str(token) in caplog.text for token in heard[0].tokens if token > 100)


async def test_honest_workers_agree() -> None:
    pool = PoolPolicies(routing=RoundRobin, check_share=0.5)
    async with served(threads(2), pool=pool) as (up, channel):
        await asyncio.gather(*(generate(channel, (1, 2, i), 60) for i in range(2)))
        assert up.metrics.pool is not None
        assert up.metrics.pool.checked > 5
        assert up.metrics.pool.disagreements == ()


async def test_a_bug_in_a_place_ends_the_server_loudly() -> None:
    class Buggy(LosablePlace):
        async def open(self) -> ThreadMember:
            if self.member is not None:
                raise ZeroDivisionError("a bug")
            return await super().open()

    place = Buggy()
    async with served([place]) as (up, _):
        place.lose()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(asyncio.shield(up.failed), DEADLINE_S)


async def test_when_no_worker_can_be_started_any_more_the_server_says_why() -> None:
    class Dying(LosablePlace):
        async def open(self) -> ThreadMember:
            if self.member is not None:
                raise StartError("out of memory")
            return await super().open()

    place = Dying("the only one")
    async with served([place]) as (up, _):
        place.lose()
        with pytest.raises(Exception, match="none can be started: out of memory"):
            await asyncio.wait_for(asyncio.shield(up.failed), DEADLINE_S)


async def test_the_page_for_prometheus() -> None:
    async with served(threads(2)) as (up, channel):
        await asyncio.gather(*(generate(channel, (1, 2, i), 30) for i in range(2)))
        with page("127.0.0.1:0", up.metrics) as address:

            def read() -> str:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                    return str(answer.read().decode())

            text = await asyncio.to_thread(read)
    assert "slipstream_committed_tokens_total 60.0" in text
    assert 'slipstream_worker_steps_total{place="thread 1",worker="1"}' in text
    assert 'slipstream_endings_total{status="OK"} 2.0' in text


# Nothing is left


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_1000_dropped_sessions_leave_no_page_of_a_real_target() -> None:
    spec = WorkerSpec(str(TARGET), "cpu", threads=1)
    verifiers = [worker for worker in make_workers(spec, 2) if isinstance(worker, Verifier)]
    places = [ThreadPlace(worker, f"thread {number}") for number, worker in enumerate(verifiers)]
    process = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), process.num_fds(), process.num_threads()

    options = ServeOptions(listen="127.0.0.1:0", limits=Limits(max_sessions=200), drain_s=5.0)
    async with serving(places, options) as up, grpc.aio.insecure_channel(up.address) as channel:

        async def drop(number: int) -> None:
            keyed = random.Random(number)
            prompt = tuple(keyed.randrange(4096) for _ in range(keyed.randrange(1, 200)))
            running = asyncio.create_task(generate(channel, prompt, 40, drop_after=keyed.randrange(1, 8)))
            await asyncio.wait((running,), timeout=keyed.random() * 0.5)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        await asyncio.gather(*(drop(10_000 + number) for number in range(40)))
        await until(lambda: left(up) == [])
        before = held()
        for first in range(0, 1000, 40):
            await asyncio.gather(*(drop(first + number) for number in range(40)))
        await until(lambda: left(up) == [])
        await until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
        await until(lambda: not any(books.cached for books in up.engine._front.pool._workers.values()))
        for verifier in verifiers:
            # What ended sessions computed stays for others while nobody needs the memory: such pages are free.
            await until(lambda one=verifier: (one.kv_counters.sessions, one.kv_counters.used_bytes) == (0, 0))
            assert verifier.pool.free_pages == verifier.pool.pages


def test_workers_of_one_process_share_the_weights() -> None:
    first, second = make_workers(WorkerSpec(str(TARGET), "cpu", threads=1), 2)
    assert isinstance(first, Verifier)
    assert isinstance(second, Verifier)
    assert first.target is second.target
    assert first.pool is not second.pool
