"""Facts cannot disagree (law 3): a share of them is established once more, on another worker, and compared.

Whatever comes of it, the text stays what the first fact made it: a disagreement is counted and reported.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from shared.session.tally import NEAR_TIE_MARGIN
from shared.step import Fact, StepItem

MOST_WAITING = 64
"""Checks beyond which the oldest is given up: where no other worker comes to it, none is made up for later."""
MOST_TOKENS = 2048
"""A longer log is not prefilled once more only to be looked at."""
MOST_KEPT = 256
"""Disagreements that are remembered one by one; all are counted."""
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One fact, established twice with different tokens."""

    position: int
    first: Fact
    second: Fact
    first_worker: int
    second_worker: int

    @property
    def margin(self) -> float:
        """Nats between the two best scores, in the evaluation that saw them closer."""
        return min(self.first.margin, self.second.margin)

    @property
    def near_tie(self) -> bool:
        """Whether rounding alone explains it."""
        return self.margin < NEAR_TIE_MARGIN


@dataclass(frozen=True, slots=True)
class _Check:
    item: StepItem
    fact: Fact
    worker: int


class Checks:
    """Facts at ends of logs that wait to be established again, and those that are on their way."""

    def __init__(self, share: float) -> None:
        self._threshold = round(share * (1 << 32))
        self._waiting: deque[_Check] = deque()
        self._out: dict[int, _Check] = {}
        self._last_key = 0
        self.made = 0
        """Facts that were compared."""
        self.near_ties = 0
        self.incidents = 0
        """Disagreements that rounding does not explain."""
        self.found: deque[Disagreement] = deque(maxlen=MOST_KEPT)
        """The latest, oldest first."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def consider(self, item: StepItem, facts: tuple[tuple[int, Fact], ...], worker: int) -> None:
        """A worker has answered an item: perhaps its end's fact is to be looked at again."""
        if not self._threshold or item.end_key is None or item.length > MOST_TOKENS:
            return
        if _mixed(item.session, item.length) >= self._threshold:
            return
        fact = next(fact for key, fact in facts if key == item.end_key)
        self._waiting.append(_Check(item, fact, worker))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()

    def take(self, worker: int, most: int = MOST_TOKENS) -> StepItem | None:
        """A check for the next step of this worker, of a log with at most `most` tokens: all of them are computed, and
        who else is in the step waits for it. Its session has a number below 0, which is released afterwards.
        """
        fits = (one.worker != worker and one.item.length <= most for one in self._waiting)
        before = next((index for index, fit in enumerate(fits) if fit), None)
        if before is None:
            return None
        self._waiting.rotate(-before)  # those that it is not for have had their turn
        check = self._waiting.popleft()
        item = check.item
        self._last_key -= 1
        self._out[self._last_key] = check
        return StepItem(self._last_key, item.log, item.length, (), 0, item.sampling, item.prompt_length)

    def answered(self, key: int, fact: Fact, worker: int) -> None:
        """The second evaluation is there."""
        check = self._out.pop(key, None)
        if check is None:
            return  # its step was given up on before
        self.made += 1
        if fact.token != check.fact.token:
            found = Disagreement(check.item.length, check.fact, fact, check.worker, worker)
            self.found.append(found)
            self.near_ties += found.near_tie
            self.incidents += not found.near_tie

    def lost(self, key: int) -> None:
        """The step came to nothing: so does the check."""
        self._out.pop(key, None)


def _mixed(session: int, length: int) -> int:
    value = (session * _GOLDEN + length) * _GOLDEN & _MASK
    return (value ^ value >> 31) * _GOLDEN >> 32 & 0xFFFFFFFF
