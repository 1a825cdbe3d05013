"""Several drafters on one session, over real gRPC: the text is the target's own, whoever drafts and whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from cloud_server.app import ServeOptions, Serving, serving
from cloud_server.engine import StreamLimits
from cloud_server.profiled import ProfiledWorker
from cloud_server.security import ServerSecurity
from edge_client.app import Client, ClientOptions, ClientSecurity, GenerateOptions
from edge_client.assist import Assistant, AssistOptions, Helped
from edge_client.driver import Event
from edge_client.result import GenerationFailedError
from edge_client.share import read_share
from edge_client.transport import Received
from shared.errors import Status, UserError
from shared.messages import (
    Attach,
    Attached,
    Close,
    Commit,
    Draft,
    Finish,
    FinishReason,
    Limits,
    Open,
    Opened,
    SessionNotice,
)
from shared.policy.expansion import Candidate
from shared.profiled import Profile, ProfiledPair, decode
from shared.sampling import SamplingParams
from tests.e2e.raw import RawClient, Stream, opening
from tests.e2e.reference import DRAFTER, TARGET, Reference
from tests.e2e.test_faults import process, until

T = TypeVar("T")
PROFILE = Profile(step_ms=4.0, draft_ms=0.5, vocabulary_size=1000)
PAIR = ProfiledPair(PROFILE)
GOOD = "profiled:draft_ms=0.5,vocabulary_size=1000"
PROMPT = (1, 2, 3)
TOKENS = 120
WANT = decode(PAIR, PROMPT, TOKENS)
DEADLINE_S = 60.0


class Fake:
    """A drafter that proposes what it is told to, and dies when it is told to."""

    vocabulary_size = 1000
    context_length = PROFILE.context_length
    supports_trees = True
    tokenizer_fingerprint = ""

    def __init__(self, propose: Callable[[int, int], list[Candidate]], dies_after: int | None = None) -> None:
        self._propose = propose
        self._dies_after = dies_after
        self.forwards = 0

    def forward(
        self,
        log: Sequence[int],
        log_length: int,
        paths: Sequence[tuple[int, ...]],
        sampling: SamplingParams,
        width: int,
    ) -> list[list[Candidate]]:
        self.forwards += 1
        if self.forwards == self._dies_after:
            raise RuntimeError("out of memory")
        return [self._propose(log_length + len(path) - len(PROMPT), width) for path in paths]

    def close(self) -> None:
        pass


def right(index: int, width: int) -> list[Candidate]:
    return [Candidate(WANT[index], 0.05)] if index < len(WANT) else []


def wrong(index: int, width: int) -> list[Candidate]:
    return [Candidate((WANT[index] + 1) % 1000, 0.05)] if index < len(WANT) else []


def random(index: int, width: int) -> list[Candidate]:
    return [Candidate((index * 7919 + rank * 104729) % 1000, 0.5 + rank) for rank in range(width)]


@contextlib.asynccontextmanager
async def server(**options: object) -> AsyncIterator[Serving]:
    fields: dict[str, object] = {"listen": "127.0.0.1:0"} | options
    async with serving(ProfiledWorker(PROFILE), ServeOptions(**fields)) as up:  # type: ignore[arg-type]
        yield up
        await until(lambda: (up.engine.streams, up.engine.sessions) == (0, 0))


def client(up: Serving, drafter: str = "none") -> Client:
    return Client(ClientOptions(server=up.address, drafter=drafter))


def assistant(up: Serving, drafter: Fake | None = None, token_file: Path | None = None) -> Assistant:
    security = ClientSecurity(token_file=token_file)
    options = ClientOptions(server=up.address, drafter=GOOD, security=security)
    return Assistant(options, AssistOptions(), drafter=drafter)


class Sharing:
    """Tells of the session as soon as it is open: what `--share` writes."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[SessionNotice] = asyncio.get_running_loop().create_future()

    def observe(self, now: int, event: Event) -> None:
        if isinstance(event, Received) and isinstance(event.message, Opened) and not self.opened.done():
            self.opened.set_result(SessionNotice(event.message.session_id, event.message.secret))


async def help_once(helper: Assistant, sharing: Sharing) -> Helped:
    return await helper.help_one(await sharing.opened)


ASKED = GenerateOptions(prompt=PROMPT, max_new_tokens=TOKENS)


