"""`edge-client generate` as a process: what it prints where, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_client.__main__ import main
from shared.errors import Status
from shared.messages import Close
from shared.profiled import ProfiledPair, decode
from tests.edge_client.fake_cloud import PROFILE, FakeCloud, Faults, info, serve

DRAFTER = "profiled:acceptance=0.8,draft_ms=0.2,vocabulary_size=1000,context_length=2000"
PAIR = ProfiledPair(PROFILE)
CERTIFICATES = Path(__file__).parents[1] / "e2e" / "certificates"
CERTIFICATE, OTHER_KEY = str(CERTIFICATES / "server.crt"), str(CERTIFICATES / "client.key")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on stderr, of a run that shows nothing on stdout."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        return line


def shown(prompt: str, tokens: int) -> str:
    return "".join(f"<{token}>" for token in decode(PAIR, prompt.encode(), tokens))


async def start(*arguments: str | os.PathLike[str], pipe: bool = False) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "edge_client", "generate", *arguments),
        stdin=asyncio.subprocess.PIPE if pipe else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )


async def run(*arguments: str | os.PathLike[str], stdin: bytes | None = None) -> Ended:
    process = await start(*arguments, pipe=stdin is not None)
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    made = FakeCloud()
    async with serve(made) as made.address:
        yield made


async def test_text_streams_to_stdout_and_nothing_else_does(cloud: FakeCloud) -> None:
    ended = await run("abc", "--server", cloud.address, "--drafter", DRAFTER, "--max-new-tokens", "20")
    assert ended == Ended(0, shown("abc", 20) + "\n", "")
    assert cloud.drafts


async def test_json_is_one_object_on_one_line(cloud: FakeCloud) -> None:
    ended = await run(
        "abc", "--server", cloud.address, "--drafter", DRAFTER, "--max-new-tokens", "30", "--json"
    )
    assert (ended.code, ended.err) == (0, "")
    (line,) = ended.out.splitlines()
    result = json.loads(line)
    assert list(result)[:5] == ["text", "tokens", "finish_reason", "usage", "stats"]
    assert result["text"] == shown("abc", 30)
    assert result["tokens"] == decode(PAIR, b"abc", 30)
    assert result["finish_reason"] == "length"
    assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 30}
    stats = result["stats"]
    assert set(stats) >= {
        *("ttft_ms", "tpot_ms", "itl_ms", "commit_gap_ms", "rtt_ms", "acceptance_rate", "mean_accepted"),
        *("drafted", "sent", "verified", "stale", "bytes_up", "bytes_down"),
        *("mode", "reconnects", "steps", "self_decoded", "emulation"),
    }
    assert set(stats["itl_ms"]) == set(stats["commit_gap_ms"]) == {"p50", "p95", "p99"}
    assert (stats["mode"], stats["shape"], stats["emulation"]["draft_floor_ms"]) == ("stream", "tree", 0.0)


async def test_one_token_has_no_pace(cloud: FakeCloud) -> None:
    ended = await run(
        "abc", "--server", cloud.address, "--drafter", "none", "--max-new-tokens", "1", "--json"
    )
    stats = json.loads(ended.out)["stats"]
    assert stats["tpot_ms"] is None
    assert stats["itl_ms"] == stats["commit_gap_ms"] == {"p50": None, "p95": None, "p99": None}
    assert stats["acceptance_rate"] is None
    assert stats["ttft_ms"] > 0


async def test_every_flag_reaches_the_server(cloud: FakeCloud) -> None:
    ended = await run(
        *("abc", "--server", cloud.address, "--drafter", DRAFTER, "--max-new-tokens", "12", "--json"),
        *("--temperature", "0.5", "--top-k", "7", "--top-p", "0.9", "--min-p", "0.1", "--seed", "11"),
        *("--mode", "sync", "--lookahead", "2", "--patience-ms", "700", "--draft-floor-ms", "1"),
    )
    opening = cloud.received[0][0]
    sampling = opening.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.seed) == (
        0.5,
        7,
        0.9,
        0.1,
        11,
    )
    assert (opening.patience_us, opening.max_length) == (700_000, 15)
    assert max(len(draft.tokens) for draft in cloud.drafts) == 2
    result = json.loads(ended.out)
    assert result["seed"] == 11
    assert (result["stats"]["mode"], result["stats"]["emulation"]["draft_floor_ms"]) == ("sync", 1.0)


async def test_tree_and_window(cloud: FakeCloud) -> None:
    common = ("abc", "--server", cloud.address, "--drafter", DRAFTER, "--max-new-tokens", "30", "--json")
    await run(*common, "--chain", "--window", "3")
    chains, cloud.received[:] = cloud.drafts, []
    assert all(max(draft.parent_offsets) <= 1 or len(draft.tokens) == 1 for draft in chains)
    assert max(len(draft.tokens) for draft in chains) <= 3
    await run(*common, "--tree", "--branches", "2")
    assert any(draft.parent_offsets.count(0) > 1 for draft in cloud.drafts), "siblings below the end"


async def test_cloud_mode_never_drafts(cloud: FakeCloud) -> None:
    ended = await run("abc", "--server", cloud.address, "--mode", "cloud", "--max-new-tokens", "9")
    assert ended.out == shown("abc", 9) + "\n"
    assert not cloud.drafts


async def test_a_seed_is_drawn_and_told(cloud: FakeCloud) -> None:
    common = (
        "abc",
        "--server",
        cloud.address,
        "--drafter",
        "none",
        "--max-new-tokens",
        "2",
        "--temperature",
        "1",
    )
    first, second = await run(*common), await run(*common)
    seeds = [stream[0].sampling.seed for stream in cloud.received]
    assert seeds[0] != seeds[1]
    for ended, seed in zip((first, second), seeds, strict=True):
        assert ended.err == f"edge-client: seed {seed} was drawn: --seed {seed} gives the same text again\n"


async def test_stop_strings_are_not_shown(cloud: FakeCloud) -> None:
    written = decode(PAIR, b"abc", 12)
    ended = await run(
        *("abc", "--server", cloud.address, "--drafter", DRAFTER, "--max-new-tokens", "60"),
        *("--stop", "nowhere", "--stop", f"<{written[9]}>"),
    )
    assert ended == Ended(0, shown("abc", 9) + "\n", "")
    assert cloud.received[0][-1] == Close(3 + 10)


async def test_end_of_text_can_be_ignored() -> None:
    end = decode(PAIR, b"abc", 4)[-1]
    async with serve(FakeCloud(model=info(stop_tokens=(end,)))) as address:
        common = ("abc", "--server", address, "--drafter", "none", "--max-new-tokens", "9")
        assert (await run(*common)).out == shown("abc", 4) + "\n"
        assert (await run(*common, "--ignore-eos")).out == shown("abc", 9) + "\n"


async def test_a_prompt_comes_from_a_file_or_stdin(cloud: FakeCloud, tmp_path: Path) -> None:
    common = ("--server", cloud.address, "--drafter", "none", "--max-new-tokens", "5")
    text = "two\nlines é\n"
    file = tmp_path / "prompt"
    file.write_text(text, encoding="utf-8")
    assert (await run("--prompt-file", file, *common)).out == shown(text, 5) + "\n"
    assert (await run("-", *common, stdin=text.encode())).out == shown(text, 5) + "\n"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((), "no prompt: give PROMPT, --prompt-file FILE, or - "),
        (("",), "the prompt is empty"),
        (("abc", "--prompt-file", "x"), "two prompts"),
        (("--prompt-file", "/no/such/file"), "check the path"),
        (("abc", "--window", "0"), "window must be at least 1"),
        (("abc", "--lookahead", "0"), "lookahead must be at least 1"),
        (("abc", "--branches", "0"), "branches must be at least 1"),
        (("abc", "--max-new-tokens", "0"), "max_new_tokens must lie in 1.."),
        (("abc", "--temperature", "-1"), "temperature must be"),
        (("abc", "--top-p", "0"), "top_p must be"),
        (("abc", "--min-p", "2"), "min_p must be"),
        (("abc", "--top-k", "-3"), "top_k must be"),
        (("abc", "--temperature", "nan"), "temperature must be"),
        (("abc", "--seed", "-1"), "seed must be"),
        (("abc", "--stop", ""), "stop string"),
        (("abc", "--draft-floor-ms", "-1"), "draft_floor_ms must be"),
        (("abc", "--patience-ms", "-1"), "patience_ms must be"),
        (("abc", "--threads", "0"), "threads must be at least 1"),
        (("abc", "--tree", "--chain"), "either a tree or a chain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_the_user_can_mend_is_one_line(
    arguments: tuple[str, ...],
    found: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, since nothing of it comes as far as a connection."""
    monkeypatch.setattr(sys, "argv", ["edge-client", "generate", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    ended = Ended(2, printed.out, printed.err)
    assert stop.value.code == 2
    assert ended.line.startswith("edge-client: ")
    assert found in ended.line


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--server", "localhost"), "expected HOST:PORT"),
        (("--drafter", "/no/such/drafter"), "does not exist"),
        (("--drafter", "profiled:speed=2"), "speed"),
        (("--drafter", "none", "--tokenizer", "/no/such/file"), "does not exist"),
        (("--drafter", "none", "--token-file", "/no/such/file"), "cannot be read"),
        (("--drafter", "none", "--token-file", os.devnull), "no token"),
        (("--drafter", "none", "--tls-ca", os.devnull), "--tls-ca /dev/null is not a certificate"),
        (("--drafter", "none", "--tls-cert", CERTIFICATE), "--tls-cert without --tls-key"),
        (("--drafter", "none", "--tls-cert", CERTIFICATE, "--tls-key", OTHER_KEY), "is not the key of"),
        (
            ("--drafter", "none", "--server", "192.0.2.1:1"),
            "is another machine and the connection is not encrypted",
        ),
    ],
)
async def test_a_wrong_name_is_one_line(cloud: FakeCloud, arguments: tuple[str, ...], found: str) -> None:
    ended = await run("abc", "--server", cloud.address, *arguments)
    assert found in ended.line
    assert ended.code == 2
    assert cloud.received == [], "no stream was opened"


