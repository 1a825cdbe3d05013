"""`simulate sweep`: one scenario with some of its values varied, every combination on the same seeds."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from scripts.parallel import spread
from scripts.simulate.documents import Node
from scripts.simulate.grid import Grid, print_grid
from scripts.simulate.load import load, parse_override
from scripts.simulate.outcome import Outcome, simulate
from scripts.simulate.plots import Line, Plot, of_sweep
from scripts.simulate.progress import parts_bar
from scripts.simulate.report import write_report
from scripts.simulate.run import DurationS, File, Overrides, RunSeed, read
from scripts.simulate.schema import Scenario
from shared.errors import UserError

MOST_RUNS: Final = 10_000
MOST_PANELS: Final = 4

Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        help="KEY.PATH=[VALUE, VALUE, ...], such as 'fleets[0].count=[10, 20, 40]'. May be repeated: all combinations.",
    ),
]
Seeds = Annotated[
    int, typer.Option(min=1, max=1000, help="Runs of each, with as many seeds from the scenario's on.")
]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="Processes. The figures do not depend on it.")]
Out = Annotated[Path | None, typer.Option(help="A folder for report.html, its plots and results.json.")]


@dataclass(frozen=True, slots=True)
class Case:
    """One run: all that its outcome depends on."""

    path: Path
    overrides: tuple[tuple[str, Any], ...]
    """In their order: the command line's own, then what is varied, then the seed."""

    def scenario(self) -> Scenario:
        """The scenario of this run."""
        return load(self.path, dict(self.overrides))


@dataclass(frozen=True, slots=True)
class Setting:
    """One combination, and what came of it with each seed."""

    values: tuple[tuple[str, Any], ...]
    outcomes: tuple[Outcome, ...]

    def mean(self, figure: Callable[[Outcome], float | None]) -> float | None:
        """Over the seeds; None: some run had nothing to measure."""
        found = [value for one in self.outcomes if (value := figure(one)) is not None]
        return statistics.fmean(found) if len(found) == len(self.outcomes) else None


