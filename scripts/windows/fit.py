"""Fits a controller to sweeps: plain numpy, one seed, the same result every time on one machine.

Objective: what a window costs beyond the best one of its fleet, `latency(window) / least latency - 1`, linear in
log2(window) between the windows that were simulated; its mean over all observations, a fleet's observations together
counting as much as any other's. Unlike the distance to the best window it does not mind which of many equally good
ones is chosen. Latencies of short simulations scatter by a few per cent: a cubic through their logarithms is learned
from, else the network would learn the scatter. Outside the grid the cost grows by `BEYOND` for each doubling, so that
the answer stays inside.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scripts.windows.sweeps import Sweep
from shared.policy.learned_window import INPUTS, Array, Controller

HIDDEN: Final = 8
ROUNDS: Final = 800
RATE: Final = 5e-3
"""Of Adam, falling to nothing along a half cosine."""
DECAY: Final = 1e-1
DEGREE: Final = 3
"""Of the curve through a fleet's latencies."""
BEYOND: Final = 0.5
Layers = list[Array]


@dataclass(frozen=True, slots=True)
class Data:
    """All observations of some sweeps, row by row."""

    inputs: Array
    """Shape (rows, `INPUTS`)."""
    costs: Array
    """Shape (rows, windows): of the row's fleet, relative to its best window, 0 for that."""
    weights: Array
    """Shape (rows,); they add up to 1."""


def gather(sweeps: Sequence[Sweep], grid: Sequence[int]) -> Data:
    """Sweeps over one grid as rows."""
    curves = [smooth(one.latencies_ms, grid) for one in sweeps]
    costs = [curve / curve.min() - 1.0 for curve in curves]
    return Data(
        inputs=np.concatenate([one.inputs for one in sweeps]),
        costs=np.concatenate(
            [np.tile(cost, (len(one.inputs), 1)) for cost, one in zip(costs, sweeps, strict=True)]
        ),
        weights=np.concatenate(
            [np.full(len(one.inputs), 1.0 / len(one.inputs) / len(sweeps)) for one in sweeps]
        ),
    )


def smooth(latencies_ms: Sequence[float], grid: Sequence[int]) -> Array:
    """A fleet's latency by window, without the scatter."""
    marks = np.log2(np.array(grid, dtype=np.float64))
    curve = np.polynomial.Polynomial.fit(marks, np.log(latencies_ms), DEGREE)
    smoothed: Array = np.exp(curve(marks))
    return smoothed


@dataclass(slots=True)
class _Adam:
    """Kingma and Ba 2015, arXiv 1412.6980, with the weight decay of Loshchilov and Hutter 2019, arXiv 1711.05101."""

    layer: Array
    mean: Array
    square: Array

    def step(self, gradient: Array, turn: int, rate: float) -> None:
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.001 * (gradient * gradient - self.square)
        scale = np.sqrt(self.square / (1.0 - 0.999**turn)) + 1e-8
        self.layer -= rate * (self.mean / (1.0 - 0.9**turn) / scale + DECAY * self.layer)


def fit(data: Data, grid: Sequence[int], seed: int, rounds: int = ROUNDS) -> Controller:
    """A controller with little regret on the data."""
    random = np.random.default_rng(seed)
    layers: Layers = []
    for inputs, outputs in itertools.pairwise((INPUTS, HIDDEN, HIDDEN, 1)):
        layers += [random.normal(0.0, inputs**-0.5, (inputs, outputs)), np.zeros(outputs)]
    marks = np.log2(np.array(grid, dtype=np.float64))
    layers[-1][:] = marks.mean()
    steps = [_Adam(layer, np.zeros_like(layer), np.zeros_like(layer)) for layer in layers]
    for turn in range(1, rounds + 1):
        rate = RATE * 0.5 * (1.0 + math.cos(math.pi * turn / rounds))
        for step, gradient in zip(steps, _gradients(layers, data, marks), strict=True):
            step.step(gradient, turn, rate)
    return Controller((layers[0], layers[2], layers[4]), (layers[1], layers[3], layers[5]))


def regret(controller: Controller, data: Data, grid: Sequence[int]) -> float:
    """Mean cost beyond the best window."""
    costs, _ = _cost(controller.outputs(data.inputs), data.costs, np.log2(np.array(grid, dtype=np.float64)))
    return float(costs @ data.weights)


def best_fixed(data: Data, grid: Sequence[int]) -> tuple[int, float]:
    """The one window with the least regret over all fleets, and its regret."""
    means = data.weights @ data.costs
    return grid[int(np.argmin(means))], float(means.min())


def _cost(outputs: Array, costs: Array, marks: Array) -> tuple[Array, Array]:
    """Of log2 windows, shape (rows,): cost and its slope."""
    index = np.clip(np.searchsorted(marks, outputs) - 1, 0, len(marks) - 2)
    rows = np.arange(len(outputs))
    left, right = costs[rows, index], costs[rows, index + 1]
    slope = (right - left) / (marks[index + 1] - marks[index])
    inside = np.clip(outputs, marks[0], marks[-1])
    outside = outputs - inside
    cost = left + slope * (inside - marks[index]) + BEYOND * np.abs(outside)
    return cost, np.where(outside == 0.0, slope, BEYOND * np.sign(outside))


def _gradients(layers: Layers, data: Data, marks: Array) -> Layers:
    first = np.tanh(data.inputs @ layers[0] + layers[1])
    second = np.tanh(first @ layers[2] + layers[3])
    _, slope = _cost((second @ layers[4] + layers[5])[:, 0], data.costs, marks)
    out = (slope * data.weights)[:, None]
    back = (out @ layers[4].T) * (1.0 - second * second)
    front = (back @ layers[2].T) * (1.0 - first * first)
    return [
        data.inputs.T @ front,
        front.sum(axis=0),
        first.T @ back,
        back.sum(axis=0),
        second.T @ out,
        out.sum(axis=0),
    ]