@pytest.mark.parametrize("tls", [(), ("--tls",)])
async def test_a_name_that_nobody_has_is_one_line(tls: tuple[str, ...]) -> None:
    ended = await run("abc", "--server", "name.invalid:1", "--drafter", "none", *tls)
    assert "name.invalid cannot be resolved" in ended.line
    assert ended.code == 2


async def test_no_server_fails_fast() -> None:
    async with serve(FakeCloud()) as address:
        pass  # the port was free a moment ago, and nobody listens on it now
    wrong = await run("abc", "--server", address, "--drafter", "/no/such/drafter")
    assert "/no/such/drafter does not exist" in wrong.line, "what costs nothing is looked at before"
    ended = await run("abc", "--server", address, "--drafter", "none")
    assert f"no server answers at {address}: start one with `cloud-server serve`" in ended.line
    assert ended.code == 2


async def test_several_servers_by_repeating_and_by_commas(cloud: FakeCloud) -> None:
    async with serve(FakeCloud()) as down:
        pass  # nobody listens there any more
    async with serve(FakeCloud()) as second:
        common = ("abc", "--drafter", "none", "--max-new-tokens", "5", "--balance", "first")
        for servers in (("--server", f"{down},{second}"), ("--server", down, "--server", second)):
            ended = await run(*common, *servers, "--server", cloud.address)
            assert (ended.code, ended.out) == (0, shown("abc", 5) + "\n")
            assert ended.err == (
                f"edge-client: {down}: no server answers there, it is used once one does; going on with {second} and "
                f"{cloud.address}\n"
            )
    ended = await run(*common, "--server", down, "--server", second)
    assert ended.line == (
        f"edge-client: no server answers at {down} or {second}: start one with `cloud-server serve`, or name another "
        "with --server HOST:PORT"
    )
    assert ended.code == 2