def sweep(
    scenario: File,
    *,
    vary: Vary = None,
    seeds: Seeds = 1,
    seed: RunSeed = None,
    duration_s: DurationS = None,
    overrides: Overrides = None,
    jobs: Jobs = 1,
    out: Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> int:
    """Every combination of some values of a scenario, on the same seeds."""
    found = read(scenario, overrides, seed=seed, duration_s=duration_s)
    axes = [parse_axis(one) for one in vary or ()]
    if not axes:
        raise UserError("sweep: say what to vary, such as --vary 'fleets[0].count=[10, 20, 40]'")
    own = common(overrides, duration_s)
    combinations = [tuple(zip([key for key, _ in axes], values, strict=True)) for values in _all(axes)]
    cases = [case(scenario, own, values, found.seed + one) for values in combinations for one in range(seeds)]
    if len(cases) > MOST_RUNS:
        raise UserError(f"sweep: {len(cases):,} runs: at most {MOST_RUNS:,}")
    for one in cases[::seeds]:
        one.scenario()  # before the first of them runs for an hour, the last one is known to be right
    outcomes = list(parts_bar(f"sweep of {found.name}", len(cases), spread(run_case, cases, jobs)))
    settings = [
        Setting(values, tuple(outcomes[number * seeds : (number + 1) * seeds]))
        for number, values in enumerate(combinations)
    ]
    grid = table(found.name, settings)
    if as_json:
        print(json.dumps(document(settings), indent=1, allow_nan=False))
    else:
        print_grid(grid)
    if out is not None:
        words = [
            "sweep",
            str(scenario),
            *(f"--set '{one}'" for one in overrides or ()),
            *(f"--vary '{one}'" for one in vary or ()),
            f"--seeds {seeds}",
        ]
        write_report(
            out,
            kind="sweep",
            scenario=found,
            grids=[grid],
            plots=picture(settings),
            command=again(words, found),
        )
        (out / "results.json").write_text(json.dumps(document(settings), indent=1, allow_nan=False) + "\n")
    return 0


def again(words: Sequence[str], scenario: Scenario) -> str:
    """The command line that makes the same report."""
    return " ".join(
        [
            "python -m scripts.simulate",
            *words,
            f"--duration-s {scenario.duration_s:g}",
            f"--seed {scenario.seed}",
        ]
    )


def common(overrides: list[str] | None, duration_s: float | None) -> tuple[tuple[str, Any], ...]:
    """What the command line says of every run."""
    given = [parse_override(one) for one in overrides or ()]
    return (*given, *((("duration_s", duration_s),) if duration_s is not None else ()))


def case(path: Path, own: Iterable[tuple[str, Any]], values: Iterable[tuple[str, Any]], seed: int) -> Case:
    """One run of a combination."""
    return Case(path, (*own, *values, ("seed", seed)))


def run_case(one: Case) -> Outcome:
    """In whichever process."""
    return simulate(one.scenario())[1]


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """A key path and its values.

    Raises:
        UserError: it is no list, or an empty one.
    """
    key, given = parse_override(text)
    value = given.plain() if isinstance(given, Node) else given
    if not isinstance(value, list) or not value:
        raise UserError(
            f"--vary {text}: not KEY.PATH=[VALUE, VALUE, ...], such as fleets[0].count=[10, 20, 40]"
        )
    return key, tuple(value)


def _all(axes: Sequence[tuple[str, tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    return list(itertools.product(*(values for _, values in axes)))


# ---- what is shown ----


def _spread_of(name: str, part: str) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        spread = getattr(outcome.figures.total, name)
        return None if spread is None else float(getattr(spread, part))

    return value


COLUMNS: Final[tuple[tuple[str, Callable[[Outcome], float | None], str], ...]] = (
    ("tokens/s", lambda one: one.figures.total.tokens_per_s, ",.1f"),
    ("TTFT p95 ms", _spread_of("ttft_ms", "p95"), ",.0f"),
    ("TPOT p50 ms", _spread_of("tpot_ms", "p50"), ",.2f"),
    ("TPOT p95 ms", _spread_of("tpot_ms", "p95"), ",.2f"),
    ("ITL p95 ms", _spread_of("itl_ms", "p95"), ",.1f"),
    ("busy", lambda one: one.figures.utilisation, ".1%"),
    ("facts/token", lambda one: one.figures.facts_per_token, ".2f"),
    ("refused", lambda one: float(one.figures.total.refused), ",.0f"),
    ("per M tokens", lambda one: None if one.cost is None else one.cost.per_million_tokens, ",.3f"),
    ("J/token", lambda one: None if one.energy is None else one.energy.per_token, ",.2f"),
    ("SLO", lambda one: float(one.met) if one.slo else None, ".0%"),
)
"""Heading, figure, format. What no run has a value for is left out."""
PANELS: Final = ("TPOT p95 ms", "tokens/s", "busy", "per M tokens")


def table(name: str, settings: Sequence[Setting]) -> Grid:
    """One row per combination, means over the seeds."""
    shown = [one for one in COLUMNS if any(setting.mean(one[1]) is not None for setting in settings)]
    keys = short([key for key, _ in settings[0].values])
    rows = tuple(
        (
            *(str(value) for _, value in setting.values),
            *(
                "" if (mean := setting.mean(figure)) is None else format(mean, form)
                for _, figure, form in shown
            ),
        )
        for setting in settings
    )
    runs = len(settings[0].outcomes)
    note = f"Means over {runs} seeds." if runs > 1 else ""
    if any(heading == "SLO" for heading, _, _ in shown):
        note += " SLO: share of the runs that kept every limit."
    return Grid(f"{name}: sweep", (*keys, *(heading for heading, _, _ in shown)), rows, note.strip())


def short(keys: Sequence[str]) -> list[str]:
    """Key paths by their last names, where those differ."""
    last = [key.rpartition(".")[2] for key in keys]
    return [key if last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]


def picture(settings: Sequence[Setting]) -> list[Plot]:
    """Against the first key, if its values are numbers."""
    key = settings[0].values[0][0]
    numbers = [setting.values[0][1] for setting in settings]
    if len(set(map(str, numbers))) < 2 or not all(isinstance(value, int | float) for value in numbers):
        return []
    others = list(dict.fromkeys(_others(setting) for setting in settings))
    panels: list[tuple[str, list[Line]]] = []
    for heading, figure, _ in COLUMNS:
        if heading not in PANELS or any(setting.mean(figure) is None for setting in settings):
            continue
        panels.append((heading, [_line(name, settings, figure) for name in others]))
    return [of_sweep(key, panels[:MOST_PANELS])] if panels else []


def _others(setting: Setting) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in setting.values[1:])


def _line(name: str, settings: Sequence[Setting], figure: Callable[[Outcome], float | None]) -> Line:
    own = [setting for setting in settings if _others(setting) == name]
    points = sorted((setting.values[0][1], setting.mean(figure) or 0.0) for setting in own)
    return Line(name, tuple(x for x, _ in points), tuple(y for _, y in points))


def document(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """For JSON: every run of every combination."""
    return [
        {"set": dict(setting.values), "runs": [outcome.document() for outcome in setting.outcomes]}
        for setting in settings
    ]
