"""What the edge's driver asks of a drafter. Called in the model's own thread, never concurrently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shared.policy.expansion import Candidate
from shared.sampling import SamplingParams

__all__ = ["Candidate", "Drafter"]


class Drafter(Protocol):
    """Proposes children for paths below the end of a log. Everything it says is a suggestion (design law 2)."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def context_length(self) -> int:
        """Tokens, log and path together, after which a candidate can still be proposed."""

    @property
    def supports_trees(self) -> bool:
        """Whether several branches are one forward; otherwise the paths of a call are done one after the other."""

    @property
    def tokenizer_fingerprint(self) -> str: ...

    def forward(
        self,
        log: Sequence[int],
        log_length: int,
        paths: Sequence[tuple[int, ...]],
        sampling: SamplingParams,
        width: int,
    ) -> list[list[Candidate]]:
        """For each path the up to `width` likeliest children, likeliest first.

        Args:
            log: append-only: as long as the same object is passed, a token once read at an index stays there. Any
                other object may hold any other log.
            log_length: the paths hang below `log[:log_length]`; at least 1. It may be smaller than in earlier calls.
            paths: tokens below the end; `()` is the end itself.
            sampling: what the session asked the target for; its seed and the position key the coupled noise.
            width: at least 1.

        Returns:
            One list per path, in their order. A path that ends beyond the context has no candidates: an empty list.
        """

    def close(self) -> None:
        """Gives the model's memory back. No other call may follow."""
