"""A server that is looked at: what it says about itself, and what its target writes, which every script needs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from scripts.conformance.rules import RuleBook, SkippedError, check
from scripts.conformance.server.client import DEADLINE_S, Metadata, Stream
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.pb.slipstream.v1 import slipstream_pb2_grpc as pb_grpc

PROMPT: Final = (1, 2, 3)
AT: Final = len(PROMPT)
"""The position of the first token after it."""
NEW: Final = 24
"""Tokens of the text that most scripts work with: short, since a server may take long over each."""
PROTOCOL: Final = 1
BYTES_PER_TOKEN: Final = 5
"""At most, on the wire."""
SHORTEST_PATIENCE_US: Final = 200_000
"""Below this a script cannot tell whether somebody waited."""
LONGEST_S: Final = 15.0
"""What a script may take over tokens that it has to have written."""

RULES: Final[RuleBook[Server]] = RuleBook()


@dataclass
class Server:
    """Made with a channel to it; used by one thread."""

    channel: grpc.Channel
    metadata: Metadata = ()
    """Sent with every call."""
    watching: Metadata | None = None
    """What lets in to WatchSessions; None: nothing that is known here."""
    drain: Callable[[], None] | None = None
    """Tells the server to go away; None: that is in nobody's hands here."""
    deadline_s: float = DEADLINE_S
    """For whatever must come at all."""
    _texts: dict[tuple[bytes, tuple[int, ...]], list[int]] = field(default_factory=dict)
    _token_s: float = 0.0
    _streams: list[Stream] = field(default_factory=list)

    # ---- what it is ----

    @functools.cached_property
    def stub(self) -> pb_grpc.SlipstreamStub:
        """For calls that are no streams."""
        return pb_grpc.SlipstreamStub(self.channel)

    @functools.cached_property
    def model(self) -> pb.Model:
        """Its answer to GetModel."""
        return self.ask(self.metadata)

    @property
    def limits(self) -> pb.Limits:
        """What it accepts."""
        return self.model.limits

    def ask(self, metadata: Metadata) -> pb.Model:
        """GetModel. Raises grpc.RpcError."""
        return self.stub.GetModel(pb.GetModelRequest(), timeout=DEADLINE_S, metadata=tuple(metadata))

    # ---- what its target writes ----

    def text(
        self, count: int = NEW, sampling: pb.Sampling | None = None, log: Iterable[int] = PROMPT
    ) -> list[int]:
        """The target's first `count` tokens after `log`, as a session without any draft is told them."""
        self.room(count)
        log, sampling = tuple(log), sampling or pb.Sampling()
        key = sampling.SerializeToString(deterministic=True), log
        known = self._texts.get(key, [])
        if len(known) < count:
            began = time.monotonic()
            stream = self.stream(self.opening(log, new=count, sampling=sampling))
            step = max(1, self.limits.run_ahead // 2)
            for known_now in range(step, count, step):
                stream.read_tokens(known_now)
                stream.draft(0, len(log) + known_now)
            stream.finish()
            known = self._texts[key] = stream.tokens
            self._token_s = (time.monotonic() - began) / count
            check(len(known) == count, f"a session for {count} tokens was given {len(known)}")
        return known[:count]

    def wrong(self, token: int) -> int:
        """Another token."""
        return (token + 1) % self.model.vocabulary_size

    def affords(self, tokens: int) -> None:
        """Raises `SkippedError` where so many tokens take too long, or have no room."""
        self.text()
        took = tokens * self._token_s
        if took > LONGEST_S:
            raise SkippedError(f"{tokens} tokens of this server take {took:.0f} s")
        self.room(tokens)

    def room(self, tokens: int) -> None:
        """Raises `SkippedError` where the context is too short for so many tokens after the prompt."""
        if self.model.context_length < AT + tokens:
            raise SkippedError(f"needs {AT + tokens} tokens of context, not {self.model.context_length}")

    # ---- streams ----

    def stream(self, *messages: pb.EdgeMessage | bytes) -> Stream:
        """A stream that says these things at once."""
        stream = Stream(self.channel, self.metadata, self.deadline_s)
        self._streams.append(stream)
        stream.send(*messages)
        return stream

    def hang_up(self) -> None:
        """End whatever a script has left behind."""
        while self._streams:
            self._streams.pop().cancel()

    def opening(self, log: Iterable[int] = PROMPT, *, new: int = NEW, **fields: Any) -> pb.EdgeMessage:
        """An Open for `new` more tokens; all of `log` is the prompt unless something else is said."""
        log = tuple(log)
        values: dict[str, Any] = {
            "protocol_version": PROTOCOL,
            "prompt_length": len(log),
            "max_length": len(log) + new,
            "sampling": pb.Sampling(),
        }
        return pb.EdgeMessage(open=pb.Open(tokens=log, **(values | fields)))

    def openings(self, log: Iterable[int], **fields: Any) -> list[pb.EdgeMessage]:
        """The same in as many parts as its message limit asks for."""
        log = tuple(log)
        size = max(1, (self.limits.max_message_bytes - 256) // BYTES_PER_TOKEN)
        parts = [log[at : at + size] for at in range(0, len(log), size)]
        whole = self.opening(
            (), new=0, **({"prompt_length": len(log), "max_length": len(log) + NEW} | fields)
        ).open
        messages = []
        for index, part in enumerate(parts):
            message = pb.Open()
            message.CopyFrom(whole)
            message.tokens.extend(part)
            message.more = index + 1 < len(parts)
            messages.append(pb.EdgeMessage(open=message))
        return messages

    def open(self, log: Iterable[int] = PROMPT, **fields: Any) -> Stream:
        """A session that is open."""
        stream = self.stream(self.opening(log, **fields))
        _ = stream.opened
        return stream

    def resting(self, new: int = NEW, **fields: Any) -> Stream:
        """An open session in which the cloud waits for a draft, as long as it grants that."""
        return self.open(**({"new": new, "patience_us": self.limits.max_patience_us} | fields))

    def patient(self, new: int = NEW, **fields: Any) -> Stream:
        """The same where the script counts on it.

        Raises:
            SkippedError: it grants no patience worth the name.
        """
        self.patience()
        return self.resting(new, **fields)

    def patience(self) -> int:
        """The longest that it grants, microseconds; raises `SkippedError` if that is next to nothing."""
        if self.limits.max_patience_us < SHORTEST_PATIENCE_US:
            raise SkippedError(f"needs a patience of {SHORTEST_PATIENCE_US} us, this server grants less")
        return self.limits.max_patience_us

    def attach(self, owner: Stream, **fields: Any) -> Stream:
        """A stream that asks to be attached to the session.

        Raises:
            SkippedError: the server takes none.
        """
        self.takes_attached()
        opened = owner.opened
        values: dict[str, Any] = {
            "protocol_version": PROTOCOL,
            "session_id": opened.session_id,
            "secret": opened.secret,
        }
        return self.stream(pb.EdgeMessage(attach=pb.Attach(**(values | fields))))

    def takes_attached(self) -> None:
        """Raises `SkippedError` where it does not."""
        if not self.model.takes_attached:
            raise SkippedError("this server takes no attached streams")

    def served(self) -> None:
        """Somebody else is served meanwhile: a whole session, with the right text."""
        want = self.text()
        stream = self.open()
        stream.finish()
        check(stream.tokens == want, "another session got another text")


def refused(
    server: Server, code: grpc.StatusCode, cases: dict[str, pb.EdgeMessage | bytes | list[pb.EdgeMessage]]
) -> None:
    """Each is refused as the first thing on a stream: with this status, words, and no message before it."""
    for name, message in cases.items():
        stream = server.stream(*message) if isinstance(message, list) else server.stream(message)
        ended = stream.ends_with(code, name)
        check(not stream.received, f"{name}: messages came before the refusal")
        check(ended.detail, f"{name}: the status says nothing about what was found")
