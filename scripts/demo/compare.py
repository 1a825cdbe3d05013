"""Whether every arm wrote the same tokens, and where they part if not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.demo.arms import Sample


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where an arm's text is not the baseline's."""

    prompt: int
    """From 0."""
    arm: str
    position: int
    """Index in the completion, from 0."""
    expected: int | None
    """The baseline's token; None: its text ends here."""
    found: int | None

    def describe(self) -> str:
        """For people, who count prompts from 1."""
        return (
            f"prompt {self.prompt + 1}: {self.arm} differs from the cloud alone at token {self.position}: "
            f"{_token(self.found)} instead of {_token(self.expected)}"
        )


def differences(samples: Sequence[Sample], baseline: str) -> list[Difference]:
    """For every prompt and every arm but `baseline` the first difference, if there is one.

    Raises:
        ValueError: the baseline has not written a prompt that another arm has: nothing would be compared.
    """
    expected = {sample.prompt: sample.tokens for sample in samples if sample.arm == baseline}
    found = []
    for sample in samples:
        if sample.prompt not in expected:
            raise ValueError(f"{baseline} has no text for prompt {sample.prompt}")
        position = first_difference(expected[sample.prompt], sample.tokens)
        if position is not None:
            pair = (expected[sample.prompt], sample.tokens)
            tokens = [text[position] if position < len(text) else None for text in pair]
            found.append(Difference(sample.prompt, sample.arm, position, tokens[0], tokens[1]))
    return found


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The first index at which the two are not the same, the end of the shorter one included; None: they are equal."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return None if len(one) == len(other) else min(len(one), len(other))


def _token(token: int | None) -> str:
    return "the end" if token is None else f"token {token}"
