"""The contract's messages as frozen values: what the machines read and write. proto/ is the specification.

`shared.wire` maps them to and from protobuf. Positions are absolute (the prompt starts at 0), durations are
microseconds measured on one clock, token ids are non-negative ints.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from shared.sampling import SamplingParams

PROTOCOL_VERSION = 1
COST_UNITS_PER_NAT = 16
"""`Draft.costs` are in 1/16 nat."""
DEFAULT_COST = COST_UNITS_PER_NAT
"""The cost of a node that names none: 1 nat."""


class FinishReason(enum.Enum):
    """Why a log was closed."""

    STOP = "stop"
    """A stop token was committed (it is part of the log)."""
    LENGTH = "length"
    """The log reached the greatest length that the edge asked for."""
    CONTEXT = "context"
    """The log reached the target's context length."""
    CLOSED = "closed"
    """The edge sent `Close`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the cloud accepts; each limit's status code is given in proto/README.md."""

    max_message_bytes: int = 1 << 20
    max_nodes_per_message: int = 256
    max_live_nodes: int = 512
    """Live nodes of one stream, counted in the cloud; never more than the edge itself has in flight."""
    max_depth: int = 256
    """Greatest distance of a node from the end of the log, in tokens."""
    max_messages_per_second: int = 2000
    max_sessions: int = 64
    max_patience_us: int = 5_000_000
    run_ahead: int = 1024
    """Self-decode stops this many tokens past the `seen` that the edge has reported."""
    max_attached: int = 8
    """Streams that may be attached to one session; 0: no such limit."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The answer to `GetModel`."""

    name: str
    model_fingerprint: str
    """Weights, dtype and sampler version; two servers with the same one state the same facts."""
    tokenizer_fingerprint: str
    vocabulary_size: int
    context_length: int
    stop_tokens: tuple[int, ...]
    """End-of-sequence ids, for an edge that asks for the model's own."""
    limits: Limits = field(default_factory=Limits)
    protocol_version: int = PROTOCOL_VERSION
    takes_attached: bool = False
    """Whether streams may be attached to sessions."""
    open_sessions: int = 0
    """Sessions that are open now; 0: none, or the server does not say."""
    sp_degree: int = 0
    """Steps of one session that may be under way at once; 0 and 1: one at a time."""


@dataclass(frozen=True, slots=True)
class Open:
    """First message of a stream: the log so far and how it is to be continued."""

    tokens: tuple[int, ...]
    prompt_length: int
    max_length: int
    """Greatest log length, absolute, so that reopening does not extend it."""
    sampling: SamplingParams
    stop_tokens: tuple[int, ...] = ()
    model_fingerprint: str = ""
    """Empty: any model will do (first open only; a reopening names what it was opened with)."""
    tokenizer_fingerprint: str = ""
    patience_us: int = 0
    want_logprobs: bool = False
    adaptive_patience_us: int = 0
    """The most that the cloud may wait where it finds that worth while; used while `patience_us` is 0."""
    more: bool = False
    """Further `Open` parts follow, each with more `tokens`; every other field counts in the first part."""
    protocol_version: int = PROTOCOL_VERSION
    session_id: str = ""
    """The session that this log is the log of, if it may still be served; empty: none."""
    secret: str = field(default="", repr=False)
    """Of that session."""


@dataclass(frozen=True, slots=True)
class Attach:
    """First message of a stream that brings drafts for a session that another stream has opened."""

    session_id: str
    secret: str = field(repr=False)
    model_fingerprint: str = ""
    """Empty: not checked."""
    tokenizer_fingerprint: str = ""
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Draft:
    """Nodes for the tree. `parent_offsets` and `costs` are as long as `tokens` (the codec fills in defaults)."""

    first_node: int
    """Id of the first node; dense per stream from 1. 0 when there are no tokens."""
    root_position: int
    """The log length that "the end" means in this message."""
    tokens: tuple[int, ...]
    parent_offsets: tuple[int, ...]
    """Node i's parent is node i - offset; 0 is the end at `root_position`."""
    costs: tuple[int, ...]
    """1/16 nat: -ln of the estimate that the target draws this token given its parent."""
    seen: int
    """Log length that the edge has seen."""
    step_now: bool = False
    """Asks for one token now, without waiting out the patience. Of no effect on an attached stream."""


@dataclass(frozen=True, slots=True)
class Close:
    """The edge has what it wants. A stream that ends without this was lost."""

    position: int | None = None
    """Tokens at and after this log position do not count in the usage; None: all count."""


EdgeMessage = Open | Attach | Draft | Close


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is open."""

    session_id: str
    secret: str = field(repr=False)
    """Whoever has it can read the session, draft for it and take it over: it is logged nowhere."""
    seed: int
    model_fingerprint: str
    limits: Limits
    sp_degree: int = 0
    """See `ModelInfo.sp_degree`."""


@dataclass(frozen=True, slots=True)
class Attached:
    """The stream is attached: the session as it is now."""

    tokens: tuple[int, ...]
    """The log."""
    prompt_length: int
    max_length: int
    sampling: SamplingParams
    stop_tokens: tuple[int, ...]
    model_fingerprint: str
    limits: Limits
    sp_degree: int = 0
    """See `ModelInfo.sp_degree`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens that are now in the log, and what they cost since the commit before (all counts are deltas).

    `judged`, `accepted`, `received` and `stale` are of this stream's own drafts.
    """

    position: int
    """Log index of the first token."""
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    queue_us: int = 0
    """From the moment the end's fact was wanted until its step began."""
    verify_us: int = 0
    """Duration of that step."""
    steps: int = 0
    """Verify steps that this session took part in."""
    facts: int = 0
    """Facts evaluated for this session."""
    judged: int = 0
    """Committed tokens for which the cloud held at least one draft of this stream."""
    accepted: int = 0
    """Committed tokens that a draft of this stream had right."""
    received: int = 0
    """Draft nodes received."""
    stale: int = 0
    """Draft nodes that were dead on arrival."""
    self_decoded: int = 0
    """Steps that the session took without any draft, whoever's."""
    advised_window: int = 0
    """How many nodes in flight are worth it now; 0: no advice."""

    def __post_init__(self) -> None:
        if not self.tokens:
            raise ValueError("a Commit carries at least one token")


@dataclass(frozen=True, slots=True)
class Drain:
    """The server is going away: move on, to `target` if one is named."""

    target: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """The log is closed; the stream ends with status OK after this."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Tokens that count: those before `Close.position` if one was given."""


CloudMessage = Opened | Attached | Commit | Drain | Finish


@dataclass(frozen=True, slots=True)
class SessionNotice:
    """A session that whoever watches a server may attach to."""

    session_id: str
    secret: str = field(repr=False)
