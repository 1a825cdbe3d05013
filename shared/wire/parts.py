"""The codec's parts that several messages share, and what a server says outside of streams. See `shared.wire`."""

from __future__ import annotations

from typing import NoReturn

from shared.errors import ContractViolation, Status
from shared.messages import Limits, ModelInfo, SessionNotice
from shared.pb.slipstream.v1 import slipstream_pb2 as pb
from shared.sampling import SamplingParams


def sampling_to_wire(sampling: SamplingParams) -> pb.Sampling:
    """What is at its default is left out."""
    return pb.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=None if sampling.top_p == 1.0 else sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )


def sampling_from_wire(sampling: pb.Sampling, name: str) -> SamplingParams:
    """Raises `ContractViolation` (INVALID_ARGUMENT) for a number out of its range; `name`: what it stands in."""
    try:
        return SamplingParams(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
            min_p=sampling.min_p,
            seed=sampling.seed,
        )
    except ValueError as error:
        # The peer's number, not ours: SamplingParams names the field.
        raise ContractViolation(Status.INVALID_ARGUMENT, f"{name}: {error}") from error


def limits_to_wire(limits: Limits) -> pb.Limits:
    """Raises `ValueError` for a number that its field cannot hold."""
    return pb.Limits(
        max_message_bytes=limits.max_message_bytes,
        max_nodes_per_message=limits.max_nodes_per_message,
        max_live_nodes=limits.max_live_nodes,
        max_depth=limits.max_depth,
        max_messages_per_second=limits.max_messages_per_second,
        max_sessions=limits.max_sessions,
        max_patience_us=limits.max_patience_us,
        run_ahead=limits.run_ahead,
        max_attached=limits.max_attached,
    )


def limits_from_wire(limits: pb.Limits) -> Limits:
    """Any numbers are limits."""
    return Limits(
        max_message_bytes=limits.max_message_bytes,
        max_nodes_per_message=limits.max_nodes_per_message,
        max_live_nodes=limits.max_live_nodes,
        max_depth=limits.max_depth,
        max_messages_per_second=limits.max_messages_per_second,
        max_sessions=limits.max_sessions,
        max_patience_us=limits.max_patience_us,
        run_ahead=limits.run_ahead,
        max_attached=limits.max_attached,
    )


def model_info_to_wire(info: ModelInfo) -> pb.Model:
    """Raises `ValueError` for a number that its field cannot hold."""
    return pb.Model(
        name=info.name,
        model_fingerprint=info.model_fingerprint,
        tokenizer_fingerprint=info.tokenizer_fingerprint,
        vocabulary_size=info.vocabulary_size,
        context_length=info.context_length,
        stop_tokens=info.stop_tokens,
        limits=limits_to_wire(info.limits),
        protocol_version=info.protocol_version,
        takes_attached=info.takes_attached,
        open_sessions=info.open_sessions,
        sp_degree=info.sp_degree,
    )


def model_info_from_wire(model: pb.Model) -> ModelInfo:
    """Raises `ContractViolation` (INVALID_ARGUMENT) when the limits are not set."""
    if not model.HasField("limits"):
        refuse("model.limits is not set")
    return ModelInfo(
        name=model.name,
        model_fingerprint=model.model_fingerprint,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        vocabulary_size=model.vocabulary_size,
        context_length=model.context_length,
        stop_tokens=tuple(model.stop_tokens),
        limits=limits_from_wire(model.limits),
        protocol_version=model.protocol_version,
        takes_attached=model.takes_attached,
        open_sessions=model.open_sessions,
        sp_degree=model.sp_degree,
    )


def session_notice_to_wire(notice: SessionNotice) -> pb.SessionNotice:
    """One session that may be attached to."""
    return pb.SessionNotice(session_id=notice.session_id, secret=notice.secret)


def session_notice_from_wire(notice: pb.SessionNotice) -> SessionNotice:
    """Raises `ContractViolation` (INVALID_ARGUMENT) when it names no session."""
    if not notice.session_id:
        refuse("session_notice.session_id is not set")
    return SessionNotice(session_id=notice.session_id, secret=notice.secret)


def refuse(message: str) -> NoReturn:
    """What a peer wrote has no value: INVALID_ARGUMENT."""
    raise ContractViolation(Status.INVALID_ARGUMENT, message)