async def test_when_every_server_is_full_it_says_when_to_come_again() -> None:
    full = Faults(end_with=(Status.RESOURCE_EXHAUSTED, "all 2 sessions are taken"), pushback_ms=3000)
    async with serve(FakeCloud(faults=full)) as one, serve(FakeCloud(faults=full)) as two:
        ended = await run("abc", "--server", one, "--server", two, "--drafter", "none", "--balance", "first")
    assert ended.line == (
        f"edge-client: none of {one} and {two} has room for the session (all 2 sessions are taken): try again in 3 s "
        "(RESOURCE_EXHAUSTED)"
    )
    assert ended.code == 2


async def test_a_file_that_is_no_model_is_one_line(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    ended = await run("abc", "--server", cloud.address, "--drafter", tmp_path)
    assert "model.onnx" in ended.line
    assert ended.code == 2


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.RESOURCE_EXHAUSTED, 2),
        (Status.UNAUTHENTICATED, 2),
        (Status.INTERNAL, 1),
    ],
)
async def test_how_a_server_says_no(status: Status, code: int) -> None:
    async with serve(FakeCloud(faults=Faults(end_with=(status, "for this reason")))) as address:
        ended = await run("abc", "--server", address, "--drafter", "none", "--give-up-after", "0.2")
    assert ended.line == f"edge-client: for this reason ({status.value})"
    assert ended.code == code


