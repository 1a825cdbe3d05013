"""Which rows there are: every arm in every cell, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scripts.bench_capacity.figures import twin
from scripts.bench_capacity.records import Found
from scripts.bench_capacity.setting import Arm, Setting
from scripts.bench_capacity.simulate import lookahead_of


@dataclass(frozen=True, slots=True)
class Grid:
    """Which cells there are, where nothing else is asked for."""

    clients: Sequence[int]
    rtts_ms: Sequence[float]
    drafts_ms: Sequence[float]


QUICK: Final = Grid((1, 8), (14.0,), (3.0,))
STANDARD: Final = Grid((1, 4, 16, 64), (14.0, 50.0), (3.0, 12.0))
FULL: Final = Grid((1, 2, 4, 8, 16, 32, 64), (14.0, 50.0), (3.0, 6.0, 12.0))


@dataclass(frozen=True, slots=True)
class Row:
    """One arm in one cell."""

    setting: Setting
    arm: Arm
    lookahead: int | None
    """Of co-located SI."""

    def found_in(self, rows: Sequence[Found]) -> bool:
        """Whether it is there already."""
        return any(
            (one.setting, one.arm, one.lookahead) == (self.setting, self.arm, self.lookahead) for one in rows
        )


def rows(settings: Sequence[Setting]) -> list[Row]:
    """Every arm of every cell, without those that another stands for (see `figures.cells`)."""
    found: list[Row] = []
    alone: set[tuple[int, float]] = set()
    for setting in settings:
        for arm in Arm:
            if arm is Arm.CLOUD and (setting.clients, setting.rtt_ms) in alone:
                continue
            if twin(arm, setting.clients) is not arm:
                continue
            if arm is Arm.CLOUD:
                alone.add((setting.clients, setting.rtt_ms))
            found.append(Row(setting, arm, lookahead_of(setting, arm)))
    return found