@pytest.mark.parametrize("owner", ["none", GOOD])
@pytest.mark.parametrize("propose", [right, wrong, random])
async def test_the_text_is_the_targets_own(
    owner: str, propose: Callable[[int, int], list[Candidate]]
) -> None:
    async with server() as up, client(up, owner) as edge, assistant(up, Fake(propose)) as helper:
        sharing = Sharing()
        helping = asyncio.create_task(help_once(helper, sharing))
        result = await edge.generate(ASKED, observe=sharing.observe)
        helped = await asyncio.wait_for(helping, DEADLINE_S)
    assert result.tokens == tuple(WANT)
    assert (helped.failed, helped.ended, helped.tokens) == (None, "length", len(PROMPT) + TOKENS)
    assert helped.counts.sent > 10
    assert helped.acceptance is not None
    match propose.__name__:
        case "right":
            assert helped.acceptance > 0.95
            assert result.stats.steps < TOKENS / 2, "it was worth it"
        case "wrong":
            assert helped.acceptance == 0.0
        case _:
            assert helped.acceptance < 0.2
    if owner == "none":
        assert result.stats.acceptance_rate is None, "what another had right is not this edge's"


async def test_a_drafter_that_dies_changes_nothing_but_speed() -> None:
    async with server() as up, client(up) as edge, assistant(up, Fake(right, dies_after=4)) as helper:
        sharing = Sharing()
        helping = asyncio.create_task(help_once(helper, sharing))
        result = await edge.generate(ASKED, observe=sharing.observe)
        helped = await asyncio.wait_for(helping, DEADLINE_S)
    assert result.tokens == tuple(WANT)
    assert str(helped.drafter_error) == "out of memory"
    assert helped.failed is None
    assert 0 < helped.counts.accepted < TOKENS


async def test_an_assistant_that_leaves_changes_nothing_but_speed() -> None:
    async with server() as up, client(up, GOOD) as edge, assistant(up) as helper:
        sharing = Sharing()
        helping = asyncio.create_task(help_once(helper, sharing))

        def on_tokens(tokens: tuple[int, ...]) -> None:
            seen.append(len(tokens))
            if sum(seen) > TOKENS // 3:
                helping.cancel()

        seen: list[int] = []
        result = await edge.generate(ASKED, observe=sharing.observe, on_tokens=on_tokens)
        with pytest.raises(asyncio.CancelledError):
            await helping
    assert result.tokens == tuple(WANT)


async def test_the_owners_end_is_the_end_for_all() -> None:
    async with server() as up, client(up) as edge, assistant(up) as helper:
        sharing = Sharing()
        helping = asyncio.create_task(help_once(helper, sharing))
        result = await edge.generate(replace(ASKED, stop_strings=(f"<{WANT[40]}>",)), observe=sharing.observe)
        helped = await asyncio.wait_for(helping, DEADLINE_S)
    assert len(result.tokens) <= 41
    assert (helped.failed, helped.ended) == (None, "closed")


async def test_drafts_are_coupled_to_the_sessions_noise() -> None:
    """The real pair, sampled: a drafter that did not know the noise would be right far less often."""
    from cloud_server.model import load_model  # noqa: PLC0415 - slow to import
    from cloud_server.verifier import Verifier  # noqa: PLC0415

    reference = Reference()
    prompt, params = reference.prompts[0], SamplingParams(temperature=0.8, seed=5)
    want = reference.text(prompt, 48, params)
    asked = GenerateOptions(prompt=prompt, max_new_tokens=48, sampling=params)
    async with serving(
        Verifier(load_model(str(TARGET), "cpu", None)), ServeOptions(listen="127.0.0.1:0")
    ) as up:
        options = ClientOptions(server=up.address, drafter=str(DRAFTER))
        async with client(up) as edge, Assistant(options, AssistOptions()) as helper:
            sharing = Sharing()
            helping = asyncio.create_task(help_once(helper, sharing))
            result = await edge.generate(asked, observe=sharing.observe)
            helped = await asyncio.wait_for(helping, DEADLINE_S)
    assert list(result.tokens) == want or reference.difference(prompt, result.tokens, want, params).excused
    assert helped.failed is None
    assert helped.acceptance is not None
    assert helped.acceptance > 0.3


# ---- who may ----


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "assistants"
    path.write_text("a-token-of-the-assistants\n")
    path.chmod(0o600)
    return path


async def test_a_wrong_secret_is_an_unknown_session() -> None:
    async with server() as up, assistant(up) as helper, RawClient(up.address) as raw:
        owner = await raw.open(opening(new=100))
        opened = await owner.read()
        assert isinstance(opened, Opened)
        for notice in (SessionNotice(opened.session_id, "x"), SessionNotice("x", opened.secret)):
            helped = await helper.help_one(notice)
            assert (helped.failed, helped.tokens) == (Status.NOT_FOUND, 0)
            with pytest.raises(GenerationFailedError, match="no such session"):
                helped.check()
        await owner.send(Close())


