"""A second edge implementation, as small as the contract allows, which can break one rule at a time.

It guesses by a formula that our own drafter does not know, sends one chain after each commit, and keeps no tree: a
guess that the log contradicts is forgotten. It needs grpcio and the generated code alone.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc

from scripts.conformance.rules import BrokenError
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc

PROMPT = tuple(range(1, 121))
FAREWELL_S = 1.0
BYTES_OF_AN_OPEN = 100
"""Beside its log."""


@dataclass(frozen=True)
class Breaks:
    """What this edge does wrong."""

    ids_begin_anew: bool = False
    """Every message begins with #1."""
    root_goes_back: bool = False
    reports_nothing: bool = False
    """Never says what it has seen."""
    ignores_limits: bool = False
    offsets_too_far: bool = False
    invents_tokens: bool = False
    vanishes: bool = False
    """When its user has had enough it ends without Close."""
    opens_with_the_prompt: bool = False
    """After a loss: as if nothing had been written."""
    extends_the_log: bool = False
    """After a loss it asks for as many tokens again."""
    stays: bool = False
    """Drain is nothing to it."""
    tells_the_secret: bool = False
    mends_gaps: bool = False
    """A commit is taken wherever it is."""
    tries_everything_again: bool = False
    waits_for_nobody: bool = False
    """A time to wait is nothing to it."""
    never_asks: bool = False
    """It takes for granted what the model is."""
    talks_on: bool = False
    """After Close."""


class _Stopped(Exception):
    """The user has had enough."""


class _Moved(Exception):
    """Drain names another server."""


@dataclass
class SmallEdge:
    """See `scripts.conformance.edge.launch.Edge`: it runs in a thread."""

    breaks: Breaks = field(default_factory=Breaks)

    @contextlib.contextmanager
    def start(self, server: str, tokens: int) -> Iterator[_Generation]:
        generation = _Generation(self.breaks, server, tokens)
        generation.thread.start()
        try:
            yield generation
        finally:
            generation.interrupt()
            generation.thread.join()


class _Generation:
    def __init__(self, breaks: Breaks, server: str, tokens: int) -> None:
        self.breaks = breaks
        self.server = server
        self.tokens = tokens
        self.log = list(PROMPT)
        self.opened: tuple[str, pb.Opened] | None = None
        self.inbox: queue.SimpleQueue[pb.CloudMessage | grpc.Call | None] = queue.SimpleQueue()
        self.left: _Stream | None = None
        """The stream that is left once the next one is open."""
        self.stopped = threading.Event()
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run)

    # ---- as the scripts see it ----

    def interrupt(self) -> None:
        self.stopped.set()
        self.inbox.put(None)

    def wait(self, within_s: float) -> int:
        self.thread.join(within_s)
        if self.code is None:
            raise BrokenError(f"the edge goes on for {within_s:g} s")
        return self.code

    def report(self) -> str:
        return "" if self.code is None else f": it has ended with exit code {self.code}"

    # ---- one generation ----

    def _run(self) -> None:
        target = self.server
        with contextlib.ExitStack() as channels:
            while self.code is None:
                channel = channels.enter_context(grpc.insecure_channel(target))
                try:
                    model = pb.Model(
                        vocabulary_size=1000, limits=pb.Limits(max_nodes_per_message=64, run_ahead=256)
                    )
                    if not self.breaks.never_asks:
                        model = pb_grpc.SlipstreamStub(channel).GetModel(pb.GetModelRequest(), timeout=10.0)
                    self.code = _Stream(self, channel, target, model).run()
                except _Moved as moved:
                    target = str(moved)
                except _Stopped:
                    self.code = 130


