"""Several servers at the edge, over real gRPC: one is left for another, and the text is the target's own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import socket
from collections.abc import AsyncIterator, Sequence

import pytest

from edge_client.app import Client, ClientOptions, DraftOptions, GenerateOptions, GenerateResult, Mode
from edge_client.notices import ConnectionBack, ConnectionLost, Moved, Notice, ServerDown
from edge_client.result import GenerationFailedError
from edge_client.security import ClientSecurity
from shared.errors import Status, UserError
from shared.messages import Close, Drain, Limits, Open
from shared.policy.servers import Balance
from shared.profiled import ProfiledPair, decode
from shared.wire import cloud_message_to_wire
from tests.edge_client.fake_cloud import PROFILE, FakeCloud, Faults, info, serve

PROMPT = (7, 8, 9)
SLOW = dataclasses.replace(PROFILE, step_ms=4.0)
PAIR = ProfiledPair(PROFILE)
DRAFTER = "profiled:acceptance=0.8,draft_ms=0.2,vocabulary_size=1000,context_length=2000"
OPEN = ClientSecurity(insecure_beyond_loopback=True)
CLOUD = DraftOptions(mode=Mode.CLOUD)


class Fleet:
    """Servers and a client of all of them."""

    def __init__(self, clouds: Sequence[FakeCloud], addresses: Sequence[str], client: Client) -> None:
        self.clouds = clouds
        self.addresses = addresses
        self.client = client
        self.notices: list[Notice] = []

    async def generate(self, tokens: int = 60, prompt: tuple[int, ...] = PROMPT, **more) -> GenerateResult:
        options = GenerateOptions(prompt=prompt, max_new_tokens=tokens, **more)
        result = await self.client.generate(options, on_notice=self.notices.append)
        assert result.tokens == tuple(decode(PAIR, prompt, tokens))
        return result

    def serving(self) -> tuple[FakeCloud, str]:
        """The one that has a session."""
        return next(pair for pair in zip(self.clouds, self.addresses, strict=True) if pair[0].front.sessions)

    async def begun(self, messages: int = 4) -> tuple[FakeCloud, str]:
        async with asyncio.timeout(20):
            while not any(len(stream) >= messages for cloud in self.clouds for stream in cloud.received):
                await asyncio.sleep(0.002)
        return self.serving()


@contextlib.asynccontextmanager
async def fleet(*clouds: FakeCloud, down: int = 0, drafter: str = DRAFTER, **more) -> AsyncIterator[Fleet]:
    """`down`: so many of the first are not served."""
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(serve(cloud)) for cloud in clouds]
        for cloud in clouds[:down]:
            await cloud.shut()
        options = ClientOptions(server=",".join(addresses), drafter=drafter, **more)
        notices: list[Notice] = []
        client = await stack.enter_async_context(Client(options, on_notice=notices.append))
        made = Fleet(clouds, addresses, client)
        made.notices = notices
        yield made


def opens(cloud: FakeCloud) -> int:
    return sum(isinstance(stream[0], Open) for stream in cloud.received if stream)


# ---- a server dies ----


async def test_sixteen_generations_go_on_when_one_of_three_servers_dies() -> None:
    async with fleet(*(FakeCloud(SLOW) for _ in range(3))) as up:
        prompts = [(5, number) for number in range(16)]
        running = [asyncio.create_task(up.generate(150, prompt)) for prompt in prompts]
        async with asyncio.timeout(20):
            while sum(cloud.front.sessions for cloud in up.clouds) < 16:
                await asyncio.sleep(0.002)
        spread = [cloud.front.sessions for cloud in up.clouds]
        victim = max(range(3), key=lambda index: spread[index])
        await up.clouds[victim].shut()
        results = await asyncio.gather(*running)
    assert min(spread) >= 1, spread
    moved = [result for result in results if result.stats.reconnects]
    assert len(moved) == spread[victim]
    assert all(len(result.stats.servers) == 2 for result in moved)
    assert all(up.addresses[victim] == result.stats.servers[0] for result in moved)
    lost = [notice for notice in up.notices if isinstance(notice, ConnectionLost)]
    assert {notice.server for notice in lost} == {up.addresses[victim]}
    assert sum(isinstance(notice, ConnectionBack) for notice in up.notices) == len(lost) == len(moved)


async def test_what_people_read_when_a_server_dies() -> None:
    async with fleet(FakeCloud(SLOW), FakeCloud(SLOW)) as up:
        running = asyncio.create_task(up.generate(200))
        cloud, address = await up.begun()
        await cloud.shut()
        await running
        (other,) = set(up.addresses) - {address}
    lost, back = map(str, up.notices)
    assert re.fullmatch(rf"{address} lost \([a-z ]+\), trying the other servers for 30 s", lost), lost
    assert re.fullmatch(rf"connected again to {other} after \d+\.\d s", back), back


async def test_a_server_that_comes_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_client.connections.PROBE_S", (0.05, 0.1))
    first, second, again = FakeCloud(SLOW), FakeCloud(SLOW), FakeCloud(SLOW)
    async with fleet(first, second, balance=Balance.FIRST) as up:
        running = asyncio.create_task(up.generate(200))
        await up.begun()
        await first.shut()
        await running
        async with serve(again, int(up.addresses[0].rpartition(":")[2])), asyncio.timeout(20):
            while not opens(again):
                await up.generate(3)
    assert opens(second) >= 1


async def test_the_secret_of_one_server_is_not_told_to_another() -> None:
    first = FakeCloud(SLOW, faults=Faults(break_after={1: 6}))
    second = FakeCloud(SLOW)
    async with fleet(first, second, balance=Balance.FIRST) as up:
        assert (await up.generate()).stats.servers == tuple(up.addresses)
    opening = second.received[0][0]
    assert isinstance(opening, Open)
    assert len(opening.tokens) > len(PROMPT)
    assert (opening.session_id, opening.secret) == ("", "")


# ---- a server goes away ----


async def test_a_server_that_drains_is_left_without_a_loss() -> None:
    first, second = FakeCloud(SLOW), FakeCloud(SLOW)
    async with fleet(first, second, balance=Balance.FIRST) as up:
        running = asyncio.create_task(up.generate(200))
        await up.begun()
        first.drain()
        result = await running
        await first.until(lambda: first.front.sessions == 0)
    assert (result.stats.moves, result.stats.reconnects) == (1, 0)
    assert result.stats.servers == tuple(up.addresses)
    assert isinstance(first.received[0][-1], Close)
    assert first.vanished == 0
    opening = second.received[0][0]
    assert isinstance(opening, Open)
    assert len(opening.tokens) > len(PROMPT)
    assert up.notices == [Moved(*up.addresses)]
    assert str(up.notices[0]) == (
        f"{up.addresses[0]} is going away: the generation goes on at {up.addresses[1]}"
    )


async def test_when_the_others_are_full_a_server_that_drains_serves_to_the_end() -> None:
    full = FakeCloud(faults=Faults(end_with=(Status.RESOURCE_EXHAUSTED, "full")))
    first = FakeCloud(SLOW)
    async with fleet(first, full, balance=Balance.FIRST) as up:
        running = asyncio.create_task(up.generate(150))
        await up.begun()
        first.drain()
        result = await running
    assert (result.stats.moves, result.stats.reconnects) == (0, 0)
    assert opens(full) == 0
    assert len(full.received) == 1
    assert up.notices == []


@pytest.mark.parametrize(
    ("status", "pushback_ms"),
    [(Status.INTERNAL, None), (Status.UNKNOWN, None), (Status.RESOURCE_EXHAUSTED, 0)],
)
async def test_one_that_takes_nothing_is_not_asked_over_and_over(
    status: Status, pushback_ms: int | None
) -> None:
    broken = FakeCloud(faults=Faults(end_with=(status, "no"), pushback_ms=pushback_ms))
    first = FakeCloud(SLOW)
    async with fleet(first, broken, balance=Balance.FIRST) as up:
        running = asyncio.create_task(up.generate(150))
        await up.begun()
        first.drain()
        result = await running
    assert (result.stats.moves, result.stats.reconnects) == (0, 0)
    assert len(broken.received) == 1


async def test_a_server_may_name_one_that_nobody_has_heard_of() -> None:
    other = FakeCloud(SLOW)
    async with serve(other) as address:
        first = FakeCloud(
            SLOW,
            faults=Faults(
                say=lambda said: cloud_message_to_wire(Drain(address) if isinstance(said, Drain) else said)
            ),
        )
        async with fleet(first) as up:
            running = asyncio.create_task(up.generate(200))
            await up.begun()
            first.drain()
            result = await running
    assert result.stats.servers == (up.addresses[0], address)
    assert (result.stats.moves, result.stats.reconnects) == (1, 0)


async def test_a_server_may_not_send_anybody_into_the_open() -> None:
    """Plain text to another machine is refused, wherever the address comes from."""
    first = FakeCloud(
        SLOW,
        faults=Faults(
            say=lambda said: cloud_message_to_wire(Drain("192.0.2.1:1") if isinstance(said, Drain) else said)
        ),
    )
    async with fleet(first) as up:
        running = asyncio.create_task(up.generate(150))
        await up.begun()
        first.drain()
        assert (await running).stats.moves == 0
    (notice,) = up.notices
    assert "192.0.2.1:1 is another machine and the connection is not encrypted" in str(notice)


# ---- no room ----


async def test_a_full_server_is_passed_over() -> None:
    full = FakeCloud(faults=Faults(end_with=(Status.RESOURCE_EXHAUSTED, "full"), pushback_ms=60_000))
    second = FakeCloud()
    async with fleet(full, second, balance=Balance.FIRST) as up:
        for _ in range(3):
            await up.generate(5)
    assert (len(full.received), opens(second)) == (1, 3), "it is left alone for as long as it asked"
    assert up.notices == []


async def test_when_all_are_full_it_says_when_to_come_again() -> None:
    clouds = [
        FakeCloud(
            faults=Faults(end_with=(Status.RESOURCE_EXHAUSTED, "all 4 sessions are taken"), pushback_ms=wait)
        )
        for wait in (2500, 1500, 4000)
    ]
    async with fleet(*clouds, balance=Balance.FIRST) as up:
        with pytest.raises(GenerationFailedError) as failure:
            await up.generate(5)
        assert failure.value.status is Status.RESOURCE_EXHAUSTED
        one, two, three = up.addresses
        assert str(failure.value) == (
            f"none of {one}, {two} and {three} has room for the session (all 4 sessions are taken): "
            "try again in 1.5 s (RESOURCE_EXHAUSTED)"
        )
        assert [len(cloud.received) for cloud in clouds] == [1, 1, 1]
        with pytest.raises(GenerationFailedError, match="try again in"):
            await up.generate(5)  # at once: it is not for the client to sit the time out


async def test_one_full_server_says_when_to_come_again() -> None:
    full = FakeCloud(faults=Faults(end_with=(Status.RESOURCE_EXHAUSTED, "full"), pushback_ms=2000))
    async with fleet(full) as up:
        with pytest.raises(GenerationFailedError, match=r"^full: try again in 2 s \(RESOURCE_EXHAUSTED\)$"):
            await up.generate(5)
    assert len(full.received) == 1


async def test_a_lost_session_waits_for_room_as_long_as_it_was_told_to() -> None:
    first, second = FakeCloud(SLOW), FakeCloud(SLOW)
    second.faults = Faults(end_with=(Status.RESOURCE_EXHAUSTED, "full"), pushback_ms=300)
    async with fleet(first, second, balance=Balance.FIRST) as up:
        running = asyncio.create_task(up.generate(150))
        await up.begun()
        loop = asyncio.get_running_loop()
        await first.shut()
        began = loop.time()
        async with asyncio.timeout(20):
            while not second.received:
                await asyncio.sleep(0.002)
        second.faults = Faults()
        await running
    assert loop.time() - began >= 0.3
    assert opens(second) == 1


# ---- another model ----


async def test_another_model_is_never_used_and_that_is_said_once() -> None:
    other = FakeCloud(model=info(model_fingerprint="other" * 8))
    first = FakeCloud(SLOW)
    async with fleet(first, other, balance=Balance.FIRST) as up:
        running = asyncio.create_task(up.generate(400, give_up_after_s=0.3))
        await up.begun()
        await first.shut()
        with pytest.raises(GenerationFailedError, match="was lost"):
            await running
    assert other.received == []
    (unfit,) = (str(one) for one in up.notices if not isinstance(one, ConnectionLost))
    assert unfit == (
        f"{up.addresses[1]} holds another model (fake otherotherothero) than {up.addresses[0]}: it is not used, "
        "serve one model with the same settings everywhere"
    )


@pytest.mark.parametrize("fields", [{"tokenizer_fingerprint": "t"}, {"context_length": 999}])
async def test_what_would_change_a_text_is_another_model(fields: dict) -> None:
    other = FakeCloud(model=info(**fields))
    async with fleet(FakeCloud(), other, balance=Balance.HASH) as up:
        for prompt in range(8):
            await up.generate(2, (prompt,))
    assert other.received == []


async def test_a_server_that_changed_its_model_meanwhile_refuses_and_is_dropped() -> None:
    first, second, third = FakeCloud(SLOW), FakeCloud(SLOW), FakeCloud(SLOW)
    second.faults = Faults(end_with=(Status.FAILED_PRECONDITION, "this server holds another"))
    async with fleet(first, second, third, balance=Balance.FIRST) as up:
        running = asyncio.create_task(up.generate(200))
        await up.begun()
        await first.shut()
        result = await running
    assert result.stats.servers == (up.addresses[0], up.addresses[2])
    assert (
        f"{up.addresses[1]} does not take the session (this server holds another): it is not used any more"
        in map(str, up.notices)
    )


# ---- at the start ----


async def test_one_of_three_is_down_at_the_start() -> None:
    async with fleet(*(FakeCloud() for _ in range(3)), down=1) as up:
        await up.generate(5)
    assert up.notices == [
        ServerDown(
            up.addresses[0], "no server answers there, it is used once one does", tuple(up.addresses[1:])
        )
    ]
    assert str(up.notices[0]) == (
        f"{up.addresses[0]}: no server answers there, it is used once one does; going on with "
        f"{up.addresses[1]} and {up.addresses[2]}"
    )


async def test_one_that_is_silent_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_client.connections.LATECOMERS_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with serve(FakeCloud()) as address:
            loop = asyncio.get_running_loop()
            began, notices = loop.time(), []
            servers = f"127.0.0.1:{silent.getsockname()[1]},{address}"
            async with Client(ClientOptions(servers, DRAFTER), on_notice=notices.append) as client:
                result = await client.generate(GenerateOptions(PROMPT, 5))
            assert loop.time() - began < 4.0
    assert result.stats.servers == (address,)
    (notice,) = notices
    assert "it has not answered yet" in str(notice)


async def test_all_are_down_at_the_start() -> None:
    with pytest.raises(UserError) as failure:
        async with fleet(FakeCloud(), FakeCloud(), FakeCloud(), down=3):
            pytest.fail("opened")
    assert re.fullmatch(
        r"no server answers at 127.0.0.1:\d+, 127.0.0.1:\d+ or 127.0.0.1:\d+: start one with `cloud-server serve`, "
        r"or name another with --server HOST:PORT",
        str(failure.value),
    )


async def test_each_is_no_use_for_a_reason_of_its_own() -> None:
    old = FakeCloud(model=info(protocol_version=2))
    with pytest.raises(UserError) as failure:
        async with fleet(FakeCloud(), old, down=1):
            pytest.fail("opened")
    assert str(failure.value).startswith("none of the 2 servers can be used: no server answers at ")
    assert "speaks protocol version 2" in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("servers", "found"),
    [
        ("", "names no server"),
        (" , ", "names no server"),
        ("127.0.0.1:1,localhost", "--server localhost: expected HOST:PORT"),
        ("127.0.0.1:1,192.0.2.1:1", "192.0.2.1:1 is another machine"),
    ],
)
async def test_a_list_that_is_none(servers: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        await Client(ClientOptions(servers, "none")).__aenter__()


async def test_a_name_that_cannot_be_resolved_is_one_that_is_down() -> None:
    async with serve(FakeCloud()) as address:
        notices: list[Notice] = []
        options = ClientOptions(f"name.invalid:1,{address}", DRAFTER)
        async with Client(options, on_notice=notices.append) as client:
            await client.generate(GenerateOptions(PROMPT, 5))
    (down,) = map(str, notices)
    assert down == (
        "name.invalid:1: the name name.invalid cannot be resolved: check its spelling, or give an address; going on "
        f"with {address}"
    )


# ---- the spread ----


async def test_equal_beginnings_meet_at_one_server() -> None:
    async with fleet(*(FakeCloud() for _ in range(3)), drafter="none", balance=Balance.HASH) as up:
        shared = tuple(range(32))
        first = await up.generate(2, (*shared, 1), draft=CLOUD)
        for ending in range(2, 6):
            same = await up.generate(2, (*shared, ending), draft=CLOUD)
            assert same.stats.servers == first.stats.servers
        homes = {(await up.generate(2, (prompt,), draft=CLOUD)).stats.servers for prompt in range(40, 60)}
    assert len(homes) == 3


async def test_by_load_the_one_with_the_most_room_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = FakeCloud(model=info(open_sessions=60, limits=Limits(max_sessions=64)))
    idle = FakeCloud(model=info(open_sessions=3, limits=Limits(max_sessions=64)))
    async with fleet(busy, idle, drafter="none") as up:
        for _ in range(6):
            await up.generate(2, draft=CLOUD)
        assert (opens(busy), opens(idle)) == (0, 6)
        monkeypatch.setattr("edge_client.connections.FRESH_S", 0.0)
        idle.model = info(open_sessions=64, limits=Limits(max_sessions=64))
        assert (await up.generate(2, draft=CLOUD)).stats.servers == (up.addresses[0],)


# ---- a name with several addresses ----


def naming(monkeypatch: pytest.MonkeyPatch, hosts: list[str]) -> None:
    """`pool.test` has these addresses from now on; the list may be changed."""
    real = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **more):
        if host != "pool.test":
            return real(host, port, *args, **more)
        if not hosts:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_a_name_with_several_addresses_is_several_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_client.connections.PROBE_S", (0.05, 0.1))
    hosts = ["127.0.0.2", "127.0.0.3"]
    naming(monkeypatch, hosts)
    first, second, third = FakeCloud(SLOW), FakeCloud(SLOW), FakeCloud(SLOW)
    async with contextlib.AsyncExitStack() as stack:
        port = int((await stack.enter_async_context(serve(first, host="127.0.0.2"))).rpartition(":")[2])
        await stack.enter_async_context(serve(second, port, host="127.0.0.3"))
        client = await stack.enter_async_context(
            Client(ClientOptions(f"pool.test:{port}", DRAFTER, balance=Balance.FIRST, security=OPEN))
        )
        assert (await client.generate(GenerateOptions(PROMPT, 5))).stats.servers == (f"127.0.0.2:{port}",)
        await stack.enter_async_context(serve(third, port, host="127.0.0.4"))
        hosts[:] = ["127.0.0.3", "127.0.0.4"]
        await first.shut()
        async with asyncio.timeout(20):
            while "127.0.0.4" not in str(client._connections.servers):
                result = await client.generate(GenerateOptions(PROMPT, 5))
                assert result.tokens == tuple(decode(PAIR, PROMPT, 5))
        assert client._connections.servers == (f"127.0.0.3:{port}", f"127.0.0.4:{port}")
        hosts.clear()
        await second.shut()
        async with asyncio.timeout(20):
            while not opens(third):
                await client.generate(GenerateOptions(PROMPT, 5))
        assert client._connections.servers == (f"127.0.0.3:{port}", f"127.0.0.4:{port}"), (
            "what was known stays"
        )