@pytest.mark.parametrize("allowed", [False, True])
async def test_only_who_may_watches(token_file: Path, tmp_path: Path, allowed: bool) -> None:
    other = tmp_path / "other"
    other.write_text("a-token-of-somebody-else\n")
    other.chmod(0o600)
    security = ServerSecurity(assistants_token_file=token_file if allowed else None)
    async with server(security=security) as up:
        for file in (None, other):
            async with assistant(up, token_file=file) as helper:
                with pytest.raises(UserError, match="token" if allowed else "lets nobody watch"):
                    await asyncio.wait_for(helper.help_all(lambda _: None), DEADLINE_S)


async def test_their_token_opens_what_every_token_opens(token_file: Path, tmp_path: Path) -> None:
    everybody = tmp_path / "everybody"
    everybody.write_text("a-token-of-everybody-else\n")
    everybody.chmod(0o600)
    security = ServerSecurity(token_file=everybody, assistants_token_file=token_file)
    async with server(security=security) as up:
        options = ClientOptions(
            server=up.address, drafter="none", security=ClientSecurity(token_file=everybody)
        )
        async with assistant(up, token_file=token_file) as helper, Client(options) as edge:
            helped: list[Helped] = []
            attaching = asyncio.Event()
            all_of_them = asyncio.create_task(helper.help_all(helped.append, lambda _: attaching.set()))
            result = await edge.generate(ASKED)
            await asyncio.wait_for(attaching.wait(), DEADLINE_S)
            await until(lambda: len(helped) == 1)
            all_of_them.cancel()
            await asyncio.gather(all_of_them, return_exceptions=True)
    assert result.tokens == tuple(WANT)
    assert helped[0].acceptance is not None


async def test_one_drafter_for_every_session(token_file: Path) -> None:
    async with server(security=ServerSecurity(assistants_token_file=token_file)) as up:
        helped: list[Helped] = []
        async with assistant(up, token_file=token_file) as helper, client(up) as edge:
            # Long enough that a busy machine's assistant comes to each of them.
            asked = [replace(ASKED, prompt=(*PROMPT, n), max_new_tokens=900) for n in range(5)]
            first = asyncio.create_task(edge.generate(asked[0]))  # is open before anybody watches
            await until(lambda: up.engine.sessions == 1)
            watching = asyncio.create_task(helper.help_all(helped.append))
            results = [await first, *await asyncio.gather(*map(edge.generate, asked[1:]))]
            await until(lambda: len(helped) == 5)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    for one, ask in zip(results, asked, strict=True):
        assert one.tokens == tuple(decode(PAIR, tuple(ask.prompt), 900))  # type: ignore[arg-type]
    assert [one.failed for one in helped] == [None] * 5
    assert all(one.counts.accepted for one in helped)


# ---- on the wire ----


async def attach(raw: RawClient, opened: Opened) -> tuple[Stream, Attached]:
    stream = raw.stream()
    await stream.send(Attach(opened.session_id, opened.secret))
    attached = await stream.read()
    assert isinstance(attached, Attached)
    return stream, attached


async def within(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, DEADLINE_S)


async def owner_of(raw: RawClient, **fields: object) -> tuple[Stream, Opened]:
    owner = await raw.open(opening(PROMPT, **({"new": 100_000} | fields)))  # type: ignore[arg-type]
    opened = await owner.read()
    assert isinstance(opened, Opened)
    return owner, opened


def again(opened: Opened, tokens: Sequence[int]) -> Open:
    return replace(
        opening(tokens, new=100_000, prompt_length=len(PROMPT)),
        session_id=opened.session_id,
        secret=opened.secret,
    )


async def test_an_owner_that_comes_back_finds_its_session() -> None:
    async with server() as up, RawClient(up.address) as first, RawClient(up.address) as second:
        owner, opened = await owner_of(first)
        helper, attached = await within(attach(second, opened))
        known = await within(owner.tokens(3))
        owner.call.cancel()
        await within(helper.tokens(30))
        assert up.engine.sessions == 1
        log = [*PROMPT, *known]
        back = await second.open(again(opened, log))
        assert await within(back.read()) == opened
        commit = await within(back.read())
        assert isinstance(commit, Commit)
        assert commit.position == len(log)
        assert [*known, *commit.tokens] == decode(PAIR, PROMPT, len(known) + len(commit.tokens))
        assert len(known) + len(commit.tokens) >= 30 - len(attached.tokens)
        assert up.engine.sessions == 1
        await back.send(Close())
        assert (await within(back.rest()))[0] is grpc.StatusCode.OK
        assert (await within(helper.rest()))[0] is grpc.StatusCode.OK
        assert isinstance(helper.finish, Finish)
        assert helper.finish.reason is FinishReason.CLOSED


