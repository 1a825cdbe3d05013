"""A server whose workers fail, come, go and wait on other machines: real processes, real signals, real sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from scripts.pool_faults.crowding import churn, overload
from scripts.pool_faults.failing import PAIR, fail
from scripts.pool_faults.plain import Heard, generate
from scripts.pool_faults.server import Held, alive, server, until
from scripts.processes import ChildError, child, python
from shared.profiled import ProfiledPair, decode, parse_profile
from shared.sampling import SamplingParams
from tests.e2e.reference import TARGET, Reference

CERTIFICATES = Path(__file__).parent / "certificates"
DEADLINE_S = 60
BUSY_S = 1.0
"""By which a machine with other things to do may be late."""
PROCESSES = ("--workers", "2", "--worker-kind", "process")
PROFILED = f"profiled:step_ms=5,{PAIR}"
TOKEN = "a-token-of-the-test"


def right(heard: Heard, prompt: tuple[int, ...], new: int) -> bool:
    want = decode(ProfiledPair(parse_profile(PROFILED)), prompt, new)
    return heard.status is grpc.StatusCode.OK and heard.tokens == want


@asynccontextmanager
async def generating(address: str, count: int, new: int) -> AsyncIterator[list[asyncio.Task[Heard]]]:
    async with (
        grpc.aio.insecure_channel(address) as channel,
        asyncio.timeout(DEADLINE_S),
        asyncio.TaskGroup() as group,
    ):
        yield [group.create_task(generate(channel, (1, 2, 3 + index), new)) for index in range(count)]


def folders() -> set[Path]:
    """What servers leave beside their workers' sockets."""
    return set(Path(tempfile.gettempdir()).glob("slipstream-*"))


# Failures


async def test_kill_9_of_a_worker_process_changes_no_text() -> None:
    found = await fail(signal.SIGKILL)
    print(f"pauses (ms): {[round(pause) for pause in found.pauses_ms]}, usual {found.usual_ms:.0f}")
    assert (found.right, found.reconnects) == (16, 0)
    assert found.noticed_s < 1.0
    assert found.replaced_s < 30.0
    # A step that is asked for again, and a prompt that is prefilled again, on a machine with other things to do.
    assert found.pauses_ms[0] < 2000.0


@pytest.mark.parametrize("hedge_factor", ["0", pytest.param("5", marks=pytest.mark.slow)])
async def test_a_frozen_worker_is_noticed_in_time_and_replaced(hedge_factor: str) -> None:
    found = await fail(
        signal.SIGSTOP, sessions=6, tokens=500, deadline_s=2.0, options=("--hedge-factor", hedge_factor)
    )
    print(
        f"pauses (ms): {[round(pause) for pause in found.pauses_ms]}, noticed after {found.noticed_s:.2f} s"
    )
    assert (found.right, found.reconnects) == (6, 0)
    assert 0.5 < found.noticed_s < 2.0 + BUSY_S


async def test_an_idle_worker_that_freezes_is_noticed_too() -> None:
    with server("--model", PROFILED, *PROCESSES, "--worker-deadline-s", "2") as up:
        victim = up.workers[0]
        os.kill(victim, signal.SIGSTOP)
        noticed = await until(lambda: up.metric("workers_left") == 1, "the loss is noticed", 0.02)
        assert 0.5 < noticed < 2.0 + BUSY_S
        await until(lambda: up.metric("workers_joined") == 3, "another is up", 0.02)
        assert not alive(victim)


async def test_all_workers_killed_at_once_and_the_sessions_wait_for_others() -> None:
    with server("--model", PROFILED, *PROCESSES) as up:
        async with generating(up.address, 4, 300) as running:
            await until(lambda: up.metric("committed_tokens") > 200, "it is going")
            for worker in up.workers:
                os.kill(worker, signal.SIGKILL)
            await until(lambda: up.metric("workers_left") == 2, "the loss is noticed")
            assert up.metric("sessions") == 4
        assert all(right(task.result(), (1, 2, 3 + index), 300) for index, task in enumerate(running))


# Going in order


async def test_a_worker_that_is_asked_to_go_hands_its_sessions_over() -> None:
    """SIGTERM at the worker process: nobody notices."""
    with server("--model", PROFILED, *PROCESSES) as up:
        async with generating(up.address, 6, 400) as running:
            await until(lambda: up.metric("committed_tokens") > 400, "it is going")
            victim = up.workers[0]
            os.kill(victim, signal.SIGTERM)
            await until(lambda: up.metric("workers_left") == 1, "it has left")
            await until(lambda: not alive(victim), "its process has ended")
            await until(lambda: up.metric("workers_joined") == 3, "another is up", 0.02)
        assert all(right(task.result(), (1, 2, 3 + index), 400) for index, task in enumerate(running))
        assert (up.metric("lost_steps"), up.metric("failed_steps")) == (0, 0)
        assert up.metric("transfers") >= 1


@pytest.mark.parametrize(
    ("number", "frozen"),
    [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGKILL, False), (signal.SIGKILL, True)],
)
async def test_no_worker_outlives_its_server(number: signal.Signals, frozen: bool) -> None:
    before = folders()
    with server("--model", PROFILED, *PROCESSES, "--drain-s", "0.2") as up:
        workers = up.workers
        async with generating(up.address, 2, 100_000):
            await until(lambda: up.metric("committed_tokens") > 20, "it is going")
            if frozen:
                os.kill(workers[0], signal.SIGSTOP)
            os.kill(up.child.pid, number)
            await until(lambda: not any(map(alive, workers)), "the workers are gone")
        await until(lambda: not alive(up.child.pid), "the server is gone")
    assert folders() <= before


