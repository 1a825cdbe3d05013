"""A cloud that does what a script says: streams come in, the script reads and answers them, one thread for all."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from scripts.conformance.edge.tracker import Problem, Tracker
from scripts.conformance.rules import BrokenError
from shared.pb.slipstream.v1 import slipstream_pb2 as pb

DEADLINE_S: Final = 25.0
"""For whatever an edge has to do."""
SESSION: Final = "session-a"
SECRET: Final = "the-secret-of-a"  # noqa: S105 - of a session that a script makes up
"""Of the first cloud: what an assistant is told before it is started."""
PUSHBACK: Final = "grpc-retry-pushback-ms"
OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    # An edge may look after its connection as often as it likes.
    ("grpc.http2.min_ping_interval_without_data_ms", 1),
    ("grpc.http2.max_ping_strikes", 0),
)
UNKNOWN: Final = b"\xfa\x3f\x03new"
"""Field 1023, of no version."""
LIMITS: Final = pb.Limits(
    max_message_bytes=1 << 16,
    max_nodes_per_message=64,
    max_live_nodes=128,
    max_depth=64,
    max_messages_per_second=2000,
    max_sessions=8,
    max_patience_us=1_000_000,
    run_ahead=256,
    max_attached=4,
)


@dataclass(frozen=True, slots=True)
class _End:
    code: grpc.StatusCode
    detail: str
    pushback_ms: int | None = None


class Talk:
    """One stream, as the script sees it."""

    def __init__(self, cloud: Cloud, number: int) -> None:
        self.cloud = cloud
        self.number = number
        self.began = time.monotonic()
        self.messages: list[pb.EdgeMessage] = []
        """All that came up."""
        self.open: pb.Open | None = None
        """The whole Open, its parts put together."""
        self.attach: pb.Attach | None = None
        """Where the stream begins with one."""
        self.tracker: Tracker | None = None
        self.problems: list[Problem] = []
        """Of what came before the Open was whole, or after Close."""
        self.over = False
        """The edge has ended its side, or is gone."""
        self.ended_at: float | None = None
        """When the script ended it."""
        self.outgoing: queue.SimpleQueue[bytes | _End] = queue.SimpleQueue()
        self._changed = threading.Condition()

    # ---- up ----

    def wait(self, done: Callable[[Talk], object], within_s: float | None = None) -> bool:
        """Whether it is `done` within that time; the stream's end is waited for no longer."""
        within_s = self.cloud.deadline_s if within_s is None else within_s
        with self._changed:
            self._changed.wait_for(lambda: self.over or done(self), timeout=within_s)
            return bool(done(self))

    def expect(self, done: Callable[[Talk], object], what: str) -> None:
        """Wait for it; raises `BrokenError` if it does not come."""
        if not self.wait(done):
            how = "has ended the stream" if self.over else f"does nothing for {self.cloud.deadline_s:g} s"
            raise BrokenError(f"the edge {how}, expected {what}")

    @property
    def closed(self) -> pb.Close | None:
        """The Close, if it came."""
        return next((message.close for message in self.messages if message.HasField("close")), None)

    @property
    def guesses(self) -> dict[int, tuple[int, ...]]:
        """See `Tracker.guesses`."""
        with self._changed:
            return {} if self.tracker is None else self.tracker.guesses()

    def heard(self, message: pb.EdgeMessage) -> None:
        """A message has come up."""
        with self._changed:
            self.messages.append(message)
            self._look(message)
            self._changed.notify_all()

    def gone(self) -> None:
        """Nothing more comes up."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def _look(self, message: pb.EdgeMessage) -> None:
        limits, kind = self.cloud.model.limits, message.WhichOneof("kind")
        if message.ByteSize() > limits.max_message_bytes:
            what = f"{message.ByteSize()} bytes in a message, at most {limits.max_message_bytes}"
            self.problems.append(Problem("the-message-size-is-kept", what))
        if self.closed is not None and kind != "close":
            self.problems.append(Problem("close-is-the-last-message", f"{kind} after Close"))
        if self.attach is not None and message.close.HasField("position"):
            self.problems.append(Problem("an-attached-stream-names-no-position", "Close with a position"))
        if self.tracker is None and kind == "open" and self.attach is None:
            self._put_together(message.open)
        elif kind == "attach" and len(self.messages) == 1:
            self.attach = message.attach
        elif self.tracker is None and self.attach is not None and kind == "draft":
            self.problems.append(Problem("nothing-is-drafted-before-attached", "a Draft before Attached"))
        elif self.tracker is None:
            self.problems.append(Problem("open-comes-first", f"{kind} before a whole Open"))
        elif kind == "draft":
            self.tracker.draft(message.draft)
        elif kind != "close":
            self.problems.append(Problem("open-comes-first", f"{kind} on a stream that is open"))

    def _put_together(self, part: pb.Open) -> None:
        if not part.HasField("sampling") or part.protocol_version != 1:
            self.problems.append(
                Problem("opens-are-complete", "an Open without sampling or protocol_version 1")
            )
        if self.open is None:
            self.open = pb.Open()
            self.open.CopyFrom(part)
        else:
            self.open.tokens.extend(part.tokens)
        if not part.more:
            model = self.cloud.model
            self.tracker = Tracker(
                model.limits, model.vocabulary_size, self.open.prompt_length, list(self.open.tokens)
            )

    # ---- down ----

    def send(self, message: pb.CloudMessage | bytes) -> None:
        """Whatever it is."""
        self.outgoing.put(message if isinstance(message, bytes) else message.SerializeToString())

    def say_opened(self, **fields: Any) -> None:
        """Opened, as it is to be but for the named fields."""
        opened = pb.Opened(
            session_id=f"session-{self.cloud.name}",
            secret=self.cloud.secret,
            model_fingerprint=self.cloud.model.model_fingerprint,
            limits=self.cloud.model.limits,
            **fields,
        )
        self.send(_with(1, opened.SerializeToString(), self.cloud.unknown))

    def say_attached(self, session: pb.Open) -> None:
        """Attached to a session that this Open would open."""
        model = self.cloud.model
        with self._changed:
            self.open = session
            log = list(session.tokens)
            self.tracker = Tracker(model.limits, model.vocabulary_size, session.prompt_length, log)
        attached = pb.Attached(
            tokens=log,
            prompt_length=session.prompt_length,
            max_length=session.max_length,
            sampling=session.sampling,
            model_fingerprint=model.model_fingerprint,
            limits=model.limits,
        )
        self.send(_with(5, attached.SerializeToString(), self.cloud.unknown))

    def say_commit(self, tokens: list[int], *, position: int | None = None) -> None:
        """Tokens, which are in the log from now on; `position`: another one than theirs."""
        if self.tracker is None:
            raise ValueError("no Open came yet")
        with self._changed:
            at = len(self.tracker.log)
            if position is None:
                self.tracker.committed(tokens)
        commit = pb.Commit(
            position=at if position is None else position, tokens=tokens, steps=1, facts=len(tokens)
        )
        self.send(_with(2, commit.SerializeToString(), self.cloud.unknown))

    def say_finish(self, reason: pb.FinishReason.ValueType) -> None:
        """Finish, and the end of the stream."""
        prompt = 0 if self.open is None else self.open.prompt_length
        length = prompt if self.tracker is None else len(self.tracker.log)
        finish = pb.Finish(reason=reason, prompt_tokens=prompt, completion_tokens=length - prompt)
        self.send(_with(4, finish.SerializeToString(), self.cloud.unknown))
        self.end(grpc.StatusCode.OK, "")

    def end(
        self, code: grpc.StatusCode, detail: str = "by the script", pushback_ms: int | None = None
    ) -> None:
        """End the stream, if it was not ended before."""
        if self.ended_at is None:
            self.ended_at = time.monotonic()
        self.outgoing.put(_End(code, detail, pushback_ms))


@dataclass
class Cloud:
    """A server for a script. Used as a context manager by the script's thread."""

    name: str = "a"
    limits: pb.Limits = field(default_factory=lambda: LIMITS)
    vocabulary_size: int = 1000
    context_length: int = 2000
    tokenizer_fingerprint: str = ""
    unknown: bytes = b""
    """Goes into every message down."""
    deadline_s: float = DEADLINE_S
    """For whatever an edge has to do."""
    address: str = ""
    asked: list[float] = field(default_factory=list)
    """When GetModel was called."""
    talks: list[Talk] = field(default_factory=list)
    """All streams."""
    secret: str = ""
    _arrivals: queue.SimpleQueue[Talk] = field(default_factory=queue.SimpleQueue)

    @property
    def model(self) -> pb.Model:
        """What it says about itself."""
        return pb.Model(
            name="scripted",
            model_fingerprint="scripted-model",
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            vocabulary_size=self.vocabulary_size,
            context_length=self.context_length,
            limits=self.limits,
            protocol_version=1,
            takes_attached=True,
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[Cloud]:
        """It listens on a port of this machine's own."""
        self.secret = f"the-secret-of-{self.name}"
        server = grpc.server(ThreadPoolExecutor(max_workers=16), options=OPTIONS)
        server.add_generic_rpc_handlers((_Handlers(self),))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield self
        finally:
            for talk in self.talks:
                talk.end(grpc.StatusCode.UNAVAILABLE, "the script is over")
            server.stop(grace=None).wait()

    def next_talk(self) -> Talk | None:
        """The next stream; None: none comes."""
        try:
            return self._arrivals.get(timeout=self.deadline_s)
        except queue.Empty:
            return None

    # ---- the service ----

    def get_model(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """The RPC."""
        self.asked.append(time.monotonic())
        return _with(0, self.model.SerializeToString(), self.unknown)

    def decode(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The RPC."""
        talk = Talk(self, len(self.talks) + 1)
        self.talks.append(talk)
        threading.Thread(target=_hear, args=(talk, messages), daemon=True).start()
        self._arrivals.put(talk)
        while not isinstance(item := talk.outgoing.get(), _End):
            yield item
        if item.pushback_ms is not None:
            context.set_trailing_metadata(((PUSHBACK, str(item.pushback_ms)),))
        if item.code is not grpc.StatusCode.OK:
            context.abort(item.code, item.detail)


class _Handlers(grpc.GenericRpcHandler):
    """Bytes in and out, so that a script may say what is no message."""

    def __init__(self, cloud: Cloud) -> None:
        service = pb.DESCRIPTOR.services_by_name["Slipstream"].full_name
        self._methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            f"/{service}/GetModel": grpc.unary_unary_rpc_method_handler(cloud.get_model),
            f"/{service}/Decode": grpc.stream_stream_rpc_method_handler(cloud.decode),
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._methods.get(str(details.method))


def _hear(talk: Talk, messages: Iterator[bytes]) -> None:
    # gRPC says by a bare Exception that a stream is over.
    with contextlib.suppress(Exception):
        for message in messages:
            talk.heard(pb.EdgeMessage.FromString(message))
    talk.gone()


def _with(number: int, body: bytes, unknown: bytes) -> bytes:
    """A CloudMessage with this kind, and a field that nobody knows in it and beside it; 0: the body itself."""
    body += unknown
    if not number:
        return body
    digits, rest = [], len(body)
    while rest > 127:
        digits.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2, *digits, rest]) + body + unknown
