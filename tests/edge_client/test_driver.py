"""The edge's driver over real gRPC: whatever happens to streams, servers and drafters, the text is the target's own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
import time

import grpc
import pytest

from edge_client.app import (
    Client,
    ClientOptions,
    DraftOptions,
    GenerateOptions,
    GenerationFailedError,
    Mode,
    Shape,
)
from edge_client.drafter.interface import Candidate
from edge_client.profiled import ProfiledDrafter
from edge_client.sources import check_fits
from shared.errors import Status, UserError
from shared.messages import Close, Limits, Open
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc
from shared.profiled import Profile, ProfiledPair, decode
from shared.sampling import SamplingParams
from tests.edge_client.fake_cloud import PROFILE, FakeCloud, Faults, info, replacing, serve

PROMPT = (7, 8, 9)
PAIR = ProfiledPair(PROFILE)
STREAM = DraftOptions()
SYNC = DraftOptions(mode=Mode.SYNC, lookahead=3)


def profiled(profile: Profile = PROFILE) -> str:
    fields = dataclasses.asdict(profile) | {"iid": str(profile.iid).lower()}
    return "profiled:" + ",".join(f"{name}={value}" for name, value in fields.items() if value is not None)


def options(address: str, profile: Profile = PROFILE, **more: object) -> ClientOptions:
    return ClientOptions(server=address, **({"drafter": profiled(profile)} | more))  # type: ignore[arg-type]


def asked(tokens: int = 60, **more: object) -> GenerateOptions:
    return GenerateOptions(prompt=PROMPT, max_new_tokens=tokens, **more)  # type: ignore[arg-type]


def plain(tokens: int = 60) -> tuple[int, ...]:
    return tuple(decode(PAIR, PROMPT, tokens))


@pytest.mark.parametrize(
    "draft",
    [
        DraftOptions(),
        DraftOptions(shape=Shape.CHAIN),
        DraftOptions(window=1, branches=1, width=1),
        SYNC,
        DraftOptions(mode=Mode.SYNC, lookahead=8, window=5),
        DraftOptions(mode=Mode.CLOUD),
    ],
    ids=lambda draft: f"{draft.mode.value}-{draft.shape}-{draft.window}",
)
async def test_every_mode_writes_what_the_target_alone_writes(draft: DraftOptions) -> None:
    seen: list[int] = []
    cloud = FakeCloud()
    async with serve(cloud) as address, Client(options(address)) as client:
        result = await client.generate(asked(draft=draft), on_tokens=seen.extend)
        await cloud.until(lambda: cloud.front.sessions == 0)
    assert result.tokens == plain() == tuple(seen)
    assert result.finish_reason == "length"
    assert result.usage.completion_tokens == 60
    assert result.notes == ()
    assert result.text == "".join(f"<{token}>" for token in plain())
    assert cloud.vanished == 0
    drafted = sum(len(draft.tokens) for draft in cloud.drafts)
    assert result.stats.sent >= drafted  # what arrives after the last commit is not read any more
    assert (drafted == 0) == (draft.mode is Mode.CLOUD)
    assert result.stats.rtt_ms is not None
    assert result.stats.bytes_up > 0


async def test_drafts_save_steps() -> None:
    """Progress, which no comparison of texts can see: a drafter that is always right, at no cost, saves most steps."""
    perfect = dataclasses.replace(PROFILE, acceptance=1.0, draft_ms=0.0, step_ms=8.0)
    async with serve(FakeCloud(perfect)) as address, Client(options(address, perfect)) as client:
        chain = await client.generate(asked(draft=DraftOptions(shape=Shape.CHAIN)))
        alone = await client.generate(asked(draft=DraftOptions(mode=Mode.CLOUD)))
    assert chain.stats.acceptance_rate == 1.0
    assert chain.stats.steps < 30
    assert alone.stats.steps == 60


async def test_a_sync_block_waits_for_its_verdict() -> None:
    cloud = FakeCloud()
    async with serve(cloud) as address, Client(options(address)) as client:
        await client.generate(asked(draft=SYNC))
    opening = cloud.received[0][0]
    assert isinstance(opening, Open)
    assert opening.patience_us == 2_000_000
    roots = [draft.root_position for draft in cloud.drafts]
    assert len(roots) == len(set(roots)), "a second block before the verdict on the first"
    assert max(len(draft.tokens) for draft in cloud.drafts) == 3


async def test_sync_asks_for_no_more_patience_than_is_granted() -> None:
    cloud = FakeCloud(model=info(limits=Limits(max_patience_us=300_000)))
    async with serve(cloud) as address, Client(options(address)) as client:
        await client.generate(asked(8, draft=SYNC))
        with pytest.raises(UserError, match=r"more than the 300 ms that the server grants"):
            await client.generate(asked(8, draft=dataclasses.replace(SYNC, patience_ms=301)))
    opening = cloud.received[0][0]
    assert isinstance(opening, Open)
    assert opening.patience_us == 300_000


async def test_a_stalled_drafter_does_not_stop_sync_mode() -> None:
    stalled = dataclasses.replace(PROFILE, draft_ms=3_600_000.0)
    draft = dataclasses.replace(SYNC, patience_ms=20)
    async with serve(FakeCloud()) as address:
        began = time.monotonic()
        async with Client(options(address, stalled)) as client:
            result = await client.generate(asked(6, draft=draft))
        assert time.monotonic() - began < 15, "the stalled forward held up the end"
    assert result.tokens == plain(6)
    assert result.stats.self_decoded == 6
    assert result.stats.commit_gap_ms.p50 is not None
    assert result.stats.commit_gap_ms.p50 >= 19
    (note,) = result.notes
    assert "patience of 20 ms" in note


async def test_a_lost_stream_is_opened_again_with_the_log() -> None:
    cloud = FakeCloud(faults=Faults(break_after={1: 4, 2: 2, 3: 1}))
    async with serve(cloud) as address, Client(options(address)) as client:
        result = await client.generate(asked(120))
    assert result.tokens == plain(120)
    assert result.stats.reconnects == 3
    openings = [stream[0] for stream in cloud.received]
    assert all(isinstance(first, Open) and first.prompt_length == 3 for first in openings)
    lengths = [len(first.tokens) for first in openings if isinstance(first, Open)]
    assert lengths == sorted(lengths)
    assert lengths[1] > 3


async def test_a_server_that_comes_back_is_found_again() -> None:
    first, second = FakeCloud(), FakeCloud()
    async with contextlib.AsyncExitStack() as up:
        address = await up.enter_async_context(serve(first))
        client = await up.enter_async_context(Client(options(address)))
        running = asyncio.create_task(client.generate(asked(400, draft=SYNC)))
        await first.until(lambda: len(first.drafts) >= 5)
        await first.shut()
        await up.enter_async_context(serve(second, int(address.rpartition(":")[2])))
        result = await running
    assert result.tokens == plain(400)
    assert result.stats.reconnects >= 1
    assert second.drafts


async def test_a_server_that_stays_away_is_given_up() -> None:
    cloud = FakeCloud(faults=Faults(end_with=(Status.UNAVAILABLE, "not today")))
    async with serve(cloud) as address, Client(options(address)) as client:
        with pytest.raises(GenerationFailedError, match="not today") as failure:
            await client.generate(asked(give_up_after_s=0.3))
    assert failure.value.status is Status.UNAVAILABLE
    assert len(cloud.received) > 2


@pytest.mark.parametrize(
    "status", [Status.RESOURCE_EXHAUSTED, Status.FAILED_PRECONDITION, Status.INTERNAL, Status.UNAUTHENTICATED]
)
async def test_a_final_status_is_not_retried(status: Status) -> None:
    cloud = FakeCloud(faults=Faults(end_with=(status, "go away")))
    async with serve(cloud) as address, Client(options(address)) as client:
        with pytest.raises(GenerationFailedError, match="go away") as failure:
            await client.generate(asked())
    assert failure.value.status is status
    assert len(cloud.received) == 1


async def test_a_draining_server_serves_to_the_end() -> None:
    cloud = FakeCloud()
    async with serve(cloud) as address, Client(options(address)) as client:
        running = asyncio.create_task(client.generate(asked()))
        await cloud.until(lambda: len(cloud.drafts) >= 3)
        cloud.drain()
        result = await running
        assert result.tokens == plain()
        assert result.stats.reconnects == 0
        with pytest.raises(GenerationFailedError, match="draining"):
            await client.generate(asked(give_up_after_s=0.1))


@pytest.mark.parametrize(
    ("say", "found"),
    [
        (
            replacing(lambda commit: dataclasses.replace(commit, position=commit.position + 1)),
            "committed at position",
        ),
        (lambda message: pb.CloudMessage(), "broke the contract"),
    ],
)
async def test_a_server_that_breaks_the_contract_ends_the_session(say, found: str) -> None:
    cloud = FakeCloud(faults=Faults(say=say))
    async with serve(cloud) as address, Client(options(address)) as client:
        with pytest.raises(GenerationFailedError, match=found) as failure:
            await client.generate(asked())
    assert failure.value.status is Status.INTERNAL


async def test_a_stop_string_is_never_shown_and_closes_the_stream() -> None:
    stop = f"<{plain()[10]}><{plain()[11]}>"
    shown: list[str] = []
    cloud = FakeCloud()
    async with serve(cloud) as address, Client(options(address)) as client:
        result = await client.generate(asked(stop_strings=("<nowhere>", stop)), on_text=shown.append)
    assert result.tokens == plain(12)
    assert result.text == "".join(shown) == "".join(f"<{token}>" for token in plain(10))
    assert (result.finish_reason, result.usage.completion_tokens) == ("stop", 12)
    assert cloud.received[0][-1] == Close(len(PROMPT) + 12)
    assert cloud.vanished == 0


async def test_a_stop_token_ends_the_log() -> None:
    stop = plain()[5]
    async with (
        serve(FakeCloud(model=info(stop_tokens=(stop,)))) as address,
        Client(options(address)) as client,
    ):
        result = await client.generate(asked())
        on = await client.generate(asked(stop_tokens=()))
    assert result.tokens == plain(plain().index(stop) + 1)
    assert result.finish_reason == "stop"
    assert on.tokens == plain()


async def test_the_context_ends_the_log() -> None:
    short = dataclasses.replace(PROFILE, context_length=20)
    async with serve(FakeCloud(short)) as address, Client(options(address, short)) as client:
        result = await client.generate(asked())
        with pytest.raises(UserError, match="the prompt has 20 tokens, the model's context 20"):
            await client.generate(GenerateOptions(prompt=PROMPT * 6 + PROMPT[:2]))
    assert (result.tokens, result.finish_reason) == (plain(17), "context")


async def test_a_cancelled_generation_says_close() -> None:
    cloud = FakeCloud()
    async with serve(cloud) as address, Client(options(address)) as client:
        running = asyncio.create_task(client.generate(asked(1500, draft=SYNC)))
        await cloud.until(lambda: len(cloud.drafts) >= 3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await cloud.until(lambda: cloud.front.sessions == 0)
        assert (await client.generate(asked(5))).tokens == plain(5), "the client is still of use"
    assert isinstance(cloud.received[0][-1], Close)
    assert cloud.vanished == 0


async def test_a_client_that_is_cut_off_has_vanished() -> None:
    """Negative control of the one above: a stream that ends without Close is counted."""
    cloud = FakeCloud()
    async with serve(cloud) as address, grpc.aio.insecure_channel(address) as channel:
        call = pb_grpc.SlipstreamStub(channel).Decode()
        opening = pb.Open(
            protocol_version=1, tokens=PROMPT, prompt_length=3, max_length=900, sampling=pb.Sampling()
        )
        await call.write(pb.EdgeMessage(open=opening))
        await call.read()
        call.cancel()
        await cloud.until(lambda: cloud.vanished == 1)


class Breaking(ProfiledDrafter):
    """Answers twice, then dies."""

    calls = 0

    def forward(self, log, log_length, paths, sampling, width) -> list[list[Candidate]]:
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("out of memory\nat some address")
        return super().forward(log, log_length, paths, sampling, width)


@pytest.mark.parametrize("draft", [STREAM, SYNC])
async def test_a_drafter_that_dies_leaves_the_cloud_alone(draft: DraftOptions) -> None:
    drafter = Breaking(ProfiledPair(PROFILE), time.sleep)
    async with serve(FakeCloud()) as address, Client(options(address), drafter=drafter) as client:
        result = await client.generate(asked(300, draft=draft))
    assert result.tokens == plain(300)
    assert drafter.calls == 3, "a dead drafter is not asked again"
    assert "the drafter failed (RuntimeError: out of memory)" in result.notes[0]
    assert result.stats.self_decoded > 30


class Wary(ProfiledDrafter):
    """Notices two forwards at once, and which threads they are in."""

    inside = 0
    worst = 0
    threads: frozenset[int] = frozenset()

    def forward(self, log, log_length, paths, sampling, width) -> list[list[Candidate]]:
        self.inside += 1
        self.worst = max(self.worst, self.inside)
        self.threads |= {threading.get_ident()}
        try:
            return super().forward(log, log_length, paths, sampling, width)
        finally:
            self.inside -= 1


async def test_generations_side_by_side_share_one_model_thread() -> None:
    drafter = Wary(ProfiledPair(PROFILE), time.sleep)
    prompts = [(5,), PROMPT, (1, 2, 3, 4)]
    async with serve(FakeCloud()) as address, Client(options(address), drafter=drafter) as client:
        results = await asyncio.gather(
            *(client.generate(GenerateOptions(prompt=prompt, max_new_tokens=40)) for prompt in prompts)
        )
    for prompt, result in zip(prompts, results, strict=True):
        assert result.tokens == tuple(decode(PAIR, prompt, 40))
        assert result.stats.forwards > 0
    assert drafter.worst == 1
    assert len(drafter.threads) == 1
    assert threading.get_ident() not in drafter.threads


async def test_a_floor_makes_every_forward_last() -> None:
    """Emulation: never faster than the floor; and without it, faster."""
    async with serve(FakeCloud()) as address:
        took: dict[float, float] = {}
        for floor in (0.0, 25.0):
            async with Client(options(address, draft_floor_ms=floor)) as client:
                began = time.monotonic()
                result = await client.generate(asked(16, draft=SYNC))
                took[floor] = (time.monotonic() - began) / result.stats.forwards
            assert result.stats.emulation.draft_floor_ms == floor
            assert result.stats.emulation.profiled_drafter is not None
    assert took[25.0] >= 0.025
    assert took[25.0] > took[0.0]


async def test_a_long_prompt_travels_in_parts() -> None:
    cloud = FakeCloud(model=info(limits=Limits(max_message_bytes=1024)))
    prompt = tuple(range(900))
    async with serve(cloud) as address, Client(options(address)) as client:
        result = await client.generate(GenerateOptions(prompt=prompt, max_new_tokens=10))
    assert result.tokens == tuple(decode(PAIR, prompt, 10))
    parts = [message for message in cloud.received[0] if isinstance(message, Open)]
    assert len(parts) == 8
    assert [part.more for part in parts] == [True] * 7 + [False]


async def test_the_request_reaches_the_server_as_it_was_made() -> None:
    cloud = FakeCloud()
    sampling = SamplingParams(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05, seed=1 << 60)
    async with serve(cloud) as address, Client(options(address)) as client:
        result = await client.generate(asked(5, sampling=sampling, stop_tokens=(990,)))
    opening = cloud.received[0][0]
    assert isinstance(opening, Open)
    assert (opening.tokens, opening.max_length, opening.stop_tokens) == (PROMPT, 8, (990,))
    assert opening.sampling == sampling
    assert opening.model_fingerprint == "model"
    assert result.seed == 1 << 60


async def test_a_callback_that_fails_ends_the_session_and_is_heard() -> None:
    cloud = FakeCloud()

    def full(piece: str) -> None:
        raise OSError("disk full")

    async with serve(cloud) as address, Client(options(address)) as client:
        with pytest.raises(OSError, match="disk full"):
            await client.generate(asked(), on_text=full)
    assert isinstance(cloud.received[0][-1], Close)


@pytest.mark.parametrize(
    ("model", "client", "found"),
    [
        ({"vocabulary_size": 2000}, {}, "the drafter has a vocabulary of 1000 tokens, .* 2000"),
        ({"protocol_version": 2}, {}, "speaks protocol version 2, this client 1"),
        ({"tokenizer_fingerprint": "f" * 64}, {"drafter": "none"}, "tokenizer"),
        ({}, {"drafter": "profiled:acceptance=2"}, "acceptance 2.0 is outside"),
        ({}, {"server": "127.0.0.1:none"}, "expected HOST:PORT"),
    ],
)
async def test_two_sides_that_do_not_fit(model: dict, client: dict, found: str) -> None:
    async with serve(FakeCloud(model=info(**model))) as address:
        with pytest.raises(UserError, match=found):
            async with Client(dataclasses.replace(options(address), **client)):
                pytest.fail("opened")


async def test_a_drafter_for_another_tokenizer_is_refused() -> None:
    drafter = ProfiledDrafter(ProfiledPair(PROFILE), time.sleep)
    drafter.tokenizer_fingerprint = "e" * 64
    async with serve(FakeCloud(model=info(tokenizer_fingerprint="f" * 64))) as address:
        with pytest.raises(UserError, match=r"the drafter's tokenizer \(eeee.* model fake \(ffff"):
            async with Client(options(address), drafter=drafter):
                pytest.fail("opened")


async def test_a_drafter_with_a_smaller_vocabulary_needs_the_same_tokenizer() -> None:
    """Models pad their vocabularies differently; ids that the target lacks would be refused by it."""
    drafter = ProfiledDrafter(ProfiledPair(PROFILE), time.sleep)
    drafter.tokenizer_fingerprint = "f" * 64
    padded = info(tokenizer_fingerprint="f" * 64, vocabulary_size=1024)
    check_fits(drafter, padded)
    with pytest.raises(UserError, match="vocabulary"):
        check_fits(drafter, dataclasses.replace(padded, vocabulary_size=999))
    with pytest.raises(UserError, match="vocabulary"):
        check_fits(drafter, dataclasses.replace(padded, tokenizer_fingerprint=""))


async def test_what_is_no_slipstream_server_is_told_apart() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with pytest.raises(UserError, match="is not a Slipstream server"):
        async with Client(options(f"127.0.0.1:{port}")):
            pytest.fail("opened")
    await server.stop(grace=None)


async def test_a_server_that_is_silent_is_given_up_soon() -> None:
    """A port that takes connections and says nothing."""
    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UserError, match="no server answers at"),
    ):
        async with Client(options(f"127.0.0.1:{silent.getsockname()[1]}", answer_within_s=0.3)):
            pytest.fail("opened")
    assert time.monotonic() - began < 10