async def test_a_failure_after_some_text_keeps_the_text() -> None:
    faults = Faults(break_after={1: 3} | dict.fromkeys(range(2, 500), 1))
    async with serve(FakeCloud(faults=faults)) as address:
        ended = await run("abc", "--server", address, "--mode", "cloud", "--give-up-after", "0.2")
    assert (ended.code, ended.out) == (1, shown("abc", 2) + "\n")
    lost, given_up = ended.err.splitlines()
    assert lost == "edge-client: connection lost (broken by the test), trying again for 1 s"
    assert re.fullmatch(
        rf"edge-client: the connection to {address} was lost \(broken by the test\) and did not come back in 0\.\d s: "
        "see whether the server runs and the network is up, then try again",
        given_up,
    )


@pytest.mark.parametrize("form", [(), ("--json",)])
async def test_a_server_that_comes_back_is_told_and_the_text_goes_on(form: tuple[str, ...]) -> None:
    slow = dataclasses.replace(PROFILE, step_ms=5.0)
    first, second = FakeCloud(slow), FakeCloud(slow)
    async with serve(first) as address:
        common = ("abc", "--server", address, "--drafter", "none", "--max-new-tokens", "200")
        process = await start(*common, *form)
        assert process.stderr is not None
        await first.until(lambda: bool(first.received) and len(first.received[0]) > 1)
        await first.shut()
        async with asyncio.timeout(20):
            lost = await process.stderr.readline()  # at once, while nobody is there
        async with serve(second, int(address.rpartition(":")[2])):
            async with asyncio.timeout(40):
                out, back = await process.communicate()
    assert re.fullmatch(rb"edge-client: connection lost \([a-z ]+\), trying again for 30 s\n", lost), lost
    assert re.fullmatch(rb"edge-client: connected again after \d+\.\d s\n", back), back
    assert process.returncode == 0
    text = json.loads(out)["text"] if form else out.decode().rstrip("\n")
    assert text == shown("abc", 200)


async def test_a_server_that_is_gone_is_told_in_plain_words() -> None:
    slow = FakeCloud(dataclasses.replace(PROFILE, step_ms=5.0))
    async with serve(slow) as address:
        process = await start("abc", "--server", address, "--mode", "cloud", "--give-up-after", "0.3")
        await slow.until(lambda: bool(slow.received))
        await slow.shut()
        async with asyncio.timeout(40):
            _, err = await process.communicate()
    assert process.returncode == 1
    last = err.decode().splitlines()[-1]
    assert f"the connection to {address} was lost (nobody answers there)" in last
    assert not any(jargon in last for jargon in ("UNAVAILABLE", "ipv4", "UNKNOWN", "failed to connect"))


@pytest.mark.parametrize("more", [(), ("--mode", "sync", "--draft-floor-ms", "3600000", "--json")])
async def test_ctrl_c_closes_the_stream(more: tuple[str, ...]) -> None:
    slow = FakeCloud(dataclasses.replace(PROFILE, step_ms=5.0))
    async with serve(slow) as address:
        process = await start(
            "abc", "--server", address, "--drafter", DRAFTER, "--max-new-tokens", "1900", *more
        )
        await slow.until(lambda: slow.front.sessions == 1)
        if not more:
            assert process.stdout is not None
            await process.stdout.readexactly(10)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
        assert (process.returncode, err) == (130, b"")
        assert bool(out) is not bool(more)
        assert isinstance(slow.received[0][-1], Close)
        assert slow.vanished == 0


async def test_a_reader_that_leaves_is_no_traceback(cloud: FakeCloud) -> None:
    process = await start("abc", "--server", cloud.address, "--drafter", DRAFTER, "--max-new-tokens", "1900")
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readexactly(10)
    process.stdout._transport.close()
    async with asyncio.timeout(20):
        assert await process.stderr.read() == b""
        assert await process.wait() == 1
    await cloud.until(lambda: cloud.front.sessions == 0)
    assert isinstance(cloud.received[0][-1], Close)