class _Stream:
    def __init__(self, edge: _Generation, channel: grpc.Channel, server: str, model: pb.Model) -> None:
        self.edge, self.server, self.model, self.limits = edge, server, model, model.limits
        self.breaks = edge.breaks
        self.last = 0
        self.opened = False
        self.inbox: queue.SimpleQueue[pb.CloudMessage | grpc.RpcError | None] = queue.SimpleQueue()
        edge.inbox = self.inbox  # type: ignore[assignment]
        self.outgoing: queue.SimpleQueue[pb.EdgeMessage | None] = queue.SimpleQueue()
        self.call = pb_grpc.SlipstreamStub(channel).Decode(iter(self.outgoing.get, None))
        threading.Thread(target=self._read, daemon=True).start()
        if edge.stopped.is_set():
            self.inbox.put(None)

    def run(self) -> int | None:
        """Exit code; None: another stream is to be opened."""
        self._open()
        while True:
            message = self.inbox.get()
            if message is None:
                self._stop()
            elif isinstance(message, grpc.RpcError):
                return self._ended(message)
            elif (code := self._heard(message)) is not None:
                return code

    def _heard(self, message: pb.CloudMessage) -> int | None:
        """Exit code; None: go on."""
        match message.WhichOneof("kind"):
            case "opened" if not self.opened:
                self.edge.opened, self.opened = (self.server, message.opened), True
                if self.edge.left is not None:
                    self.edge.left.outgoing.put(pb.EdgeMessage(close=pb.Close()))
                    self.edge.left = None
                self._draft()
            case "commit" if self.opened and message.commit.tokens:
                if message.commit.position != len(self.edge.log) and not self.breaks.mends_gaps:
                    return 1
                self.edge.log += message.commit.tokens
                self._draft()
            case "drain":
                if message.drain.target and not self.breaks.stays:
                    self.edge.left = self
                    raise _Moved(message.drain.target)
            case "finish":
                return 0
            case _:
                return 1
        return None

    # ---- up ----

    def _open(self) -> None:
        edge = self.edge
        if self.breaks.opens_with_the_prompt:
            edge.log = list(PROMPT)
        log = edge.log
        whole = pb.Open(
            protocol_version=1,
            prompt_length=len(PROMPT),
            max_length=(len(log) if self.breaks.extends_the_log else len(PROMPT)) + edge.tokens,
            sampling=pb.Sampling(),
        )
        if edge.opened is not None:
            server, opened = edge.opened
            whole.model_fingerprint = opened.model_fingerprint
            if server == self.server or self.breaks.tells_the_secret:
                whole.session_id, whole.secret = opened.session_id, opened.secret
        size = max(
            8,
            (self.limits.max_message_bytes - BYTES_OF_AN_OPEN) // 3 if self.limits.max_message_bytes else 512,
        )
        parts = [log[at : at + size] for at in range(0, len(log), size)]
        for index, part in enumerate(parts):
            message = pb.Open()
            message.CopyFrom(whole)
            message.tokens.extend(part)
            message.more = index + 1 < len(parts)
            self.outgoing.put(pb.EdgeMessage(open=message))

    def _draft(self) -> None:
        """A chain of guesses from the end; with it goes what was seen."""
        limits, length = self.limits, len(self.edge.log)
        left = len(PROMPT) + self.edge.tokens - length
        # All of an earlier chain may still count in the cloud: a third of the room for each of the last three.
        most = max(
            1,
            min(
                limits.max_nodes_per_message,
                limits.max_depth or 64,
                (limits.max_live_nodes or 64) // 3,
                4,
                left,
            ),
        )
        if self.breaks.ignores_limits:
            most = 12
        if left <= 0:
            return
        vocabulary = self.model.vocabulary_size
        tokens = [(length + i) * 31 % vocabulary for i in range(most)]
        draft = pb.Draft(first_node=self.last + 1, root_position=length, tokens=tokens)
        if self.breaks.ids_begin_anew:
            draft.first_node = 1
        if self.breaks.root_goes_back:
            draft.root_position = len(PROMPT) + (length + 1) % 2 * (length > len(PROMPT))
        if self.breaks.reports_nothing:
            draft.root_position, draft.seen = len(PROMPT), len(PROMPT)
        if self.breaks.offsets_too_far:
            draft.parent_offsets.extend([self.last + 1, *[1] * (most - 1)])
        if self.breaks.invents_tokens:
            draft.tokens[0] = vocabulary
        self.last += most
        self.outgoing.put(pb.EdgeMessage(draft=draft))

    def _stop(self) -> None:
        if self.breaks.vanishes:
            self.call.cancel()
            raise _Stopped
        self.outgoing.put(pb.EdgeMessage(close=pb.Close(position=len(self.edge.log))))
        if self.breaks.talks_on:
            self.outgoing.put(pb.EdgeMessage(draft=pb.Draft(root_position=len(self.edge.log))))
        with contextlib.suppress(queue.Empty):
            while not _last(self.inbox.get(timeout=FAREWELL_S)):
                pass
        raise _Stopped

    # ---- down ----

    def _read(self) -> None:
        try:
            for message in self.call:
                self.inbox.put(message)
        except grpc.RpcError as error:
            self.inbox.put(error)
        self.outgoing.put(None)

    def _ended(self, error: grpc.RpcError) -> int | None:
        code = error.code()
        wait_ms = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_ms is not None and not self.opened:
            if not self.breaks.waits_for_nobody:
                self.edge.stopped.wait(int(wait_ms) / 1000)
            return None
        if code is grpc.StatusCode.UNAVAILABLE or self.breaks.tries_everything_again:
            return None
        return 2


def _last(found: pb.CloudMessage | grpc.RpcError | None) -> bool:
    return isinstance(found, grpc.RpcError) or (found is not None and found.HasField("finish"))
