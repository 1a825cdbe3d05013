"""The codec: between the frozen values of `shared.messages` and their protobuf form (`proto/` is the specification).

`from_wire` reads what a peer wrote. It refuses what has no value (an empty oneof, an unset part, an unknown enum
member, arrays that do not belong together) with `ContractViolation(INVALID_ARGUMENT)`; what depends on the session so
far is judged by the machines. `to_wire` writes what this side built: a value that the wire cannot carry is a bug here
and raises `ValueError`. What equals its default is left out, so that a chain of drafts is little more than its tokens.
"""

from __future__ import annotations

from typing import assert_never

from shared.messages import (
    DEFAULT_COST,
    Attach,
    Attached,
    Close,
    CloudMessage,
    Commit,
    Draft,
    Drain,
    EdgeMessage,
    Finish,
    FinishReason,
    Open,
    Opened,
)
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.wire.parts import (
    limits_from_wire,
    limits_to_wire,
    model_info_from_wire,
    model_info_to_wire,
    refuse,
    sampling_from_wire,
    sampling_to_wire,
    session_notice_from_wire,
    session_notice_to_wire,
)

__all__ = [
    "chain_offsets",
    "cloud_message_from_wire",
    "cloud_message_to_wire",
    "edge_message_from_wire",
    "edge_message_to_wire",
    "model_info_from_wire",
    "model_info_to_wire",
    "session_notice_from_wire",
    "session_notice_to_wire",
]

_REASONS_TO_WIRE = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CONTEXT: pb.FINISH_REASON_CONTEXT,
    FinishReason.CLOSED: pb.FINISH_REASON_CLOSED,
}
_REASONS_FROM_WIRE = {wire: reason for reason, wire in _REASONS_TO_WIRE.items()}


def chain_offsets(count: int) -> tuple[int, ...]:
    """The `parent_offsets` of a chain of `count` nodes that hangs from the end: 0, 1, 1, ..."""
    return (0, *(1,) * (count - 1)) if count else ()


# Up


def edge_message_to_wire(message: EdgeMessage) -> pb.EdgeMessage:
    """Raises `ValueError` for a `Draft` that breaks its own form, or a number that its field cannot hold."""
    match message:
        case Draft():
            return pb.EdgeMessage(draft=_draft_to_wire(message))
        case Open():
            return pb.EdgeMessage(open=_open_to_wire(message))
        case Attach():
            return pb.EdgeMessage(attach=_attach_to_wire(message))
        case Close():
            return pb.EdgeMessage(close=pb.Close(position=message.position))
        case _:
            assert_never(message)


def edge_message_from_wire(message: pb.EdgeMessage) -> EdgeMessage:
    """Raises `ContractViolation` (INVALID_ARGUMENT) for what is not a whole message of this version."""
    match message.WhichOneof("kind"):
        case "draft":
            return _draft_from_wire(message.draft)
        case "open":
            return _open_from_wire(message.open)
        case "attach":
            return _attach_from_wire(message.attach)
        case "close":
            return Close(position=message.close.position if message.close.HasField("position") else None)
        case None:
            refuse("an EdgeMessage holds one of open, attach, draft and close")


def _open_to_wire(message: Open) -> pb.Open:
    return pb.Open(
        protocol_version=message.protocol_version,
        tokens=message.tokens,
        prompt_length=message.prompt_length,
        max_length=message.max_length,
        sampling=sampling_to_wire(message.sampling),
        stop_tokens=message.stop_tokens,
        model_fingerprint=message.model_fingerprint,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        patience_us=message.patience_us,
        adaptive_patience_us=message.adaptive_patience_us,
        want_logprobs=message.want_logprobs,
        more=message.more,
        session_id=message.session_id,
        secret=message.secret,
    )


def _open_from_wire(message: pb.Open) -> Open:
    if not message.HasField("sampling"):
        refuse("open.sampling is not set")
    return Open(
        tokens=tuple(message.tokens),
        prompt_length=message.prompt_length,
        max_length=message.max_length,
        sampling=sampling_from_wire(message.sampling, "open.sampling"),
        stop_tokens=tuple(message.stop_tokens),
        model_fingerprint=message.model_fingerprint,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        patience_us=message.patience_us,
        adaptive_patience_us=message.adaptive_patience_us,
        want_logprobs=message.want_logprobs,
        more=message.more,
        protocol_version=message.protocol_version,
        session_id=message.session_id,
        secret=message.secret,
    )


