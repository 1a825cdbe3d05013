"""What one sees while it runs: a progress bar on a terminal, a line per cell elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from scripts.bench_latency.plan import Cell, Plan
from scripts.bench_latency.records import Run
from scripts.bench_latency.timing import tpot_ms


class Bar:
    """See `execute.Watcher`."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._cells = len(plan.cells)
        self._begun = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            refresh_per_second=2,  # painting takes a core from what is measured
        )
        self._task = self._progress.add_task("runs", total=plan.runs)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def cell(self, cell: Cell) -> None:
        """See `execute.Watcher.cell`."""
        self._begun += 1
        text = f"cell {self._begun} of {self._cells}: {cell.key}"
        if self._console.is_terminal:
            self._progress.update(self._task, description=text)
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def ran(self, cell: Cell, run: Run) -> None:
        """See `execute.Watcher.ran`."""
        self._progress.advance(self._task)
        name = next(arm.name for arm in cell.arms if arm.key == run.arm)
        tpot = tpot_ms(run.commits)
        self._progress.update(
            self._task,
            description=f"cell {self._begun} of {self._cells}: {cell.key}: {name} {tpot or 0.0:.1f} ms",
        )

    def simulates(self, count: int) -> None:
        """See `execute.Watcher.simulates`."""
        self._progress.update(self._task, description="simulating", total=count, completed=0)
        if not self._console.is_terminal:
            self._console.print(f"simulating {count} generations")

    def predicted(self) -> None:
        """See `execute.Watcher.predicted`."""
        self._progress.advance(self._task)
