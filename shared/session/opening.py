"""What an `Open` must keep before there is a session, each rule with its documented status, and what it asks for."""

from __future__ import annotations

from shared.errors import ContractViolation, Status
from shared.messages import ModelInfo, Open
from shared.policy.patience import AdaptivePatience, FixedPatience, Patience

MICROSECOND = 1_000


def check_open(opening: Open, info: ModelInfo) -> None:
    """The rules for a complete `Open` (all its parts joined).

    Raises:
        ContractViolation: with the documented status and what to do.
    """
    check_same(
        opening.protocol_version,
        opening.model_fingerprint,
        opening.tokenizer_fingerprint,
        info,
        "the session",
    )
    _check_patience(opening, info)
    count = len(opening.tokens)
    if not 1 <= opening.prompt_length <= count:
        raise _invalid(f"prompt_length {opening.prompt_length} is outside 1..{count}, the tokens sent")
    tokens = (*opening.tokens, *opening.stop_tokens)
    for token in (min(tokens), max(tokens)):  # a long log is checked at every open: no loop over its tokens
        if not 0 <= token < info.vocabulary_size:
            raise _invalid(f"token {token} is outside the vocabulary of {info.vocabulary_size}")
    if count >= info.context_length:
        raise ContractViolation(
            Status.OUT_OF_RANGE,
            f"the log of {count} tokens fills the context of {info.context_length}: shorten the prompt",
        )
    if opening.max_length <= count:
        raise _invalid(
            f"max_length {opening.max_length} leaves no room after {count} tokens: ask for at least one"
        )


def check_same(version: int, model: str, tokenizer: str, info: ModelInfo, who: str) -> None:
    """Whether `who` speaks this server's protocol and means its model; an empty fingerprint means any.

    Raises:
        ContractViolation: FAILED_PRECONDITION.
    """
    if version != info.protocol_version:
        raise ContractViolation(
            Status.FAILED_PRECONDITION,
            f"protocol version {version}, this server speaks {info.protocol_version}: "
            "use a client of the same version",
        )
    for name, asked, own in (
        ("model", model, info.model_fingerprint),
        ("tokenizer", tokenizer, info.tokenizer_fingerprint),
    ):
        if asked and asked != own:
            raise ContractViolation(
                Status.FAILED_PRECONDITION,
                f"{who} needs {name} {asked[:16]}, this server holds {own[:16]}: connect to a server with the "
                f"same {name}, or start a new session",
            )


def patience_of(opening: Open, *, adaptive: bool) -> Patience:
    """How long the cloud waits for this session's drafts; `adaptive`: whether it may choose, if the edge lets it."""
    if opening.patience_us == 0 and opening.adaptive_patience_us > 0 and adaptive:
        return AdaptivePatience(opening.adaptive_patience_us * MICROSECOND)
    return FixedPatience(opening.patience_us * MICROSECOND)


def _check_patience(opening: Open, info: ModelInfo) -> None:
    most = info.limits.max_patience_us
    for name, asked_us in (
        ("patience_us", opening.patience_us),
        ("adaptive_patience_us", opening.adaptive_patience_us),
    ):
        if not 0 <= asked_us <= most:
            raise _invalid(f"{name} {asked_us} is outside 0..{most}")


def _invalid(message: str) -> ContractViolation:
    return ContractViolation(Status.INVALID_ARGUMENT, message)
