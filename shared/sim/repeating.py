"""A profiled pair whose target repeats itself: text in which a guess from the text's own past comes true."""

from __future__ import annotations

from shared.profiled import Profile, ProfiledPair, mix, unit


class RepeatingPair(ProfiledPair):
    """In a share of all contexts the next token depends on the last one alone, so that runs of tokens come back.

    A fact is a function of the prefix all the same: a state is what the plain pair's is, and the last token beside it.
    """

    def __init__(self, profile: Profile, share: float) -> None:
        """`share` of contexts, 0..1; at 0 nothing but chance repeats."""
        super().__init__(profile)
        self._share = share

    def follow(self, state: int, token: int) -> int:
        """The state one token later."""
        return super().follow(state >> 32, token) << 32 | token

    def target(self, state: int) -> int:
        """The token that the target draws after a prefix."""
        if unit(state, 3) < self._share:
            return mix(self.profile.seed ^ mix(state & 0xFFFFFFFF)) % self.profile.vocabulary_size
        return super().target(state)
