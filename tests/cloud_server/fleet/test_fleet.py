"""The fleet over places that do as they are told: numbers, order of facts, restarts, giving up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from cloud_server.fleet import fleet as fleets
from cloud_server.fleet.fleet import (
    Deserted,
    Fleet,
    FleetFact,
    Joined,
    Left,
    StepFailed,
    Stepped,
    WantsToLeave,
)
from cloud_server.fleet.member import (
    Answered,
    Description,
    Gone,
    HopelessError,
    Leaving,
    Raised,
    Report,
    StartError,
)
from cloud_server.profiled import ProfiledWorker
from cloud_server.worker import StateError
from shared.errors import UserError
from shared.messages import ModelInfo
from shared.profiled import Profile
from shared.step import Step, StepOutcome

INFO = ProfiledWorker(Profile()).info
DEADLINE_S = 30


class FakeMember:
    def __init__(self, info: ModelInfo = INFO, kv_tokens: int | None = None) -> None:
        self.description = Description(info, kv_tokens, "it")
        self.tell: Callable[[Report], None] | None = None
        self.steps: list[Step] = []
        self.closed: list[bool] = []

    def begin(self, report: Callable[[Report], None]) -> None:
        self.tell = report

    def submit(self, step: Step) -> None:
        self.steps.append(step)

    async def export_state(self, session: int) -> bytes | None:
        return b"state"

    async def import_state(self, session: int, log: Sequence[int], state: bytes) -> int:
        return len(log)

    async def close(self, *, kill: bool) -> str:
        self.closed.append(kill)
        return ""


class FakePlace:
    """Gives out what is put there; waits where there is nothing."""

    def __init__(self, *those: FakeMember | StartError, local: bool = True, name: str = "here") -> None:
        self.name = name
        self.local = local
        self.those: deque[FakeMember | StartError] = deque(those)
        self.more = asyncio.Event()
        self.opened = 0
        self.closed = False

    def put(self, one: FakeMember | StartError) -> None:
        self.those.append(one)
        self.more.set()

    async def open(self) -> FakeMember:
        while not self.those:
            self.more.clear()
            await self.more.wait()
        self.opened += 1
        one = self.those.popleft()
        if isinstance(one, StartError):
            raise one
        return one

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(fleets, "OTHERS_S", 0.05)
    monkeypatch.setattr(fleets, "REMOTE_S", 0.2)


async def started(*places: FakePlace) -> tuple[Fleet, asyncio.Queue[FleetFact]]:
    fleet = Fleet(places)
    await asyncio.wait_for(fleet.start(), DEADLINE_S)
    facts: asyncio.Queue[FleetFact] = asyncio.Queue()
    fleet.listen(facts.put_nowait)
    return fleet, facts


async def next_of(facts: asyncio.Queue[FleetFact]) -> FleetFact:
    return await asyncio.wait_for(facts.get(), DEADLINE_S)


def step(worker: int) -> Step:
    return Step(1, (), (), worker)


async def test_workers_join_under_numbers_of_their_own_and_answer() -> None:
    first, second = FakeMember(kv_tokens=100), FakeMember()
    fleet, facts = await started(FakePlace(first), FakePlace(second))
    assert [await next_of(facts), await next_of(facts)] == [Joined(0, 100, "it"), Joined(1, None, "it")]
    asked = step(1)
    fleet.submit(asked)
    assert (first.steps, second.steps) == ([], [asked])
    assert second.tell is not None
    second.tell(Answered(StepOutcome((), 5)))
    assert await next_of(facts) == Stepped(1, asked, StepOutcome((), 5))
    fleet.submit(asked)
    second.tell(Raised("MemoryError", "no room"))
    assert await next_of(facts) == StepFailed(1, asked, "MemoryError")
    assert await fleet.import_state(0, 3, (1, 2), await fleet.export_state(1, 3) or b"") == 2
    await fleet.stop()
    assert (first.closed, second.closed) == ([False], [False])


async def test_a_lost_worker_is_replaced_under_another_number_and_nothing_of_it_is_heard_any_more() -> None:
    first, second = FakeMember(), FakeMember()
    place = FakePlace(first)
    fleet, facts = await started(place)
    await next_of(facts)
    fleet.submit(step(0))
    assert first.tell is not None
    first.tell(Gone("it broke"))
    first.tell(Answered(StepOutcome((), 0)))  # on its way when it was lost
    assert await next_of(facts) == Left(0, "it broke")
    fleet.submit(step(0))  # asked before the fact was read
    with pytest.raises(StateError, match="worker 0 has left"):
        await fleet.export_state(0, 1)
    place.put(second)
    assert await next_of(facts) == Joined(1, None, "it")
    assert first.closed == [True], "it is killed, whatever it does"
    assert len(first.steps) == 1
    await fleet.stop()
    assert place.closed


async def test_one_that_wants_to_leave_is_retired_and_replaced() -> None:
    first, second = FakeMember(), FakeMember()
    fleet, facts = await started(FakePlace(first, second))
    await next_of(facts)
    assert first.tell is not None
    first.tell(Leaving())
    assert await next_of(facts) == WantsToLeave(0)
    fleet.retire(0)
    fleet.retire(0)
    assert await next_of(facts) == Left(0, "it was asked to go")
    assert await next_of(facts) == Joined(1, None, "it")
    assert first.closed == [False]
    await fleet.stop()


async def test_a_process_that_does_not_start_is_given_up_loudly() -> None:
    with pytest.raises(UserError, match="boom 3"):
        await started(FakePlace(*(StartError(f"boom {number}") for number in range(1, 9))))
    with pytest.raises(UserError, match=r"^no such model$"):
        await started(FakePlace(HopelessError("no such model"), FakeMember()))


async def test_failures_that_pass_are_no_reason_to_give_up() -> None:
    fleet, facts = await started(FakePlace(StartError("one"), StartError("two"), FakeMember()))
    assert await next_of(facts) == Joined(0, None, "it")
    await fleet.stop()


async def test_when_nobody_can_come_any_more_the_server_is_told() -> None:
    first, second = FakeMember(), FakeMember()
    places = FakePlace(first, *[StartError("boom")] * 3, name="a"), FakePlace(second, name="b")
    fleet, facts = await started(*places)
    await next_of(facts)
    await next_of(facts)
    for member, place in ((first, places[0]), (second, places[1])):
        assert member.tell is not None
        member.tell(Gone("it broke"))
        assert isinstance(await next_of(facts), Left)
        if member is first:
            async with asyncio.timeout(DEADLINE_S):
                while place.those:
                    await asyncio.sleep(0)
            assert facts.empty(), "the other one goes on"
    places[1].put(HopelessError("the disk is gone"))
    deserted = await next_of(facts)
    assert isinstance(deserted, Deserted)
    assert "none can be started: b: the disk is gone" in str(deserted.error)
    await fleet.stop()


async def test_a_bug_in_a_place_is_not_swallowed() -> None:
    class Broken(FakePlace):
        async def open(self) -> FakeMember:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await started(Broken())


async def test_workers_of_another_model_are_not_used() -> None:
    other = dataclasses.replace(INFO, model_fingerprint="other", name="other")
    with pytest.raises(UserError, match="another model"):
        await started(FakePlace(FakeMember()), FakePlace(FakeMember(other)))
    late, right = FakeMember(other), FakeMember()
    away = FakePlace(local=False, name="away")
    fleet, facts = await started(FakePlace(FakeMember()), away)
    await next_of(facts)
    away.put(late)
    away.put(right)  # somebody mends it
    assert await next_of(facts) == Joined(1, None, "it")
    assert (late.closed, late.tell) == ([False], None)
    await fleet.stop()


async def test_all_can_hold_a_session_of_the_context_that_is_promised() -> None:
    """At the start the smallest cache decides; whoever comes later must be as large."""
    small = dataclasses.replace(INFO, context_length=100)
    fleet = Fleet([FakePlace(FakeMember()), FakePlace(FakeMember(small))])
    assert (await fleet.start()).context_length == 100
    await fleet.stop()
    away = FakePlace(local=False)
    fleet, facts = await started(FakePlace(FakeMember()), away)
    await next_of(facts)
    away.put(FakeMember(small))
    away.put(FakeMember())
    assert await next_of(facts) == Joined(1, None, "it")
    await fleet.stop()


async def test_remote_workers_are_waited_for_but_not_for_ever() -> None:
    with pytest.raises(UserError, match=r"none of the workers answers \(away, far\).*cloud-server worker"):
        await started(FakePlace(local=False, name="away"), FakePlace(local=False, name="far"))
    fleet, facts = await started(FakePlace(FakeMember(), local=False), FakePlace(local=False))
    assert await next_of(facts) == Joined(0, None, "it")
    assert fleet.workers == {0: "it"}
    await fleet.stop()


async def test_one_that_dies_at_once_again_and_again_is_not_restarted_in_a_hot_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleets, "FIRST_PAUSE_S", 0.2)
    assert [fleets._pause_s(count) for count in (0, 1, 2, 3, 50)] == [0.0, 0.2, 0.4, 0.8, 10.0]
