"""The token log: prompt and committed tokens by absolute position. Append-only (law 1)."""

from __future__ import annotations

from collections.abc import Iterable

from shared.messages import FinishReason


class TokenLog:
    """Tokens `0 .. len-1`; the first `prompt_length` are the prompt.

    `tokens` may be read and kept by reference: it only ever grows, so a prefix once read stays true.
    """

    __slots__ = ("closed", "context_length", "max_length", "prompt_length", "stop_tokens", "tokens")

    def __init__(
        self,
        tokens: Iterable[int],
        *,
        prompt_length: int,
        max_length: int,
        context_length: int,
        stop_tokens: Iterable[int] = (),
    ) -> None:
        self.tokens: list[int] = list(tokens)
        self.prompt_length = prompt_length
        self.max_length = max_length
        self.context_length = context_length
        self.stop_tokens = frozenset(stop_tokens)
        self.closed: FinishReason | None = None
        if len(self.tokens) > prompt_length:
            self._close_if_due()  # a log that comes back after a lost stream may be complete already

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def limit(self) -> int:
        """The length at which the log closes at the latest."""
        return min(self.max_length, self.context_length)

    @property
    def completion(self) -> list[int]:
        """The committed tokens, without the prompt."""
        return self.tokens[self.prompt_length :]

    def append(self, token: int) -> None:
        """Commit one token; closes the log if it is a stop token or the last one there is room for."""
        if self.closed is not None:
            raise ValueError(f"the log is closed ({self.closed.value}); nothing follows position {len(self)}")
        self.tokens.append(token)
        self._close_if_due()

    def close(self, reason: FinishReason) -> None:
        """Close the log; the first reason stands."""
        if self.closed is None:
            self.closed = reason

    def _close_if_due(self) -> None:
        if self.tokens[-1] in self.stop_tokens:
            self.close(FinishReason.STOP)
        elif len(self.tokens) >= self.max_length:
            self.close(FinishReason.LENGTH)
        elif len(self.tokens) >= self.context_length:
            self.close(FinishReason.CONTEXT)
