"""What is to be continued: ids out of the air for a profiled pair, held-out text for real models."""

from __future__ import annotations

from scripts.bench_latency.plan import Cell, Pair
from scripts.pair.prompts import HeldOutError, held_out_prompts
from shared.errors import UserError
from shared.sim.predict import random_prompt

PROMPT_TOKENS = 16
"""Of a profiled pair's prompts, which are those of the simulation."""
FIRST_PROBE = 1_000_000
"""Number of a profiled pair's first probe: no unit has one as high."""


def prompt(pair: Pair, number: int) -> str | tuple[int, ...]:
    """The numbered prompt of the units.

    Raises:
        UserError: there are not as many.
    """
    if pair.profile is not None:
        return random_prompt(number, PROMPT_TOKENS, pair.profile.vocabulary_size)
    return _held_out(number + 1)[number]


def probe(cell: Cell, number: int) -> str | tuple[int, ...]:
    """A prompt that no unit has; `number` below the pair's `probes`.

    Raises:
        UserError: there are not as many.
    """
    if cell.pair.profile is not None:
        return prompt(cell.pair, FIRST_PROBE + number)
    first = 1 + max(unit.prompt for unit in cell.units)
    return _held_out(first + cell.pair.probes)[first + number]


def _held_out(count: int) -> list[str]:
    try:
        return held_out_prompts(count)
    except HeldOutError as error:
        raise UserError(str(error)) from error
