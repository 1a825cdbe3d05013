"""The ten rows of DSI's table (Timor et al. 2024, arXiv 2405.14105), and what was found for them before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scripts.bench_latency.plan import Pair
from scripts.bench_latency.presets import PRESETS

BRANCH_COST: Final = 0.1
"""Each further branch in a drafter's forward: one on 8 branches costs 1.7 times one on a single node."""
PAPER_LOOKAHEADS: Final = (1, 5, 10)
"""What the paper tried for SI."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row."""

    number: int
    claimed: float
    """How many times as fast as SI the paper says that DSI is; its SI is counted another way (`counting`)."""
    prototype: float
    """The same, of a chain in a virtual-clock prototype of this product over SI counted honestly."""

    @property
    def key(self) -> str:
        """Names its cell."""
        return f"dsi-{self.number}"

    @property
    def pair(self) -> Pair:
        """Its models' figures as a profiled pair; every context is alike (i.i.d.), as in the paper."""
        (pair,) = PRESETS[self.key].pairs
        return pair


ROWS: Final[Sequence[Row]] = (
    Row(1, 1.47, 1.16),
    Row(2, 1.41, 1.16),
    Row(3, 1.29, 1.20),
    Row(4, 1.70, 1.20),
    Row(5, 1.92, 1.32),
    Row(6, 1.66, 1.35),
    Row(7, 1.41, 1.17),
    Row(8, 1.37, 1.17),
    Row(9, 1.39, 1.18),
    Row(10, 1.60, 1.19),
)
BY_KEY: Final = {row.key: row for row in ROWS}
