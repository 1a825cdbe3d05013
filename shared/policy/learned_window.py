"""A window controller that was trained, in DSD's form (arXiv 2511.21669): five observations in, the next window out.

What the cloud's queue is like, an edge hears with every commit; the round trip and the time between commits it
measures. The networks are small enough for plain numpy. `python -m scripts.windows train` makes their file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.messages import Commit
from shared.policy.window import SMOOTHING, Beat

Array = npt.NDArray[np.float64]
FILE: Final = "learned_window.npz"
LAYERS: Final = 3
INPUTS: Final = 5
FIRST_NODES: Final = 4
"""Until the first commits: DSD's static window."""
PER_COMMIT: Final = 2.0
"""By what factor a window grows or shrinks with one commit at most."""


class Drafting(StrEnum):
    """What is drafted: a window means something else to each, so each has a network."""

    BLOCK = "block"
    """Synchronous speculation: the length of a block."""
    CHAIN = "chain"
    """Streaming, one candidate per place."""
    TREE = "tree"
    """Streaming, several candidates per place."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a controller knows when it decides."""

    queue_share: float
    """Of the time that a token takes in the cloud, the part in which it waits for a step; 0..1."""
    acceptance: float
    """Share of judged tokens that were right; 0..1."""
    rtt_ms: float
    tpot_ms: float
    """Time between commits by their tokens."""
    window: float
    """Nodes, as decided last; at least 1."""

    def inputs(self) -> Array:
        """Shape (`INPUTS`,), each of the order of 1: durations and windows count by their ratios."""
        return np.array(
            (
                2.0 * self.queue_share - 1.0,
                2.0 * self.acceptance - 1.0,
                math.log10(1.0 + self.rtt_ms) - 1.5,
                math.log10(1.0 + self.tpot_ms) - 1.0,
                math.log2(self.window) / 4.0 - 1.0,
            )
        )


class Watch:
    """Keeps an edge's observation up to date; times come from its beat."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat
        self._queue_share = 0.0
        self._acceptance = 0.5
        self._tokens = 1.0
        self._commits = 0

    def committed(self, commit: Commit) -> None:
        """A commit arrived."""
        served = commit.queue_us + commit.verify_us
        if served:
            self._queue_share += SMOOTHING * (commit.queue_us / served - self._queue_share)
        if commit.judged:
            self._acceptance += SMOOTHING * (commit.accepted / commit.judged - self._acceptance)
        self._tokens += SMOOTHING * (len(commit.tokens) - self._tokens)
        self._commits += 1

    def observe(self, window: float) -> Observation | None:
        """What is known now, with `window` as decided last; None: too little yet."""
        gap_ms = self._beat.gap_ms
        if self._commits < 2 or gap_ms <= 0.0:
            return None
        return Observation(
            self._queue_share, self._acceptance, self._beat.round_trip_ms, gap_ms / self._tokens, window
        )


@dataclass(frozen=True, slots=True)
class Controller:
    """A perceptron with two hidden layers (tanh); its output is log2 of the next window."""

    weights: tuple[Array, Array, Array]
    """Shapes (`INPUTS`, hidden), (hidden, hidden), (hidden, 1)."""
    biases: tuple[Array, Array, Array]

    def __post_init__(self) -> None:
        size = INPUTS
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if weight.ndim != 2 or weight.shape[0] != size or bias.shape != weight.shape[1:]:
                raise ValueError(f"a layer of {weight.shape} and {bias.shape} does not take {size} inputs")
            size = weight.shape[1]
        if size != 1:
            raise ValueError(f"a controller has 1 output, not {size}")

    def outputs(self, inputs: Array) -> Array:
        """log2 of the next window for each row of `inputs`; shapes (rows, `INPUTS`) and (rows,)."""
        hidden = np.tanh(inputs @ self.weights[0] + self.biases[0])
        hidden = np.tanh(hidden @ self.weights[1] + self.biases[1])
        out: Array = (hidden @ self.weights[2] + self.biases[2])[:, 0]
        return out

    def decide(self, observation: Observation) -> float:
        """The next window, in nodes."""
        return float(2.0 ** min(16.0, max(0.0, self.outputs(observation.inputs()[None, :])[0])))


@dataclass(slots=True)
class LearnedWindow:
    """As many nodes as a trained controller says, at most `most`."""

    controller: Controller
    most: int
    watch: Watch
    nodes: float = FIRST_NODES

    def size(self) -> int:
        """See `Window.size`."""
        return max(1, min(self.most, round(self.nodes)))

    def committed(self, commit: Commit) -> None:
        """See `Window.committed`."""
        self.watch.committed(commit)
        observation = self.watch.observe(self.nodes)
        if observation is not None:
            wanted = min(self.controller.decide(observation), float(self.most))
            self.nodes = min(max(wanted, self.nodes / PER_COMMIT), self.nodes * PER_COMMIT)


def to_arrays(controllers: Mapping[Drafting, Controller]) -> dict[str, npt.NDArray[np.float32]]:
    """As they are kept in a file: one array per layer, named after what is drafted."""
    return {
        f"{drafting.value}.{kind}{layer}": array.astype(np.float32)
        for drafting, controller in controllers.items()
        for kind, arrays in (("weight", controller.weights), ("bias", controller.biases))
        for layer, array in enumerate(arrays)
    }


@cache
def shipped(drafting: Drafting) -> Controller:
    """The controller that comes with the package."""
    with resources.files(__package__).joinpath(FILE).open("rb") as file, np.load(file) as arrays:

        def layers(kind: str) -> tuple[Array, Array, Array]:
            found = [arrays[f"{drafting.value}.{kind}{layer}"].astype(np.float64) for layer in range(LAYERS)]
            return found[0], found[1], found[2]

        return Controller(layers("weight"), layers("bias"))
