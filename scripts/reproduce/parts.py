"""The parts of the reproduction: what each simulates, and its figures as one JSON file that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from scripts.bench_latency.codec import decode, encode
from scripts.parallel import spread
from scripts.reproduce import capacity, distance, dsi
from scripts.reproduce.capacity import Prices
from scripts.reproduce.checks import Check
from scripts.reproduce.distance_checks import claims
from scripts.reproduce.dsi_checks import theorems
from shared.errors import UserError

FIGURES: Final = "figures"
STANDARD_FOLDER: Final = "docs"
QUICK_FOLDER: Final = "bench-results/reproduce-quick"
COMMAND: Final = "python -m scripts.simulate reproduce"
DIGITS: Final = 6
"""After the point, in files: far more than a figure is good for, and few enough to be read."""

T = TypeVar("T")
R = TypeVar("R")


class Part(StrEnum):
    """One paper each, in the order of the page."""

    DSI = "dsi"
    DSD = "dsd"
    DISTANCE = "distance"
    SPECEDGE = "specedge"


@dataclass(frozen=True, slots=True)
class Way:
    """How parts are made. Only what a figure depends on is told in its command."""

    quick: bool
    jobs: int
    prices: Prices
    told: Callable[[str, int, int], None]
    """Hears what is being simulated, how many of its parts are done, and of how many."""

    def map(self, name: str, function: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """`function` of each, in their order."""
        found: list[R] = []
        for one in spread(function, parts, self.jobs):
            found.append(one)
            self.told(name, len(found), len(parts))
        return found

    def command(self, part: Part) -> str:
        """That makes this part's figures."""
        words = [COMMAND, part.value]
        if part is Part.SPECEDGE and self.prices != Prices():
            words += [
                f"--verifier-per-hour {self.prices.verifier:g}",
                f"--edge-per-hour {self.prices.edge:g}",
            ]
        return " ".join([*words, "--quick"] if self.quick else words)


@dataclass(frozen=True, slots=True)
class DsiFigures:
    """DSI."""

    command: str
    size: dsi.DsiSize
    rows: tuple[dsi.RowFigures, ...]
    cells: tuple[dsi.CellFigures, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class DistanceFigures:
    """Speculation at a distance."""

    command: str
    size: distance.DistanceSize
    cells: tuple[distance.CellFigures, ...]
    break_evens: tuple[distance.BreakEven, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class SpecEdgeFigures:
    """SpecEdge."""

    command: str
    size: capacity.CapacitySize
    prices: Prices
    served: tuple[capacity.Served, ...]
    ratios: tuple[capacity.Ratios, ...]
    equals: tuple[capacity.Equal, ...]


def make_dsi(way: Way) -> DsiFigures:
    """Simulate."""
    size = dsi.QUICK if way.quick else dsi.FULL
    rows = way.map("DSI's table", dsi.row, dsi.row_tasks(size))
    cells = way.map("DSI's heat map", dsi.cell, dsi.cell_tasks(size))
    return DsiFigures(way.command(Part.DSI), size, tuple(rows), tuple(cells), tuple(theorems(cells)))


def make_distance(way: Way) -> DistanceFigures:
    """Simulate."""
    size = distance.QUICK if way.quick else distance.FULL
    cells = way.map("speculation at a distance", distance.cell, distance.cell_tasks(size))
    return DistanceFigures(
        way.command(Part.DISTANCE),
        size,
        tuple(cells),
        tuple(distance.break_evens(size)),
        tuple(claims(cells)),
    )


def make_specedge(way: Way) -> SpecEdgeFigures:
    """Simulate."""
    size = capacity.QUICK if way.quick else capacity.FULL
    served = way.map("SpecEdge's capacity", capacity.serve, capacity.tasks(size))
    return SpecEdgeFigures(
        way.command(Part.SPECEDGE),
        size,
        way.prices,
        tuple(served),
        tuple(capacity.ratios(served, way.prices)),
        tuple(capacity.equals(served, way.prices)),
    )


def write(folder: Path, part: Part, figures: object) -> None:
    """The same figures are the same bytes."""
    path = folder / FIGURES / f"{part.value}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(encode(figures)), indent=1) + "\n", encoding="utf-8")


def read(folder: Path, part: Part, kind: type[T]) -> T | None:
    """None: it was not made there.

    Raises:
        UserError: the file holds something else.
    """
    path = folder / FIGURES / f"{part.value}.json"
    if not path.exists():
        return None
    try:
        return decode(kind, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not this version's figures ({error}); make them again") from error


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value
