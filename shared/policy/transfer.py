"""Whether a session that changes its worker takes its KV along, or has its log prefilled again (cloud)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

SMOOTHING: Final = 0.3
"""Weight of the newest measurement."""


class Transfers(Protocol):
    """Asked when a session is to move between two workers that both serve."""

    def worthwhile(self, tokens: int, prefill_token_us: float) -> bool:
        """Whether to move the KV of `tokens` tokens, each of which takes so long to prefill (0: not measured)."""
        ...

    def moved(self, tokens: int, took_us: float) -> None:
        """A transfer of so many tokens took so long."""
        ...

    def failed(self) -> None:
        """A transfer came to nothing."""
        ...


@dataclass(frozen=True, slots=True)
class NoTransfers:
    """Always prefill again."""

    def worthwhile(self, tokens: int, prefill_token_us: float) -> bool:
        """See `Transfers.worthwhile`."""
        return False

    def moved(self, tokens: int, took_us: float) -> None:
        """See `Transfers.moved`."""

    def failed(self) -> None:
        """See `Transfers.failed`."""


@dataclass(slots=True)
class MeasuredTransfers:
    """Whichever is faster by what was measured; a transfer is assumed to be as fast as `unmeasured_token_us`."""

    least_tokens: int = 64
    """Below a page there is nothing worth the trouble."""
    fixed_us: float = 5_000.0
    unmeasured_token_us: float = 20.0
    unmeasured_prefill_us: float = 300.0
    token_us: float = field(default=0.0)
    """What one token took so far; 0: nothing was moved yet."""

    def worthwhile(self, tokens: int, prefill_token_us: float) -> bool:
        """See `Transfers.worthwhile`."""
        if tokens < self.least_tokens:
            return False
        move = self.fixed_us + tokens * (self.token_us or self.unmeasured_token_us)
        return move < tokens * (prefill_token_us or self.unmeasured_prefill_us)

    def moved(self, tokens: int, took_us: float) -> None:
        """See `Transfers.moved`."""
        each = max(0.0, took_us - self.fixed_us) / max(tokens, 1)
        self.token_us = each if not self.token_us else self.token_us + SMOOTHING * (each - self.token_us)

    def failed(self) -> None:
        """See `Transfers.failed`. The next one is thought dearer, so that prefill is tried instead in the end."""
        self.token_us = 2.0 * (self.token_us or self.unmeasured_token_us)
