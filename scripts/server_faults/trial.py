"""A fault of one of several servers while generations go on at all of them, and what each generation noticed.

The servers are processes of their own, each behind a delay; the client is one, as an application has it. The pair is
profiled: which token follows is known beforehand, so that every text can be checked against the target's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from edge_client.app import Client, ClientOptions, GenerateOptions, GenerateResult
from edge_client.policies import DraftOptions, Mode
from edge_client.stats import Percentiles, percentiles
from scripts.processes import Child, child, python
from scripts.server_faults.watch import Watch
from scripts.wan.process import wan_process
from scripts.wan.profiles import WanProfile
from shared.policy.servers import Balance
from shared.profiled import Profile, ProfiledPair, decode

DEADLINE_S = 120.0
"""No trial takes as long."""


class Fault(enum.Enum):
    """What happens to the server that has the most sessions."""

    KILL = "killed (SIGKILL)"
    FREEZE = "frozen (SIGSTOP)"
    DRAIN = "drained (SIGTERM)"


@dataclass(frozen=True, slots=True)
class Settings:
    """One trial."""

    servers: int = 3
    sessions: int = 16
    tokens: int = 300
    """Of each session."""
    step_ms: float = 30.0
    rtt_ms: float = 40.0
    """0: without a delay between."""
    after: int = 40
    """Tokens that each session has when it happens."""
    drafts: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    fault: Fault
    sessions: int
    right: int
    """Sessions with the target's own text."""
    hit: int
    """Sessions that were at that server."""
    left: int
    """Of those, the ones that went on at another."""
    pause_ms: tuple[float, ...]
    """Of each session that was hit: its longest wait for tokens from then on."""
    others_ms: tuple[float, ...]
    """The same of the others."""
    gap_ms: Percentiles
    """Between commits of the sessions that were not hit."""
    notices: tuple[str, ...]
    """What a user of the sessions that were hit was told."""


def run(fault: Fault, settings: Settings) -> Outcome:
    """Make it happen. Called from the main thread.

    Raises:
        ChildError: a server does not come up.
    """
    profile = Profile(step_ms=settings.step_ms, draft_ms=1.0, vocabulary_size=1000)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(_server(profile)) for _ in range(settings.servers)]
        addresses = [stack.enter_context(_behind(one.address, settings.rtt_ms)) for one in children]
        trial = _Trial(fault, settings, profile, dict(zip(addresses, children, strict=True)))
        return asyncio.run(trial.run())


@contextlib.contextmanager
def _server(profile: Profile) -> Iterator[Child]:
    model = f"profiled:step_ms={profile.step_ms},vocabulary_size={profile.vocabulary_size}"
    serve = python("-m", "cloud_server", "serve", "--listen", "127.0.0.1:0", "--model", model)
    with child("server", serve) as running:
        try:
            yield running
        finally:
            if running.running:
                os.kill(running.pid, signal.SIGCONT)  # a frozen one does not hear that it is asked to end


@contextlib.contextmanager
def _behind(address: str, rtt_ms: float) -> Iterator[str]:
    if not rtt_ms:
        yield address
        return
    with wan_process(address, WanProfile(rtt_ms)) as proxy:
        yield proxy.address


class _Trial:
    def __init__(self, fault: Fault, settings: Settings, profile: Profile, servers: dict[str, Child]) -> None:
        self._fault = fault
        self._settings = settings
        self._profile = profile
        self._servers = servers
        self._prompts = [(3, 5, number) for number in range(settings.sessions)]
        self._watches = [Watch() for _ in self._prompts]
        self._notices: list[list[str]] = [[] for _ in self._prompts]

    async def run(self) -> Outcome:
        drafter = f"profiled:draft_ms=1,vocabulary_size={self._profile.vocabulary_size}"
        options = ClientOptions(",".join(self._servers), drafter, balance=Balance.LOAD)
        async with asyncio.timeout(DEADLINE_S), Client(options) as client:
            running = [
                asyncio.create_task(self._generate(client, number)) for number in range(len(self._prompts))
            ]
            await self._all_have_begun(running)
            at = [watch.servers[-1] for watch in self._watches]
            victim = max(self._servers, key=at.count)
            since = time.monotonic_ns()
            self._strike(self._servers[victim])
            results = await asyncio.gather(*running)
        return self._outcome(results, [server == victim for server in at], since)

    async def _generate(self, client: Client, number: int) -> GenerateResult:
        draft = DraftOptions() if self._settings.drafts else DraftOptions(mode=Mode.CLOUD)
        asked = GenerateOptions(self._prompts[number], self._settings.tokens, draft=draft)
        return await client.generate(
            asked,
            on_notice=lambda notice: self._notices[number].append(str(notice)),
            observe=self._watches[number].observe,
        )

    async def _all_have_begun(self, running: list[asyncio.Task[GenerateResult]]) -> None:
        while any(watch.tokens < self._settings.after for watch in self._watches):
            for one in running:
                if one.done():
                    one.result()
            await asyncio.sleep(0.005)

    def _strike(self, server: Child) -> None:
        signals = {Fault.KILL: signal.SIGKILL, Fault.FREEZE: signal.SIGSTOP, Fault.DRAIN: signal.SIGTERM}
        os.kill(server.pid, signals[self._fault])

    def _outcome(self, results: list[GenerateResult], hit: list[bool], since: int) -> Outcome:
        pair = ProfiledPair(self._profile)
        want = [tuple(decode(pair, prompt, self._settings.tokens)) for prompt in self._prompts]
        of_hit = [number for number, one in enumerate(hit) if one]
        others = [number for number, one in enumerate(hit) if not one]
        watches = self._watches
        return Outcome(
            fault=self._fault,
            sessions=len(results),
            right=sum(result.tokens == text for result, text in zip(results, want, strict=True)),
            hit=len(of_hit),
            left=sum(watches[number].servers[-1] != watches[number].servers[0] for number in of_hit),
            pause_ms=tuple(round(watches[number].pause_ms(since), 1) for number in of_hit),
            others_ms=tuple(round(watches[number].pause_ms(since), 1) for number in others),
            gap_ms=percentiles([gap for number in others for gap in watches[number].gaps_ms]),
            notices=tuple(dict.fromkeys(line for number in of_hit for line in self._notices[number])),
        )
