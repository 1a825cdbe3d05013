"""A client of the wire itself: it says exactly what it is told to, and waits for nothing longer than a deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from scripts.conformance.rules import BrokenError, check
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

DECODE: Final = "/slipstream.v1.Slipstream/Decode"
DEADLINE_S: Final = 20.0
"""For whatever must come at all."""

Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Ended:
    """The last thing that comes of a stream."""

    code: grpc.StatusCode
    detail: str

    def __str__(self) -> str:
        return f"{self.code.name} ({self.detail})" if self.detail else self.code.name


class Stream:
    """One `Decode` call. Used by one thread; another reads into a queue."""

    def __init__(self, channel: grpc.Channel, metadata: Metadata, deadline_s: float = DEADLINE_S) -> None:
        self.received: list[pb.CloudMessage] = []
        """All messages that were taken from the queue."""
        self.tokens: list[int] = []
        """Committed ones among them."""
        self._opened_with = 0
        self._deadline_s = deadline_s
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[pb.CloudMessage | Ended] = queue.SimpleQueue()
        self._ended: Ended | None = None
        decode = channel.stream_stream(
            DECODE, request_serializer=bytes, response_deserializer=pb.CloudMessage.FromString
        )
        self._call = decode(self._messages(), metadata=tuple(metadata))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # ---- up ----

    def send(self, *messages: pb.EdgeMessage | bytes) -> None:
        """Write, also bytes that are no message. On a stream that is over it does nothing."""
        for message in messages:
            if isinstance(message, pb.EdgeMessage):
                self._opened_with += len(message.open.tokens)
            self._outgoing.put(message if isinstance(message, bytes) else message.SerializeToString())

    def draft(self, first: int, root: int, tokens: Iterable[int] = (), **fields: Any) -> None:
        """A Draft, with further fields by their names."""
        draft = pb.Draft(first_node=first, root_position=root, tokens=tokens)
        draft.MergeFrom(pb.Draft(**fields))
        self.send(pb.EdgeMessage(draft=draft))

    def step_now(self) -> None:
        """Ask for one token, whatever is left of the patience."""
        self.draft(0, self.length, step_now=True)

    def close(self, position: int | None = None) -> None:
        """The Close."""
        self.send(pb.EdgeMessage(close=pb.Close(position=position)))

    def half_close(self) -> None:
        """End this side."""
        self._outgoing.put(None)

    def cancel(self) -> None:
        """Be gone without a word."""
        self._call.cancel()
        self._outgoing.put(None)

    # ---- down ----

    @property
    def stands(self) -> bool:
        """Whether it is not over, as far as is known by now."""
        return self._reader.is_alive()

    @property
    def opened(self) -> pb.Opened:
        """The Opened: the first message, waited for."""
        message = self._first()
        check(message.HasField("opened"), f"the first message down is {_kind(message)}, not Opened")
        return message.opened

    @property
    def attached(self) -> pb.Attached:
        """The Attached: the first message, waited for."""
        message = self._first()
        check(message.HasField("attached"), f"the first message down is {_kind(message)}, not Attached")
        return message.attached

    @property
    def commits(self) -> list[pb.Commit]:
        """All commits so far."""
        return [message.commit for message in self.received if message.HasField("commit")]

    @property
    def length(self) -> int:
        """The length of the log: as the last commit, the Attached or the Open has it."""
        for message in reversed(self.received):
            if message.HasField("commit"):
                return message.commit.position + len(message.commit.tokens)
            if message.HasField("attached"):
                return len(message.attached.tokens)
        return self._opened_with

    def total(self, name: str) -> int:
        """A count of Commit, over all so far."""
        return sum(int(getattr(commit, name)) for commit in self.commits)

    def read(self, within_s: float | None = None) -> pb.CloudMessage | Ended:
        """The next message; at the end, again and again, how it ended."""
        if self._ended is not None:
            return self._ended
        within_s = self._deadline_s if within_s is None else within_s
        try:
            found = self._incoming.get(timeout=within_s)
        except queue.Empty:
            raise BrokenError(f"nothing comes for {within_s:g} s after {self._so_far()}") from None
        if isinstance(found, Ended):
            self._ended = found
            self._outgoing.put(None)
        else:
            self.received.append(found)
            self.tokens += found.commit.tokens
        return found

    def read_tokens(self, count: int) -> list[int]:
        """Read until so many were committed in all; those."""
        self._until(lambda: len(self.tokens) >= count, f"{count} tokens")
        return self.tokens[:count]

    def read_received(self, count: int) -> None:
        """Read until the commits have counted so many nodes of this stream."""
        self._until(lambda: self.total("received") >= count, f"a commit that counts {count} nodes received")

    def read_what_is_there(self) -> None:
        """Take what has come already."""
        while self._ended is None and not self._incoming.empty():
            self.read()

    def end(self) -> Ended:
        """Read to the end."""
        until = time.monotonic() + self._deadline_s
        while not isinstance(found := self.read(), Ended):
            if time.monotonic() > until:
                raise BrokenError(f"no end within {self._deadline_s:g} s, but {self._so_far()}")
        return found

    def ends_with(self, code: grpc.StatusCode, after: str, *, fence: bool = False) -> Ended:
        """Read to the end, which must have this status; `after` says what was sent.

        `fence`: a Close follows it, so that a server that has taken what it was to refuse ends the stream too.
        """
        if fence:
            self.close()
        try:
            ended = self.end()
        except BrokenError as silence:
            raise BrokenError(f"{after}: {silence}, expected {code.name}") from silence
        check(ended.code is code, f"{after}: ended with {ended}, expected {code.name}")
        return ended

    def finish(self) -> pb.Finish:
        """Read to the end, which must be a Finish and OK."""
        ended = self.end()
        check(ended.code is grpc.StatusCode.OK, f"ended with {ended} after {self._so_far()}, expected OK")
        last = self.received[-1] if self.received else pb.CloudMessage()
        check(last.HasField("finish"), f"the last message before OK is {_kind(last)}, not Finish")
        return last.finish

    # ---- inside ----

    def _first(self) -> pb.CloudMessage:
        if not self.received:
            found = self.read()
            if isinstance(found, Ended):
                raise BrokenError(f"ended with {found} before any message")
        return self.received[0]

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + self._deadline_s
        while not done():
            found = self.read(max(end - time.monotonic(), 0.0))
            if isinstance(found, Ended):
                raise BrokenError(f"ended with {found} after {self._so_far()}, expected {what}")

    def _so_far(self) -> str:
        kinds = [_kind(message) for message in self.received]
        return f"{len(self.tokens)} tokens in {len(kinds)} messages" + (
            f", last {kinds[-1]}" if kinds else ""
        )

    def _messages(self) -> Iterator[bytes]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def _read(self) -> None:
        call = self._call
        try:
            for message in call:
                self._incoming.put(message)
        except grpc.RpcError:
            pass  # said by the status
        self._incoming.put(Ended(call.code(), call.details() or ""))


def _kind(message: pb.CloudMessage) -> str:
    return (message.WhichOneof("kind") or "none").capitalize()
