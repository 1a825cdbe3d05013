"""What a learned controller is trained on: many small fleets, each simulated once with every window of a grid.

Everything is a function of the seed: the fleets are drawn before anything is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_client.policies import DraftOptions, Mode, Shape, Sizing
from scripts.windows.load import UNLIMITED, Client, Load, make_edge, simulate
from shared.messages import Commit
from shared.policy.batching import MeasuredBudget
from shared.policy.expansion import chain
from shared.policy.learned_window import Array, Drafting, Observation, Watch
from shared.policy.pacing import Blocks, Coalescing
from shared.policy.reconnect import Reconnect
from shared.pool import PoolPolicies, PoolScheduler
from shared.session.edge import EdgePolicies
from shared.sim.random import Keyed

GRIDS: Final[dict[Drafting, tuple[int, ...]]] = {
    Drafting.BLOCK: (1, 2, 3, 4, 6, 8, 12, 16),
    Drafting.CHAIN: (2, 4, 8, 16, 32, 64),
    Drafting.TREE: (16, 32, 64, 128, 256, 512),
}
OPTIONS: Final[dict[Drafting, DraftOptions]] = {
    Drafting.BLOCK: DraftOptions(mode=Mode.SYNC, sizing=Sizing.FIXED),
    Drafting.CHAIN: DraftOptions(shape=Shape.CHAIN),
    Drafting.TREE: DraftOptions(shape=Shape.TREE),
}
CLIENTS: Final[dict[Drafting, tuple[int, ...]]] = {
    Drafting.BLOCK: (1, 2, 4, 8, 12),
    Drafting.CHAIN: (1, 2, 4, 8),
    Drafting.TREE: (1, 2, 4),  # a tree takes the simulator ten times as long as a block
}
SECONDS: Final[dict[Drafting, float]] = {Drafting.BLOCK: 12.0, Drafting.CHAIN: 9.0, Drafting.TREE: 6.0}
"""Simulated, of all clients together."""
MOST_OBSERVATIONS: Final = 6
"""Of one run, evenly spaced: commits that follow each other say the same."""
OBSERVED_AFTER: Final = 4
"""Commits of a generation that are not learned from: averages begin there."""


@dataclass(slots=True)
class Probe:
    """A fixed window that writes down what a controller would have seen."""

    nodes: int
    watch: Watch
    seen: list[Observation]
    commits: int = 0

    def size(self) -> int:
        """See `Window.size`."""
        return self.nodes

    def committed(self, commit: Commit) -> None:
        """See `Window.committed`."""
        self.watch.committed(commit)
        self.commits += 1
        observation = self.watch.observe(float(self.nodes))
        if observation is not None and self.commits > OBSERVED_AFTER:
            self.seen.append(observation)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One fleet with every window of a grid."""

    latencies_ms: tuple[float, ...]
    """Per token, by window."""
    inputs: Array
    """Shape (observations, `INPUTS`), of all its runs."""


def sweep_all(
    drafting: Drafting, count: int, seed: int, progress: Callable[[str], None]
) -> Iterator[tuple[Load, Sweep]]:
    """`count` fleets, one after the other."""
    for number in range(count):
        load, together = draw_load(drafting, number, seed)
        swept = sweep(load, together, drafting, seed=number)
        best = GRIDS[drafting][int(np.argmin(swept.latencies_ms))]
        progress(f"{drafting.value} {number + 1}/{count}: {describe(load)}: best window {best}")
        yield load, swept


def draw_load(drafting: Drafting, number: int, seed: int) -> tuple[Load, int | None]:
    """The fleet of a number, and how many of its sessions share a step (None: all)."""
    random = Keyed(seed, "fleet", drafting.value, number)
    count = random.choice(CLIENTS[drafting])
    client = Client(
        acceptance=random.uniform(0.35, 0.95),
        draft_ms=_between(random, 1.0, 16.0),
        rtt_ms=_between(random, 4.0, 160.0),
    )
    together = random.choice((None, None, max(1, count // 2)))
    load = Load(
        f"{drafting.value} {number}",
        (client,) * count,
        step_ms=_between(random, 15.0, 60.0),
        flat_nodes=random.choice((8, 16, 32, 64)),
        node_ms=_between(random, 0.1, 1.5),
        prompt_tokens=(16, 64),
        output_tokens=(60, 120),
        seconds=3.0 + SECONDS[drafting] / count,
        warm_up_s=1.0,
    )
    return load, together


def sweep(load: Load, together: int | None, drafting: Drafting, seed: int) -> Sweep:
    """One fleet with each window in turn."""
    policies = PoolPolicies(sessions_per_step=together)
    latencies: list[float] = []
    rows: list[Array] = []
    for nodes in GRIDS[drafting]:
        seen: list[Observation] = []
        outcome = simulate(
            load,
            OPTIONS[drafting],
            lambda: PoolScheduler(MeasuredBudget, policies=policies),
            seed=seed,
            make_policies=_probing(drafting, nodes, seen),
        )
        latencies.append(outcome.latency_ms)
        rows += [one.inputs() for one in _evenly(seen, MOST_OBSERVATIONS)]
    return Sweep(tuple(latencies), np.array(rows))


def describe(load: Load) -> str:
    """A fleet of equals, in a line."""
    one = load.clients[0]
    return (
        f"{len(load.clients)} clients, acceptance {one.acceptance:.2f}, RTT {one.rtt_ms:.0f} ms, "
        f"forward {one.draft_ms:.1f} ms, step {load.step_ms:.0f} ms"
    )


def _probing(drafting: Drafting, nodes: int, seen: list[Observation]) -> Callable[[], EdgePolicies]:
    def block() -> EdgePolicies:
        beat = Coalescing()
        window = Probe(nodes, Watch(beat), seen)
        return EdgePolicies(window, Blocks(beat, window), chain(), Reconnect(), UNLIMITED)

    def stream() -> EdgePolicies:
        policies = make_edge(OPTIONS[drafting])()
        if not isinstance(policies.pacing, Coalescing):
            raise TypeError(f"{policies.pacing} does not measure the server's beat")
        policies.window = Probe(nodes, Watch(policies.pacing), seen)
        return policies

    return block if drafting is Drafting.BLOCK else stream


def _evenly(seen: Sequence[Observation], most: int) -> Sequence[Observation]:
    if len(seen) <= most:
        return seen
    return [seen[index * len(seen) // most] for index in range(most)]


def _between(random: Keyed, low: float, high: float) -> float:
    """Each ratio as likely as any other."""
    return float(low * (high / low) ** random.uniform())