async def test_a_server_is_stopped_while_its_workers_start() -> None:
    command = python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", *PROCESSES)  # the demo target
    with child("server", command, ready_s=None) as running:
        process = psutil.Process(running.pid)
        await until(lambda: len(process.children()) == 2, "its workers are starting")
        workers = [one.pid for one in process.children()]
        os.kill(running.pid, signal.SIGTERM)
        await until(lambda: not alive(running.pid), "it is gone")
        assert not any(map(alive, workers))


# Too many, and those that vanish


async def test_overload_is_refused_with_a_hint_and_slows_nobody() -> None:
    for _ in range(3):  # other programs slow one run down, the server's own doing every run
        found = await overload(seconds=3.0)
        print(found)
        assert found.refused > 0
        assert found.hinted == found.refused
        assert found.right == found.completed > 0
        assert (found.sessions_left, found.leaked) == (0, Held(0, 0, 0))
        if found.slowdown < 1.2:
            return
    pytest.fail(f"those that were let in became slower by {found.slowdown:.2f}")


async def test_1000_dropped_sessions_leave_nothing() -> None:
    found = await churn()
    print(found)
    assert found.right
    assert (found.sessions_left, found.leaked) == (0, Held(0, 0, 0))


# Other machines


@contextmanager
def worker(*options: str, listen: str = "127.0.0.1:0") -> Iterator[str]:
    command = python("-m", "cloud_server", "worker", "--listen", listen, "--model", PROFILED, *options)
    with child("worker", command, ready_s=DEADLINE_S) as running:
        yield running.address


async def test_remote_workers_are_used_lost_and_found_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    own = ("--tls-cert", str(CERTIFICATES / "server.crt"), "--tls-key", str(CERTIFICATES / "server.key"))
    protected = (*own, "--token-file", str(tmp_path / "token"))
    theirs = ("--cluster-tls-ca", str(CERTIFICATES / "authority.crt"))
    known = (*theirs, "--cluster-token-file", str(tmp_path / "token"))
    with worker(*protected) as first:
        with (
            worker(*protected) as second,
            server("--model", PROFILED, "--cluster", f"{first},{second}", *known) as up,
        ):
            assert up.workers == []
            async with generating(up.address, 4, 400) as running:
                await until(lambda: up.metric("committed_tokens") > 200, "it is going")
                kill_listener(second)
                await until(lambda: up.metric("workers_left") == 1, "the loss is noticed")
                with worker(*protected, listen=second):
                    await until(lambda: up.metric("workers_joined") == 3, "it is found again", 0.02)
                    await asyncio.gather(*running)
            assert all(right(task.result(), (1, 2, 3 + i), 400) for i, task in enumerate(running))
        with (
            pytest.raises(ChildError, match=f"{first}: it does not know the token: .* --cluster-token-file"),
            server("--model", PROFILED, "--cluster", first, *theirs),  # without the token
        ):
            pass


def kill_listener(address: str) -> None:
    port = int(address.rpartition(":")[2])
    for process in psutil.Process().children(recursive=True):
        if any(one.laddr.port == port and one.status == "LISTEN" for one in process.net_connections()):
            process.kill()
            process.wait()


async def test_a_remote_worker_that_leaves_moves_its_sessions_first() -> None:
    command = python("-m", "cloud_server", "worker", "--listen", "127.0.0.1:0", "--model", PROFILED)
    with (
        worker() as first,
        child("worker", command, ready_s=DEADLINE_S) as leaving,
        server("--model", PROFILED, "--cluster", f"{first},{leaving.address}") as up,
    ):
        async with generating(up.address, 4, 400) as running:
            await until(lambda: up.metric("committed_tokens") > 200, "it is going")
            os.kill(leaving.pid, signal.SIGINT)
            await until(lambda: not leaving.running, "it has ended")
        assert all(right(task.result(), (1, 2, 3 + i), 400) for i, task in enumerate(running))
        assert up.metric("lost_steps") == 0


# The real target


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kill_9_with_the_real_target() -> None:
    reference = Reference()
    params = SamplingParams()
    prompts = reference.prompts[:6]
    want = [reference.text(prompt, 64, params) for prompt in prompts]
    options = ("--model", str(TARGET), *PROCESSES, "--threads", "1", "--step-floor-ms", "20")
    with server(*options) as up:
        async with grpc.aio.insecure_channel(up.address) as channel:
            running = [asyncio.create_task(generate(channel, prompt, 64)) for prompt in prompts]
            await until(lambda: up.metric("committed_tokens") > 6 * 16, "it is going")
            os.kill(up.workers[0], signal.SIGKILL)
            heard = await asyncio.gather(*running)
        for prompt, got, text in zip(prompts, heard, want, strict=True):
            verdict = reference.difference(prompt, got.tokens, text, params)
            assert verdict.position is None or verdict.excused
        await until(lambda: up.metric("workers_joined") == 3, "another is up", 0.05)


def test_the_figures_can_tell_a_leak() -> None:
    """Negative control of what the tests above compare."""
    assert Held(5, 3, 2).beyond(Held(4, 3, 2)) == Held(1, 0, 0)
    assert Held(3, 3, 2).beyond(Held(4, 3, 2)) == Held(0, 0, 0)
    assert alive(os.getpid())