def _attach_to_wire(message: Attach) -> pb.Attach:
    return pb.Attach(
        protocol_version=message.protocol_version,
        session_id=message.session_id,
        secret=message.secret,
        model_fingerprint=message.model_fingerprint,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
    )


def _attach_from_wire(message: pb.Attach) -> Attach:
    return Attach(
        session_id=message.session_id,
        secret=message.secret,
        model_fingerprint=message.model_fingerprint,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        protocol_version=message.protocol_version,
    )


def _draft_to_wire(draft: Draft) -> pb.Draft:
    count = len(draft.tokens)
    if len(draft.parent_offsets) != count or len(draft.costs) != count:
        raise ValueError(
            f"a Draft of {count} tokens has {len(draft.parent_offsets)} parent_offsets and {len(draft.costs)} costs"
        )
    if (draft.first_node == 0) != (count == 0):
        raise ValueError(f"a Draft of {count} tokens has first_node {draft.first_node}")
    # A chain and the usual cost are what an absent array means: bytes on the uplink that say nothing are not sent.
    is_chain = draft.parent_offsets == chain_offsets(count)
    is_usual_cost = draft.costs == (DEFAULT_COST,) * count
    return pb.Draft(
        first_node=draft.first_node,
        root_position=draft.root_position,
        tokens=draft.tokens,
        parent_offsets=() if is_chain else draft.parent_offsets,
        costs=() if is_usual_cost else draft.costs,
        seen=None if draft.seen == draft.root_position else draft.seen,
        step_now=draft.step_now,
    )


def _draft_from_wire(draft: pb.Draft) -> Draft:
    tokens = tuple(draft.tokens)
    count = len(tokens)
    if len(draft.parent_offsets) not in (0, count):
        refuse(f"draft.parent_offsets: {len(draft.parent_offsets)} for {count} tokens")
    if len(draft.costs) not in (0, count):
        refuse(f"draft.costs: {len(draft.costs)} for {count} tokens")
    if (draft.first_node == 0) != (count == 0):
        refuse(
            f"draft.first_node: {draft.first_node} for {count} tokens; ids begin at 1, no tokens take none"
        )
    return Draft(
        first_node=draft.first_node,
        root_position=draft.root_position,
        tokens=tokens,
        parent_offsets=tuple(draft.parent_offsets) or chain_offsets(count),
        costs=tuple(draft.costs) or (DEFAULT_COST,) * count,
        seen=draft.seen if draft.HasField("seen") else draft.root_position,
        step_now=draft.step_now,
    )


# Down


def cloud_message_to_wire(message: CloudMessage) -> pb.CloudMessage:
    """Raises `ValueError` for logprobs that do not belong to the tokens, or a number that its field cannot hold."""
    match message:
        case Commit():
            return pb.CloudMessage(commit=_commit_to_wire(message))
        case Opened():
            return pb.CloudMessage(opened=_opened_to_wire(message))
        case Attached():
            return pb.CloudMessage(attached=_attached_to_wire(message))
        case Drain():
            return pb.CloudMessage(drain=pb.Drain(target=message.target))
        case Finish():
            return pb.CloudMessage(finish=_finish_to_wire(message))
        case _:
            assert_never(message)


def cloud_message_from_wire(message: pb.CloudMessage) -> CloudMessage:
    """Raises `ContractViolation` (INVALID_ARGUMENT) for what is not a whole message of this version."""
    match message.WhichOneof("kind"):
        case "commit":
            return _commit_from_wire(message.commit)
        case "opened":
            return _opened_from_wire(message.opened)
        case "attached":
            return _attached_from_wire(message.attached)
        case "drain":
            return Drain(target=message.drain.target)
        case "finish":
            return _finish_from_wire(message.finish)
        case None:
            refuse("a CloudMessage holds one of opened, attached, commit, drain and finish")


