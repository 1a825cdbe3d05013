"""Trains the learned controllers: sweeps of the simulator, a fit to most of them, a look at the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from scripts.windows.fit import best_fixed, fit, gather, regret
from scripts.windows.sweeps import GRIDS, Sweep, sweep_all
from shared.errors import UserError
from shared.policy.learned_window import Controller, Drafting, to_arrays

HELD_OUT: Final = 5
"""Every so many-th fleet is not learned from."""
Sweeps = dict[Drafting, list[Sweep]]


@dataclass(frozen=True, slots=True)
class Learned:
    """A controller, and how it does; regrets are mean latency beyond the best window of each fleet."""

    controller: Controller
    learned: float
    """Regret on fleets that it has seen."""
    held_out: float
    """On others."""
    fixed: int
    """The best single window of those others."""
    fixed_regret: float


def collect(counts: Mapping[Drafting, int], seed: int, progress: Callable[[str], None]) -> Sweeps:
    """Simulate."""
    return {
        drafting: [swept for _, swept in sweep_all(drafting, count, seed, progress)]
        for drafting, count in counts.items()
    }


def learn(drafting: Drafting, sweeps: list[Sweep], seed: int) -> Learned:
    """Fit one controller.

    Raises:
        UserError: too few fleets to hold any out.
    """
    if len(sweeps) < HELD_OUT:
        raise UserError(f"at least {HELD_OUT} fleets are needed, not {len(sweeps)}")
    grid = GRIDS[drafting]
    shown = gather([one for number, one in enumerate(sweeps) if number % HELD_OUT], grid)
    others = gather(sweeps[::HELD_OUT], grid)
    controller = fit(shown, grid, seed)
    fixed, fixed_regret = best_fixed(others, grid)
    return Learned(
        controller, regret(controller, shown, grid), regret(controller, others, grid), fixed, fixed_regret
    )


def save(controllers: Mapping[Drafting, Controller], path: Path) -> None:
    """Write the package's file."""
    np.savez(path, allow_pickle=False, **to_arrays(controllers))


def save_sweeps(sweeps: Sweeps, path: Path) -> None:
    """Keep sweeps, to fit again without simulating again."""
    arrays = {}
    for drafting, several in sweeps.items():
        for number, one in enumerate(several):
            arrays[f"{drafting.value}.{number}.latencies_ms"] = np.array(one.latencies_ms)
            arrays[f"{drafting.value}.{number}.inputs"] = one.inputs
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load_sweeps(path: Path) -> Sweeps:
    """Sweeps that were kept.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with np.load(path) as arrays:
            found = dict(arrays)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    sweeps: Sweeps = {}
    for drafting in Drafting:
        count = sum(name.startswith(f"{drafting.value}.") for name in found) // 2
        names = [f"{drafting.value}.{number}" for number in range(count)]
        several = [Sweep(tuple(found[f"{n}.latencies_ms"].tolist()), found[f"{n}.inputs"]) for n in names]
        if several:
            sweeps[drafting] = several
    return sweeps
