"""The servers of a client: what they are reached by, what is known of them, and which one a session goes to next.

It performs what `shared.policy.servers` decides, which is told here what happens to each server. While a server is out
of reach it is asked again in the background, so that it is known to be back before a session needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Final

from edge_client.addresses import Address, check_address, resolve, split
from edge_client.checks import NoAnswerError, introduce, shortest_round_trip
from edge_client.notices import OnNotice, ServerDown, ServerRefuses, ServerUnfit
from edge_client.options import ClientOptions
from edge_client.security import secure
from edge_client.transport import CallFailedError, Ended, Transport
from shared.errors import ContractViolation, SlipstreamError, Status, UserError
from shared.messages import Limits, ModelInfo
from shared.policy.servers import Balance, Choice, Servers
from shared.session.moving import REFUSALS

NANOSECONDS: Final = 1_000_000_000
LATECOMERS_S: Final = 1.0
"""How long the others may take to introduce themselves once one has; after that they come in when they are ready."""
FRESH_S: Final = 2.0
"""For so long it is believed how busy a server said that it is."""
ASKING_S: Final = 0.5
"""How long a generation waits at most to hear how busy the servers are."""
PROBE_S: Final = (1.0, 10.0)
"""How often a server is asked that is out of reach: at first, and when it has been away for long."""
PROBED_S: Final = 2.0
"""How long it may take to answer then."""
DRAINED_S: Final = 10.0
"""A server that goes away is left alone for so long: it still answers, and takes no session."""

SAME: Final = (
    *("protocol_version", "model_fingerprint", "tokenizer_fingerprint"),
    *("vocabulary_size", "context_length"),
)
"""What two servers must have in common to continue each other's logs."""

Way = tuple[Choice, Transport]


class UnresolvedError(UserError):
    """A name leads nowhere."""

    def __init__(self, server: str) -> None:
        super().__init__(
            f"the name {server.rpartition(':')[0]} cannot be resolved: check its spelling, or give an address"
        )


