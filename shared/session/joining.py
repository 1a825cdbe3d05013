"""How further streams come to a session in the cloud: attached to it, or to own it again after a loss (law 6)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import replace

from shared.errors import ContractViolation, Status
from shared.messages import Attach, Attached, Close, Commit, ModelInfo, Open, Opened
from shared.session.log import TokenLog
from shared.session.opening import check_same

NO_SUCH_SESSION = "no such session here, or not this secret: it may be over"
"""One answer for both, so that it does not tell which ids are sessions."""


def check_attach(attach: Attach, info: ModelInfo) -> None:
    """The rules for an `Attach` that do not depend on the session.

    Raises:
        ContractViolation: with the documented status and what to do.
    """
    if not info.takes_attached:
        raise ContractViolation(Status.INVALID_ARGUMENT, "this server takes no attached streams")
    check_same(
        attach.protocol_version, attach.model_fingerprint, attach.tokenizer_fingerprint, info, "the drafter"
    )


def check_detach(close: Close) -> None:
    """Raises `ContractViolation` where an attached stream names a position, which is its owner's to name."""
    if close.position is not None:
        raise ContractViolation(
            Status.INVALID_ARGUMENT, "an attached stream closes without a position: it ends no log"
        )


def same_secret(one: str, other: str) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    return hmac.compare_digest(one.encode(), other.encode())


def opened(session_id: str, secret: str, opening: Open, info: ModelInfo) -> Opened:
    """The session as its owner is told it."""
    seed = opening.sampling.seed
    return Opened(session_id, secret, seed, info.model_fingerprint, info.limits, info.sp_degree)


def attached(log: TokenLog, opening: Open, info: ModelInfo) -> Attached:
    """The session as a new drafter is told it."""
    return Attached(
        tokens=tuple(log.tokens),
        prompt_length=log.prompt_length,
        max_length=log.max_length,
        sampling=opening.sampling,
        stop_tokens=opening.stop_tokens,
        model_fingerprint=info.model_fingerprint,
        limits=info.limits,
        sp_degree=info.sp_degree,
    )


def continues(again: Open, opening: Open, log: TokenLog) -> bool:
    """Whether the `Open` that came `again` is of the session that `opening` began and whose log is now `log`."""
    length = len(again.tokens)
    return (
        _terms(again) == _terms(opening)
        and len(opening.tokens) <= length <= len(log)
        and tuple(log.tokens[:length]) == again.tokens
    )


def caught_up(log: TokenLog, length: int, logprobs: Sequence[float]) -> Commit | None:
    """What a log of `length` tokens lacks; None: nothing. `logprobs` are of the log's last tokens, or none at all."""
    lacks = len(log) - length
    if not lacks:
        return None
    return Commit(length, tuple(log.tokens[length:]), tuple(logprobs[-lacks:]))


def _terms(opening: Open) -> Open:
    """What must not change from one `Open` of a session to the next; models are compared with the server's own."""
    return replace(
        opening,
        tokens=(),
        more=False,
        model_fingerprint="",
        tokenizer_fingerprint="",
        session_id="",
        secret="",
    )
