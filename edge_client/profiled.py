"""The edge's half of a profiled pair: guesses of a stated quality at a stated pace, and ids in the place of text.

With a profiled server it puts any published pair of models on a real network without their weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from edge_client.drafter.interface import Candidate
from edge_client.text import StopMatch, StopStrings
from shared.profiled import PrefixStates, ProfiledPair
from shared.sampling import SamplingParams

REMEMBERED_LOGS: Final = 8
"""Sessions whose prefix states are kept at the same time."""


class ProfiledDrafter:
    """See `interface.Drafter`. A forward lasts as long as the profile says."""

    supports_trees = True
    tokenizer_fingerprint = ""

    def __init__(self, pair: ProfiledPair, sleep: Callable[[float], None]) -> None:
        """`sleep` passes seconds in the thread that calls `forward`."""
        self.vocabulary_size = pair.profile.vocabulary_size
        self.context_length = pair.profile.context_length
        self._profile = pair.profile
        self._pair = pair
        self._sleep = sleep
        self._prefixes: dict[int, tuple[Sequence[int], PrefixStates]] = {}

    def forward(
        self,
        log: Sequence[int],
        log_length: int,
        paths: Sequence[tuple[int, ...]],
        sampling: SamplingParams,
        width: int,
    ) -> list[list[Candidate]]:
        """See `interface.Drafter.forward`. Guesses do not depend on `sampling`, since the profiled target does not."""
        began = time.perf_counter()
        end = self._prefix(log).at(log, log_length)
        answers = [self._children(end, path, width) for path in paths]
        self._sleep(self._profile.forward_ms(len(paths)) / 1000 - (time.perf_counter() - began))
        return answers

    def close(self) -> None:
        """See `interface.Drafter.close`."""
        self._prefixes.clear()

    def _prefix(self, log: Sequence[int]) -> PrefixStates:
        # The log is held with its states: its identity then names it for as long as they are kept.
        known = self._prefixes.pop(id(log), None)
        if known is None:
            known = (log, PrefixStates(self._pair))
            if len(self._prefixes) >= REMEMBERED_LOGS:
                del self._prefixes[next(iter(self._prefixes))]
        self._prefixes[id(log)] = known
        return known[1]

    def _children(self, end: int, path: Sequence[int], width: int) -> list[Candidate]:
        state = end
        for token in path:
            state = self._pair.follow(state, token)
        return self._pair.candidates(state, width)


class NumberText:
    """Text for a model without a tokenizer: a prompt is its UTF-8 bytes, a token is shown as `<id>`."""

    def encode(self, text: str) -> tuple[int, ...]:
        """One token per byte."""
        return tuple(text.encode())

    def stream(self, stop_strings: Sequence[str]) -> NumberStream:
        """The text of one generation."""
        return NumberStream(stop_strings)


class NumberStream:
    """See `text.TextStream`."""

    def __init__(self, stop_strings: Sequence[str]) -> None:
        self._stops = StopStrings(stop_strings)
        self._tokens = 0

    @property
    def match(self) -> StopMatch | None:
        """The stop string that was found, such as `<13>`; tokens fed after it are ignored."""
        return self._stops.match

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that committed tokens make certain."""
        pieces = []
        for token in tokens:
            pieces.append(self._stops.feed(f"<{token}>", self._tokens))
            self._tokens += 1
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back."""
        return self._stops.finish()
