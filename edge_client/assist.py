"""Composition root of an assistant: one drafter for sessions that belong to other edges.

Near the server it gives them the speed of a drafter beside the target, wherever they are. It shows no text, and when it
dies they go on without it.

Example:
    async with Assistant(ClientOptions(server="127.0.0.1:50051", drafter="demo"), AssistOptions()) as assistant:
        await assistant.help_all(lambda helped: print(helped.counts))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from edge_client.addresses import split
from edge_client.checks import check_files
from edge_client.connections import Connections
from edge_client.drafter.interface import Drafter
from edge_client.driver import NANOSECONDS, Brain, EdgeDriver, Observe
from edge_client.model_thread import ModelThread
from edge_client.options import ClientOptions
from edge_client.policies import DraftOptions, policies_for
from edge_client.result import GenerationFailedError
from edge_client.route import Route
from edge_client.sources import check_fits, open_drafter
from edge_client.transport import CallFailedError, Transport
from shared.errors import Status, UserError
from shared.messages import ModelInfo, SessionNotice
from shared.policy.reconnect import Reconnect
from shared.session.assist import AssistSession
from shared.session.edge import Done, EdgeCounts, EdgePolicies, Emit

REFUSED: Final = frozenset({Status.PERMISSION_DENIED, Status.UNAUTHENTICATED, Status.UNIMPLEMENTED})
"""What a server answers who may not watch it."""
SEVERAL: Final = "several servers: name one, each wants an assistant of its own"
NO_KEY: Final = b""
"""There is one server: nothing decides between several."""


@dataclass(frozen=True, slots=True)
class AssistOptions:
    """How to draft for others."""

    draft: DraftOptions = DraftOptions()  # noqa: RUF009 - a frozen value
    give_up_after_s: float = 30.0
    """A lost stream is opened again until nothing was committed for so long; so is the watch over a server."""


@dataclass(frozen=True, slots=True)
class Helped:
    """What came of drafting for one session."""

    session_id: str
    counts: EdgeCounts
    tokens: int
    """Of the session's text, as far as it was known here."""
    ended: str
    """Why it is over: `stop`, `length`, `context`, `closed`, or what went wrong."""
    failed: Status | None
    """None: the session is over, or left."""
    drafter_error: Exception | None
    rtt_ns: int | None

    @property
    def acceptance(self) -> float | None:
        """Judged tokens that this drafter had right; None: none was judged."""
        return self.counts.accepted / self.counts.judged if self.counts.judged else None

    def __str__(self) -> str:
        """For people."""
        counts = self.counts
        died = "" if self.drafter_error is None else f"; the drafter failed ({self.drafter_error})"
        return (
            f"session {self.session_id} is over ({self.ended}): {counts.sent} drafts sent, {counts.accepted} of "
            f"{counts.judged} judged tokens right{died}"
        )

    def to_json(self) -> dict[str, str | int | float | None]:
        """For programs."""
        counts = self.counts
        return {
            "session_id": self.session_id,
            "ended": self.ended,
            "failed": None if self.failed is None else self.failed.value,
            "tokens": self.tokens,
            "drafted": counts.drafted,
            "sent": counts.sent,
            "stale": counts.stale,
            "forwards": counts.forwards,
            "judged": counts.judged,
            "accepted": counts.accepted,
            "acceptance": self.acceptance,
            "reconnects": counts.reconnects,
            "drafter_error": None if self.drafter_error is None else str(self.drafter_error),
            "rtt_ms": None if self.rtt_ns is None else self.rtt_ns / 1e6,
        }

    def check(self) -> None:
        """Raises `GenerationFailedError` if it could not be helped to its end."""
        if self.failed is not None:
            raise GenerationFailedError(self.failed, self.ended)