def _opened_to_wire(message: Opened) -> pb.Opened:
    return pb.Opened(
        session_id=message.session_id,
        secret=message.secret,
        seed=message.seed,
        model_fingerprint=message.model_fingerprint,
        limits=limits_to_wire(message.limits),
        sp_degree=message.sp_degree,
    )


def _opened_from_wire(message: pb.Opened) -> Opened:
    if not message.session_id:
        refuse("opened.session_id is not set")
    if not message.HasField("limits"):
        refuse("opened.limits is not set")
    return Opened(
        session_id=message.session_id,
        secret=message.secret,
        seed=message.seed,
        model_fingerprint=message.model_fingerprint,
        limits=limits_from_wire(message.limits),
        sp_degree=message.sp_degree,
    )


def _attached_to_wire(message: Attached) -> pb.Attached:
    return pb.Attached(
        tokens=message.tokens,
        prompt_length=message.prompt_length,
        max_length=message.max_length,
        sampling=sampling_to_wire(message.sampling),
        stop_tokens=message.stop_tokens,
        model_fingerprint=message.model_fingerprint,
        limits=limits_to_wire(message.limits),
        sp_degree=message.sp_degree,
    )


def _attached_from_wire(message: pb.Attached) -> Attached:
    if not 1 <= message.prompt_length <= len(message.tokens):
        refuse(f"attached.prompt_length: {message.prompt_length} of {len(message.tokens)} tokens")
    for name in ("sampling", "limits"):
        if not message.HasField(name):
            refuse(f"attached.{name} is not set")
    return Attached(
        tokens=tuple(message.tokens),
        prompt_length=message.prompt_length,
        max_length=message.max_length,
        sampling=sampling_from_wire(message.sampling, "attached.sampling"),
        stop_tokens=tuple(message.stop_tokens),
        model_fingerprint=message.model_fingerprint,
        limits=limits_from_wire(message.limits),
        sp_degree=message.sp_degree,
    )


def _commit_to_wire(commit: Commit) -> pb.Commit:
    if len(commit.logprobs) not in (0, len(commit.tokens)):
        raise ValueError(f"a Commit of {len(commit.tokens)} tokens has {len(commit.logprobs)} logprobs")
    return pb.Commit(
        position=commit.position,
        tokens=commit.tokens,
        logprobs=commit.logprobs,
        queue_us=commit.queue_us,
        verify_us=commit.verify_us,
        steps=commit.steps,
        facts=commit.facts,
        judged=commit.judged,
        accepted=commit.accepted,
        received=commit.received,
        stale=commit.stale,
        self_decoded=commit.self_decoded,
        advised_window=commit.advised_window,
    )


def _commit_from_wire(commit: pb.Commit) -> Commit:
    if not commit.tokens:
        refuse("commit.tokens is empty")
    if len(commit.logprobs) not in (0, len(commit.tokens)):
        refuse(f"commit.logprobs: {len(commit.logprobs)} for {len(commit.tokens)} tokens")
    return Commit(
        position=commit.position,
        tokens=tuple(commit.tokens),
        logprobs=tuple(commit.logprobs),
        queue_us=commit.queue_us,
        verify_us=commit.verify_us,
        steps=commit.steps,
        facts=commit.facts,
        judged=commit.judged,
        accepted=commit.accepted,
        received=commit.received,
        stale=commit.stale,
        self_decoded=commit.self_decoded,
        advised_window=commit.advised_window,
    )


def _finish_to_wire(finish: Finish) -> pb.Finish:
    return pb.Finish(
        reason=_REASONS_TO_WIRE[finish.reason],
        prompt_tokens=finish.prompt_tokens,
        completion_tokens=finish.completion_tokens,
    )


def _finish_from_wire(finish: pb.Finish) -> Finish:
    reason = _REASONS_FROM_WIRE.get(finish.reason)
    if reason is None:
        refuse(f"finish.reason: {finish.reason} is not a reason of this version")
    return Finish(
        reason=reason,
        prompt_tokens=finish.prompt_tokens,
        completion_tokens=finish.completion_tokens,
    )
