"""What a benchmark says: figures beside their peers with their ratio and aim, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.bench.measure import Spread

QUIET: Final = 0.05
"""Share of the cores up to which other processes leave a measurement alone."""


@dataclass(frozen=True, slots=True)
class Aim:
    """The band in which a median ratio is to lie; a bound that is None is not asked for."""

    text: str
    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool:
        """Whether a ratio lies in the band, bounds included."""
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement and its peer, in the section's unit."""

    name: str
    ours: Spread
    peer: Spread
    ratio: Spread
    """Paired by round, in the sense of the section's `ratio_of`."""
    aim: Aim | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median ratio is where it should be; None: nothing is aimed for."""
        return None if self.aim is None else self.aim.met(self.ratio.median)


@dataclass(frozen=True, slots=True)
class Section:
    """What one benchmark found."""

    key: str
    title: str
    unit: str
    ours: str
    """What is ours; heads its column."""
    peer: str
    ratio_of: str
    """How the ratio is to be read."""
    settings: tuple[str, ...]
    """What it was measured with, threads included."""
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()
    """What else was found, such as how many texts were identical."""
    failures: tuple[str, ...] = ()
    """What must not be: texts that differ."""
    neighbours: float | None = None
    """Share of the cores that other processes used meanwhile; None: nobody looked."""

    @property
    def quiet(self) -> bool:
        """Whether the machine was known to be free for this; on a busy one neither times nor ratios can be cited."""
        return self.neighbours is not None and self.neighbours <= QUIET

    def as_dict(self) -> dict[str, Any]:
        """For JSON; with each figure whether its aim was met."""
        figures = [asdict(figure) | {"met": figure.met} for figure in self.figures]
        return asdict(self) | {"figures": figures, "quiet": self.quiet}


def show(section: Section, console: Console) -> None:
    """Print a section as a table with its settings above and its notes below."""
    table = Table(title=section.title, title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("")
    table.add_column(f"{section.ours}\n{section.unit}", justify="right")
    table.add_column(f"{section.peer}\n{section.unit}", justify="right")
    table.add_column(f"{section.ratio_of}\nmedian (min..max)", justify="right")
    table.add_column("aim")
    table.add_column("")
    for figure in section.figures:
        aim = figure.aim.text if figure.aim is not None else ""
        row = (_number(figure.ours), _number(figure.peer), _number(figure.ratio, digits=2))
        table.add_row(figure.name, *row, aim, _verdict(figure.met, quiet=section.quiet))
    console.print(table)
    for line in (*section.settings, *section.notes):
        console.print(f"  {line}", style="dim", markup=False)
    warnings = list(section.failures)
    if section.neighbours is not None and not section.quiet:
        warnings.append(
            f"other processes used {section.neighbours:.0%} of the cores: not to be cited, run again when it is quiet"
        )
    for line in warnings:
        console.print(f"  {line}", style="bold red", markup=False)
    console.print()


def _number(spread: Spread, digits: int | None = None) -> str:
    if digits is None:
        digits = 0 if spread.median >= 100 else 1 if spread.median >= 10 else 2
    return f"{spread.median:.{digits}f} ({spread.least:.{digits}f}..{spread.greatest:.{digits}f})"


def _verdict(met: bool | None, *, quiet: bool) -> Text:
    if met is None:
        return Text("")
    verdict = "met" if met else "not met"
    if not quiet:
        return Text(f"({verdict})", style="yellow")  # in brackets: this machine cannot tell
    return Text(verdict, style="green" if met else "bold red")
