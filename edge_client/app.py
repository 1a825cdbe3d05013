"""Composition root of the edge: the one place that wires transport, drafter, text, policies and session together.

Example:
    async with Client(ClientOptions(server="127.0.0.1:50051", drafter="demo")) as client:
        result = await client.generate(GenerateOptions(prompt="def main():"), on_text=print)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_client.addresses import listed, split
from edge_client.checks import check_files, check_tokens
from edge_client.connections import Connections
from edge_client.drafter.interface import Drafter
from edge_client.driver import NANOSECONDS, Brain, EdgeDriver, Event, Observe
from edge_client.language import Language, TextSink, language_for
from edge_client.model_thread import ModelThread
from edge_client.notices import Notice, OnNotice, OutageWatch
from edge_client.options import ClientOptions, GenerateOptions
from edge_client.policies import DraftOptions, Mode, Shape, policies_for
from edge_client.result import ConnectionLostError, GenerateResult, GenerationFailedError, Usage, notes_on
from edge_client.route import Route, key_for
from edge_client.security import ClientSecurity
from edge_client.share import ShareFile
from edge_client.sources import DEMO_DRAFTER, check_fits, drafter_path, is_profiled, open_drafter
from edge_client.stats import Emulation, Timeline, stats_of
from shared.errors import Status, UserError
from shared.messages import ModelInfo
from shared.policy.reconnect import Reconnect
from shared.session.edge import Done, EdgeSession, Emit, Failed, Request

__all__ = [
    "Client",
    "ClientOptions",
    "ClientSecurity",
    "ConnectionLostError",
    "DraftOptions",
    "GenerateOptions",
    "GenerateResult",
    "GenerationFailedError",
    "Mode",
    "Notice",
    "Shape",
    "generate",
]

OnText = Callable[[str], None]
OnTokens = Callable[[tuple[int, ...]], None]


class Client:
    """Connections and a loaded drafter, for any number of generations, one after another or side by side."""

    def __init__(
        self, options: ClientOptions, *, drafter: Drafter | None = None, on_notice: OnNotice | None = None
    ) -> None:
        """`drafter` is used instead of the one that the options name, and closed with the client.

        `on_notice` is called when one of several servers cannot be used.
        """
        self._options = options
        self._given = drafter
        self._drafter: Drafter | None = None
        self._thread = ModelThread(options.draft_floor_ms)
        self._connections = Connections(options, on_notice)
        self._info: ModelInfo | None = None
        self._language: Language | None = None

    @property
    def info(self) -> ModelInfo:
        """What the server said about itself."""
        if self._info is None:
            raise ValueError("the client is not open: use `async with`")
        return self._info

    async def __aenter__(self) -> Self:
        """Connect and load.

        Raises:
            UserError: no server, no drafter, or two that do not fit.
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

    async def generate(
        self,
        options: GenerateOptions,
        *,
        on_text: OnText | None = None,
        on_tokens: OnTokens | None = None,
        on_notice: OnNotice | None = None,
        observe: Observe | None = None,
    ) -> GenerateResult:
        """Generate to the end; when cancelled, the server is told.

        Args:
            on_text: called with each piece of text as it becomes final. Together they are the result's text.
            on_tokens: called with the tokens of each commit. Together they are the result's tokens.
            on_notice: called when the connection is lost and when tokens come again; `str` of a notice is for people.
            observe: shown every fact and effect of the session, for measurements.

        Raises:
            UserError: the request does not fit the model or the server.
            GenerationFailedError: the generation cannot go on.
        """
        if self._language is None:
            raise ValueError("the client is not open: use `async with`")
        draft, drafter = options.draft, self._drafter
        shape = None if drafter is None else draft.shape_for()
        request = self._request(options, self._language, drafting=shape is not None)
        context = 0 if drafter is None else drafter.context_length
        policies = policies_for(draft, shape, Reconnect(patience=options.give_up_after_s), context)
        policies.moves = self._connections.several
        await self._connections.refresh()
        route = Route(self._connections, key_for(self._options.balance, request.prompt))
        session = EdgeSession(request, self.info, policies)
        output = _Output(len(request.prompt), self._language.stream(options.stop_strings), on_text, on_tokens)
        brain = None if drafter is None else Brain(drafter, self._thread)
        watch = OutageWatch(options.give_up_after_s, on_notice, lambda: self._connections.several)
        share = None if options.share is None else ShareFile(options.share)
        seen = watch.observe if share is None else _both(watch.observe, share.observe)
        driver = EdgeDriver(session, route, brain, output.take, _both(seen, observe))
        with share if share is not None else contextlib.nullcontext():
            outcome = await driver.run()
        if isinstance(outcome, Failed):
            raise self._failure(outcome, watch, route)
        output.finish()
        stats = stats_of(
            output.timeline,
            session.counts,
            driver.traffic,
            rtt_ns=self._round_trip(driver, route),
            mode=(Mode.CLOUD if shape is None else draft.mode).value,
            shape=None if shape is None else shape.value,
            emulation=self._emulation(),
            servers=route.servers,
        )
        return GenerateResult(
            text="".join(output.pieces),
            tokens=tuple(output.tokens),
            finish_reason=output.finish_reason(outcome),
            usage=Usage(len(request.prompt), len(output.tokens)),
            stats=stats,
            seed=None if request.sampling.greedy else request.sampling.seed,
            notes=notes_on(
                request,
                stats,
                longest_alone_ns=driver.longest_alone_ns,
                drafter_error=driver.drafter_error,
            ),
        )

    # ---- inside ----

    async def _open(self) -> None:
        options = self._options
        split(options.server)
        check_files(options, drafter_given=self._given is not None)
        self._info = info = await self._connections.open()
        loading = asyncio.ensure_future(self._thread.call(self._load))
        _, drafter = await asyncio.gather(self._connections.measure(loading.done), loading)
        if drafter is not None:
            self._drafter = drafter
            check_fits(drafter, info)
        self._language = language_for(info, self._tokenizers(info))

    def _load(self) -> Drafter | None:
        options = self._options
        if self._given is not None:
            return self._given
        return open_drafter(options.drafter, options.provider, options.threads, self._thread.sleep)

    def _tokenizers(self, info: ModelInfo) -> list[Path]:
        options = self._options
        if options.tokenizer is not None:
            return [options.tokenizer]
        named = drafter_path(options.drafter)
        # The demo's would be a wrong guess for a model that has none.
        demo = [DEMO_DRAFTER] if info.tokenizer_fingerprint else []
        return [*([named] if named is not None else []), *demo]

    def _request(self, options: GenerateOptions, language: Language, *, drafting: bool) -> Request:
        info = self.info
        prompt = language.encode(options.prompt) if isinstance(options.prompt, str) else options.prompt
        stop_tokens = info.stop_tokens if options.stop_tokens is None else options.stop_tokens
        check_tokens(options.prompt, (*prompt, *stop_tokens), info)
        if len(prompt) >= info.context_length:
            raise UserError(
                f"the prompt has {len(prompt)} tokens, the model's context {info.context_length}: shorten the prompt"
            )
        granted_ms = info.limits.max_patience_us / 1000
        patience_ms, adaptive_ms = options.draft.patience_for(granted_ms) if drafting else (0.0, 0.0)
        if patience_ms > granted_ms:
            raise UserError(
                f"a patience of {patience_ms:g} ms is more than the {granted_ms:g} ms that the server "
                "grants: ask for less"
            )
        return Request(
            prompt,
            options.max_new_tokens,
            options.sampling,
            stop_tokens,
            patience_us=round(patience_ms * 1000),
            adaptive_patience_us=round(adaptive_ms * 1000),
        )

    def _round_trip(self, driver: EdgeDriver, route: Route) -> int | None:
        measured = [self._connections.policy.latency(server) for server in route.servers]
        return min((one for one in (driver.rtt_ns, *measured) if one is not None), default=None)

    def _failure(self, outcome: Failed, watch: OutageWatch, route: Route) -> GenerationFailedError:
        if outcome.status is Status.RESOURCE_EXHAUSTED and route.waits_ns:
            return GenerationFailedError(outcome.status, _full(outcome.message, route))
        if not outcome.status.transient:
            return GenerationFailedError(outcome.status, outcome.message)
        tried = "" if watch.lasted_s is None else f" and did not come back in {watch.lasted_s:.1f} s"
        servers = self._connections.servers
        runs = "the server runs" if len(servers) == 1 else "the servers run"
        return ConnectionLostError(
            outcome.status,
            f"the connection to {listed(servers)} was lost ({watch.why}){tried}: see whether {runs} and "
            "the network is up, then try again",
        )

    def _emulation(self) -> Emulation:
        options = self._options
        profiled = is_profiled(options.drafter) and self._given is None
        return Emulation(options.draft_floor_ms, options.drafter if profiled else None)

    async def _close(self) -> None:
        await self._thread.close()
        if self._drafter is not None:
            self._drafter.close()
            self._drafter = None
        await self._connections.close()
        self._language = None