class Assistant:
    """A connection to one server and a loaded drafter, for any number of sessions side by side.

    Their forwards queue up for the one thread that the drafter lives in.
    """

    def __init__(
        self, options: ClientOptions, assist: AssistOptions, *, drafter: Drafter | None = None
    ) -> None:
        """`drafter` is used instead of the one that the options name, and closed with the assistant."""
        if assist.draft.shape_for() is None:
            raise UserError("an assistant that does not draft helps nobody: leave --mode cloud out")
        self._options = options
        self._assist = assist
        self._given = drafter
        self._drafter: Drafter | None = None
        self._thread = ModelThread(options.draft_floor_ms)
        self._connections = Connections(options)
        self._info: ModelInfo | None = None

    async def __aenter__(self) -> Self:
        """Connect and load.

        Raises:
            UserError: no server, more than one, no drafter, or one that does not fit.
        """
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def help_one(self, session: SessionNotice, observe: Observe | None = None) -> Helped:
        """Draft for one session until it is over; when cancelled, it is left, and goes on."""
        if self._info is None or self._drafter is None:
            raise ValueError("the assistant is not open: use `async with`")
        half = AssistSession(
            session.session_id, session.secret, self._info, self._policies, self._reconnect()
        )
        brain = Brain(self._drafter, self._thread)
        driver = EdgeDriver(half, Route(self._connections, NO_KEY), brain, _unseen, observe)
        outcome = await driver.run()
        return Helped(
            session.session_id,
            half.counts,
            len(half.log),
            outcome.reason.value if isinstance(outcome, Done) else outcome.message,
            None if isinstance(outcome, Done) else outcome.status,
            driver.drafter_error,
            driver.rtt_ns,
        )

    async def help_all(
        self, on_helped: Callable[[Helped], None], on_attaching: Callable[[SessionNotice], None] | None = None
    ) -> None:
        """Draft for every session of the server, as they come, until cancelled.

        Raises:
            UserError: the server lets nobody watch, or not with this token.
            GenerationFailedError: the server is gone for good.
        """
        helping: dict[str, asyncio.Task[Helped]] = {}
        ended: asyncio.Queue[asyncio.Task[Helped] | asyncio.Task[None]] = asyncio.Queue()

        def begin(session: SessionNotice) -> None:
            if session.session_id in helping:
                return  # told again after the watch was lost
            if on_attaching is not None:
                on_attaching(session)
            task = asyncio.create_task(self.help_one(session), name=f"help {session.session_id}")
            helping[session.session_id] = task
            task.add_done_callback(ended.put_nowait)

        watching = asyncio.create_task(self._watch(begin), name="watch")
        watching.add_done_callback(ended.put_nowait)
        try:
            while True:
                helped = (await ended.get()).result()
                if helped is not None:
                    del helping[helped.session_id]
                    on_helped(helped)
        finally:
            for task in (watching, *helping.values()):
                task.cancel()
            await asyncio.gather(watching, *helping.values(), return_exceptions=True)

    # ---- inside ----

    async def _open(self) -> None:
        options = self._options
        if len(split(options.server)) > 1:
            raise UserError(SEVERAL)
        check_files(options, drafter_given=self._given is not None)
        self._info = info = await self._connections.open()
        if self._connections.several:  # what opens a session of one is not to be told another
            raise UserError(f"{options.server} stands for {SEVERAL}")
        if not info.takes_attached:
            raise UserError(f"the server at {options.server} takes no assistants: it is of an older version")
        drafter = self._given if self._given is not None else await self._thread.call(self._load)
        if drafter is None:
            raise UserError("an assistant needs a drafter: name one with --drafter")
        self._drafter = drafter
        check_fits(drafter, info)

    def _load(self) -> Drafter | None:
        options = self._options
        return open_drafter(options.drafter, options.provider, options.threads, self._thread.sleep)

    async def _close(self) -> None:
        await self._thread.close()
        if self._drafter is not None:
            self._drafter.close()
            self._drafter = None
        await self._connections.close()

    async def _watch(self, begin: Callable[[SessionNotice], None]) -> None:
        reconnect, transport = self._reconnect(), self._transport()
        while True:
            at = reconnect.next_attempt(time.monotonic_ns())
            await asyncio.sleep(max(0, at - time.monotonic_ns()) / NANOSECONDS)
            watch = transport.watch_sessions()
            try:
                async for session in watch:
                    begin(session)
            except CallFailedError as error:
                if error.status in REFUSED:
                    raise UserError(f"{transport.server}: {error.message}") from error
                if watch.stood:  # until now, though perhaps nobody came
                    reconnect.progressed(time.monotonic_ns())
                if not error.status.transient or not reconnect.allows(time.monotonic_ns()):
                    raise GenerationFailedError(
                        error.status, f"{transport.server}: {error.message}"
                    ) from error

    def _transport(self) -> Transport:
        way = self._connections.choose(time.monotonic_ns(), NO_KEY)
        if way is None:
            raise ValueError("the assistant is not open: use `async with`")
        return way[1]

    def _policies(self) -> EdgePolicies:
        draft, context = self._assist.draft, 0 if self._drafter is None else self._drafter.context_length
        return policies_for(draft, draft.shape_for(), self._reconnect(), context)

    def _reconnect(self) -> Reconnect:
        return Reconnect(patience=self._assist.give_up_after_s)


def _unseen(_: Emit) -> None:
    """Text is shown where the session belongs."""