class Connections:
    """Made, opened, used and closed on one event loop."""

    def __init__(self, options: ClientOptions, on_notice: OnNotice | None = None) -> None:
        """`on_notice` hears of servers that cannot be used."""
        self._options = options
        self._on_notice = on_notice
        self._transports: dict[str, Transport] = {}
        """Also to servers that a name does not stand for any more: streams to them may go on."""
        self._named: dict[str, str] = {}
        """Server -> what it was named by."""
        self._unresolved: set[str] = set()
        self._infos: dict[str, ModelInfo] = {}
        self._model = ""
        """The server whose model is the one that every other must hold."""
        self.policy = Servers(options.balance)
        """What is known of each, and who is next."""
        self._asked_at = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def servers(self) -> tuple[str, ...]:
        """All addresses."""
        return tuple(self._named)

    @property
    def several(self) -> bool:
        """Whether there is another server to go to."""
        return len(self._named) + len(self._unresolved) > 1

    @property
    def info(self) -> ModelInfo:
        """The model that all of them hold."""
        return self._infos[self._model]

    # ---- begin and end ----

    async def open(self) -> ModelInfo:
        """Find the servers, and go on with those that answer.

        Raises:
            UserError: none can be used, or what is asked for is not safe.
        """
        failures: dict[str, Exception] = {}
        for name in (names := split(self._options.server)):
            try:
                await self._reach(name)
            except UnresolvedError as nowhere:
                failures[name] = nowhere
                self._unresolved.add(name)
        failed = failures | await self._introductions()
        failures = {server: failed[server] for server in (*self._named, *failures) if server in failed}
        if not self._infos:
            raise _all_of([*failures.values()])
        self._model = next(server for server in self._named if server in self._infos)
        for server in self._infos:
            self._judge(server)
        usable = tuple(server for server in self._named if self.policy.fits(server))
        for server, error in failures.items():
            self._tell(ServerDown(server, _why(error), usable))
        if len(names) > 1 or self.several:
            self._keep()
        return self.info

    async def measure(self, enough: Callable[[], bool]) -> None:
        """Ping the servers that answer until it is `enough`, to know the round trip.

        Raises:
            UserError: the only one does not answer any more.
        """
        options, servers = self._options, [*self._infos]
        took = await asyncio.gather(
            *(
                shortest_round_trip(self._transports[one], options.security, options.answer_within_s, enough)
                for one in servers
            ),
            return_exceptions=self.several,
        )
        self._asked_at = now = time.monotonic_ns()
        for server, one in zip(servers, took, strict=True):
            if isinstance(one, int):
                self._told(server, self._infos[server], one)
            elif isinstance(one, SlipstreamError):
                self.policy.failed(server, now)
            else:
                raise one

    async def refresh(self) -> None:
        """Ask the servers how busy they are, if that decides anything and was not heard lately."""
        now = time.monotonic_ns()
        stale = now - self._asked_at > FRESH_S * NANOSECONDS
        if not (self.several and stale and self._options.balance is Balance.LOAD):
            return
        self._asked_at = now
        asked = [one for one in self._named if not self._out_of_reach(one)]
        if asked:
            await asyncio.wait([self._start(self._probe(one)) for one in asked], timeout=ASKING_S)

    async def close(self) -> None:
        """Let go of all of them."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for transport in self._transports.values():
            await transport.close()
        self._transports.clear()

    # ---- what a session asks and tells ----

    def choose(self, now: int, key: bytes, avoid: Collection[str] = (), wish: str = "") -> Way | None:
        """See `Servers.choose`."""
        choice = self.policy.choose(now, key, avoid, wish)
        return None if choice is None else (choice, self._transports[choice.server])

    def limits(self, server: str) -> Limits:
        """What it accepts."""
        return self._infos[server].limits

    def knows(self, server: str) -> bool:
        """Whether it is one of them."""
        return server in self._named

    async def learn(self, server: str) -> None:
        """A server of ours names another to go on at: it is one of them from here on, if it can be used."""
        try:
            check_address(server)
            await self._reach(server)
        except UserError as error:
            self._tell(ServerDown(server, str(error), self.servers))
            return
        await asyncio.gather(*(self._probe(one) for one, name in self._named.items() if name == server))
        self._keep()

    def draining(self, server: str, now: int) -> None:
        """It said that it goes away."""
        if self.several:
            self.policy.draining(server, now, round(DRAINED_S * NANOSECONDS))
            self._wake.set()

    def ended(self, server: str, ending: Ended, now: int, *, opened: bool) -> None:
        """A stream to it ended; `opened`: the session had begun on it."""
        if ending.status is Status.RESOURCE_EXHAUSTED and not opened:
            if self.several or ending.wait_ns is not None:
                self.policy.refused(server, now, ending.wait_ns)
        elif not self.several:
            return
        elif ending.status in REFUSALS and not opened:
            if self.policy.fits(server):
                self.policy.unfit(server)
                self._tell(ServerRefuses(server, ending.detail))
        elif ending.status.transient or not opened:
            # Whatever it says of a session that it does not take, it is not asked again at once.
            self.policy.failed(server, now)
            self._wake.set()

    def retry_at(self, now: int, avoid: Collection[str]) -> int | None:
        """When a server may be asked (ns); None: it is not known, or there is none."""
        choice = self.policy.choose(now, b"", avoid)
        if choice is None or (choice.at <= now and not self.several):
            return None
        return choice.at

    # ---- inside ----

    async def _reach(self, name: str) -> None:
        """Channels to what the name stands for now. What it stood for before, and does no more, is no choice."""
        security = self._options.security
        found = await asyncio.to_thread(resolve, name)
        if not found and (name in self._named.values() or not security.encrypted):
            raise UnresolvedError(name)
        found = found or (Address(name, name),)  # a proxy may know it
        secrets = await asyncio.to_thread(secure, name, security)
        for address in found:
            if address.dial not in self._transports:
                named = secrets.server_name or (address.host if security.encrypted else None)
                self._transports[address.dial] = Transport(address.dial, replace(secrets, server_name=named))
            self._named[address.dial] = name
            self.policy.add(address.dial)
        for gone in {one for one, by in self._named.items() if by == name} - {one.dial for one in found}:
            del self._named[gone]
            self.policy.remove(gone)
        self._unresolved.discard(name)

    async def _introductions(self) -> dict[str, Exception]:
        """Ask all at once; those that take much longer than the first are left to the background."""
        began = time.monotonic()
        asked = {self._start(self._introduce(one)): one for one in self._named}
        waiting: set[asyncio.Task[None]] = set(asked)
        failures: dict[str, Exception] = {}
        while waiting:
            within = max(LATECOMERS_S, time.monotonic() - began) if self._infos else None
            done, waiting = await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
            failures |= {asked[one]: error for one in done if (error := _mishap(one)) is not None}
            if not done:
                break
        for late in waiting:
            failures[asked[late]] = TimeoutError()
            late.cancel()
        return failures

    async def _introduce(self, server: str) -> None:
        began = time.monotonic_ns()
        options = self._options
        info = await introduce(self._transports[server], options.security, options.answer_within_s)
        self._told(server, info, time.monotonic_ns() - began)

    def _told(self, server: str, info: ModelInfo, took: int) -> None:
        self._infos[server] = info
        if self._model:
            self._judge(server)
        if self.policy.fits(server):
            self.policy.told(
                server,
                time.monotonic_ns(),
                latency=took,
                open_sessions=info.open_sessions,
                max_sessions=info.limits.max_sessions,
            )

    def _judge(self, server: str) -> None:
        """Whether logs that were begun with our model can go on there."""
        info = self._infos[server]
        if all(getattr(info, what) == getattr(self.info, what) for what in SAME):
            self.policy.fit(server)
        elif self.policy.fits(server) is not False:
            self.policy.unfit(server)
            self._tell(ServerUnfit(server, info.name, info.model_fingerprint, self._model))

    async def _probe(self, server: str) -> None:
        began = time.monotonic_ns()
        try:
            info = await self._transports[server].get_model(PROBED_S)
        except (CallFailedError, ContractViolation):
            self.policy.failed(server, time.monotonic_ns())
        else:
            self._told(server, info, time.monotonic_ns() - began)

    def _keep(self) -> None:
        if self._keeper is None:
            self._keeper = self._start(self._watch())

    async def _watch(self) -> None:
        """Ask those that are out of reach again, and where a name leads now."""
        pause = PROBE_S[0]
        while True:
            missed = self._unresolved or any(map(self._out_of_reach, self._named))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause if missed else PROBE_S[1])
                self._wake.clear()
                pause = PROBE_S[0] / 2
                await asyncio.sleep(PROBE_S[0])  # who has just failed is not back at once
            pause = min(2 * pause, PROBE_S[1])
            out = [one for one in self._named if self._out_of_reach(one)]
            names = {self._named[one] for one in out if self._named[one] != one} | self._unresolved
            for name in names:
                with contextlib.suppress(UserError):  # what it stood for so far is all that is known
                    await self._reach(name)
            await asyncio.gather(*(self._probe(one) for one in self._named if self._out_of_reach(one)))

    def _out_of_reach(self, server: str) -> bool:
        return self.policy.fits(server) is None or self.policy.suspect(server)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell(self, notice: ServerDown | ServerUnfit | ServerRefuses) -> None:
        if self._on_notice is not None:
            self._on_notice(notice)


def _all_of(failures: Sequence[Exception]) -> Exception:
    """Why no server can be used, as one error."""
    if len(failures) == 1:
        return failures[0]
    silent = [server for one in failures if isinstance(one, NoAnswerError) for server in one.servers]
    if len(silent) == len(failures):
        return NoAnswerError(silent)
    return UserError(f"none of the {len(failures)} servers can be used: " + "; ".join(map(str, failures)))


def _why(error: Exception) -> str:
    match error:
        case NoAnswerError():
            return "no server answers there, it is used once one does"
        case TimeoutError():
            return "it has not answered yet, it is used once it does"
        case _:
            return str(error)


def _mishap(task: asyncio.Task[None]) -> Exception | None:
    """What a user or an operator can do something about; anything else is a bug, and raised."""
    error = task.exception()
    if error is not None and not isinstance(error, SlipstreamError):
        raise error
    return error