async def generate(
    options: GenerateOptions,
    client: ClientOptions,
    *,
    on_text: OnText | None = None,
    on_tokens: OnTokens | None = None,
    on_notice: OnNotice | None = None,
) -> GenerateResult:
    """One generation with a client of its own; see `Client`."""
    async with Client(client, on_notice=on_notice) as opened:
        return await opened.generate(options, on_text=on_text, on_tokens=on_tokens, on_notice=on_notice)


def _full(message: str, route: Route) -> str:
    waits = [wait for wait in route.waits_ns.values() if wait is not None]
    again = f": try again in {min(waits) / NANOSECONDS:g} s" if waits else ""
    if len(route.waits_ns) == 1:
        return f"{message}{again}"
    return f"none of {listed([*route.waits_ns])} has room for the session ({message}){again}"


def _both(first: Observe, second: Observe | None) -> Observe:
    if second is None:
        return first

    def observe(now: int, event: Event) -> None:
        first(now, event)
        second(now, event)

    return observe


@dataclass(slots=True)
class _Output:
    """Takes final tokens, makes text of them, and sees when a stop string is complete."""

    prompt_length: int
    text: TextSink
    on_text: OnText | None
    on_tokens: OnTokens | None
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    timeline: Timeline = field(default_factory=lambda: Timeline(time.monotonic_ns()))

    def take(self, emit: Emit) -> int | None:
        """See `driver.OnEmit`."""
        now = time.monotonic_ns()
        piece = self.text.feed(emit.tokens)
        match = self.text.match
        room = len(emit.tokens) if match is None else match.token_index + 1 - len(self.tokens)
        counted = emit.tokens[:room]
        self.timeline.committed(now, len(counted))
        self.tokens += counted
        if self.on_tokens is not None and counted:
            self.on_tokens(counted)
        self._show(piece)
        return None if match is None else self.prompt_length + len(self.tokens)

    def finish(self) -> None:
        """No more tokens come."""
        self._show(self.text.finish())

    def finish_reason(self, outcome: Done) -> str:
        """See `GenerateResult.finish_reason`."""
        return "stop" if self.text.match is not None else outcome.reason.value

    def _show(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            if self.on_text is not None:
                self.on_text(piece)