async def test_an_owner_that_does_not_is_waited_for_and_no_longer() -> None:
    streams = StreamLimits(owner_grace_s=0.3)
    async with server(streams=streams) as up, RawClient(up.address) as first, RawClient(up.address) as second:
        owner, opened = await owner_of(first)
        helper, _ = await within(attach(second, opened))
        owner.call.cancel()
        code, words = await within(helper.rest())
        assert (code, words) == (grpc.StatusCode.NOT_FOUND, "the owner of the session is gone: it is over")
        await until(lambda: (up.engine.streams, up.engine.sessions) == (0, 0))
        back = await second.open(again(opened, PROMPT))
        reopened = await within(back.read())
        assert isinstance(reopened, Opened)
        assert reopened.session_id != opened.session_id
        await back.send(Close())


async def test_a_session_without_assistants_is_gone_with_its_owner() -> None:
    async with server() as up, RawClient(up.address) as raw:
        owner, opened = await owner_of(raw)
        owner.call.cancel()
        await until(lambda: up.engine.sessions == 0)
        back = await raw.open(again(opened, PROMPT))
        reopened = await within(back.read())
        assert isinstance(reopened, Opened)
        assert reopened.session_id != opened.session_id
        await back.send(Close())


async def test_a_laggard_is_left_behind() -> None:
    async with server(limits=Limits(run_ahead=8)) as up, RawClient(up.address) as raw:
        owner, opened = await owner_of(raw)
        laggard, attached = await within(attach(raw, opened))
        behind = asyncio.create_task(laggard.rest())
        length = len(attached.tokens)
        while not behind.done():
            commit = await within(owner.read())
            assert isinstance(commit, Commit)
            length = commit.position + len(commit.tokens)
            await owner.send(Draft(0, length, (), (), (), length))
        code, words = behind.result()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "behind the log" in words
        await owner.send(Close())
        assert (await within(owner.rest()))[0] is grpc.StatusCode.OK


async def test_a_session_takes_so_many_assistants_and_no_more() -> None:
    async with server(limits=Limits(max_attached=1)) as up, RawClient(up.address) as raw:
        owner, opened = await owner_of(raw)
        await within(attach(raw, opened))
        stream = raw.stream()
        await stream.send(Attach(opened.session_id, opened.secret))
        code, words = await within(stream.rest())
        assert (code, "1 streams are attached" in words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        await owner.send(Close())


async def test_attached_streams_do_not_wait_for_a_session() -> None:
    """They have one: the guard against streams that never open anything lets them be."""
    async with server(streams=StreamLimits(max_waiting=2)) as up, RawClient(up.address) as raw:
        owner, opened = await owner_of(raw)
        helpers = [(await within(attach(raw, opened)))[0] for _ in range(6)]
        for helper in helpers:
            await within(helper.tokens(1))
        await owner.send(Close())
        assert (await within(owner.rest()))[0] is grpc.StatusCode.OK


# ---- as programs ----


async def test_a_second_device_by_the_file_of_the_first(tmp_path: Path) -> None:
    share = tmp_path / "share"
    async with server() as up:
        generate = ("generate", "--server", up.address, "--drafter", "none", "--share", str(share), "--json")
        async with process("edge_client", *generate, "--max-new-tokens", "400", "hello") as edge:
            await until(share.exists)
            assert share.stat().st_mode & 0o777 == 0o600
            assert read_share(share).session_id
            assist = ("assist", "--server", up.address, "--drafter", GOOD, "--share", str(share), "--json")
            async with process("edge_client", *assist) as helper:
                said, _ = await asyncio.wait_for(helper.communicate(), DEADLINE_S)
                shown, _ = await asyncio.wait_for(edge.communicate(), DEADLINE_S)
            assert (helper.returncode, edge.returncode) == (0, 0)
        assert not share.exists()
    helped, result = json.loads(said), json.loads(shown)
    assert tuple(result["tokens"]) == tuple(decode(PAIR, tuple(b"hello"), 400))
    assert (helped["ended"], helped["failed"]) == ("length", None)
    assert helped["accepted"] > 10


async def test_a_killed_assistant_changes_nothing_but_speed(token_file: Path) -> None:
    async with server(security=ServerSecurity(assistants_token_file=token_file)) as up, client(up) as edge:
        assist = (
            "assist",
            "--all",
            "--server",
            up.address,
            "--drafter",
            GOOD,
            "--token-file",
            str(token_file),
        )
        async with process("edge_client", *assist) as helper:
            await until(lambda: up.engine.streams == 1)  # it watches
            seen: list[int] = []

            def on_tokens(tokens: tuple[int, ...]) -> None:
                seen.append(len(tokens))
                if sum(seen) > 200 and helper.returncode is None:
                    helper.send_signal(signal.SIGKILL)

            result = await edge.generate(replace(ASKED, max_new_tokens=600), on_tokens=on_tokens)
            await helper.wait()
    assert result.tokens == tuple(decode(PAIR, PROMPT, 600))
    assert max(seen) > 1, "it helped while it lived"
