"""An `Open` in several messages: a log may be longer than one message."""

from __future__ import annotations

from dataclasses import replace

from shared.errors import ContractViolation, Status
from shared.messages import ModelInfo, Open
from shared.session.rate import Allowance


class OpenParts:
    """The parts that have come. What they say beside their tokens counts in the first."""

    def __init__(self, first: Open, info: ModelInfo, *, now: int) -> None:
        rate = float(info.limits.max_messages_per_second)
        self._first = first
        self._info = info
        self._allowance = Allowance(rate, rate, now=now)
        self._tokens: list[int] = []

    def add(self, part: Open, now: int) -> Open | None:
        """The whole `Open`, once its last part has come; the first is added too.

        Raises:
            ContractViolation: too many at once, or a log that is longer than any may be.
        """
        if self._allowance.left(now) < 1.0:
            most = self._info.limits.max_messages_per_second
            raise ContractViolation(
                Status.RESOURCE_EXHAUSTED, f"more than {most} messages a second: send a log in few parts"
            )
        self._allowance.take(now)
        self._tokens += part.tokens
        if len(self._tokens) >= self._info.context_length:
            raise ContractViolation(
                Status.OUT_OF_RANGE,
                f"the log fills the context of {self._info.context_length} tokens: shorten the prompt",
            )
        return None if part.more else replace(self._first, tokens=tuple(self._tokens), more=False)
