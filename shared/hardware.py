"""What a verify step costs on a piece of hardware: points that were measured there, and the cost in between.

A profile is a file that `python -m scripts.bench_verifier` writes; docs/hardware.md is its schema. The simulator and
the profiled server read the same cost from it: `HardwareProfile.step_ms`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.errors import UserError

FORMAT: Final = "slipstream-hardware-profile"
VERSION: Final = 1
DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_BEYOND: Final = 1 << 30
"""More nodes, sessions or context than any step has: where the straight line past the last measurement ends."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one verify step has to do."""

    nodes: int
    """Tokens that it forwards, over all sessions: ends, draft nodes, prompt tokens that are not cached."""
    sessions: int
    context: float
    """Tokens of a session's log, on average over the step's sessions."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Llama-like decoder's sizes: all that its cost depends on."""

    name: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    tied: bool
    """Whether the embedding is the output matrix as well."""

    @property
    def matrix_weights(self) -> int:
        """Weights that every forward multiplies by: all but those of the embedding, which is looked up."""
        projections = self.hidden_size * self.head_dim * 2 * (self.heads + self.kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.layers * (projections + mlp) + self.hidden_size * self.vocabulary_size

    @property
    def parameters(self) -> int:
        """Weights in all, norms included."""
        embedding = 0 if self.tied else self.hidden_size * self.vocabulary_size
        return self.matrix_weights + embedding + (2 * self.layers + 1) * self.hidden_size

    def kv_bytes(self, dtype: str) -> int:
        """Keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * DTYPE_BYTES[dtype]


@dataclass(frozen=True, slots=True)
class StepPoint:
    """One measurement."""

    nodes: int
    """See `StepLoad`. At least one per session."""
    sessions: int
    context: int
    step_ms: float
    """Median over the steps that were timed."""


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """The cost of steps of one model on one device, as measured.

    Noise aside a step gets no cheaper by having more in it. So the cost at a measured place is the greatest of what was
    measured there or with no more of anything; in between it is linear along each axis. Where a point is missing, the
    points around it stand in; past the last one the straight line through the last two goes on, or the cost
    stays as it is where an axis was measured at one value only. The cost thus never falls as a step grows.
    """

    name: str
    device: str
    """In words: processor and threads, or accelerator."""
    software: str
    """In words: what computed the steps."""
    model: ModelShape
    dtype: str
    points: tuple[StepPoint, ...]
    memory_gb_per_s: float | None = None
    """Measured by a large copy, reads and writes counted; None: not measured."""
    _axes: tuple[Array, Array, Array] = field(init=False, repr=False, compare=False)
    _costs: Array = field(init=False, repr=False, compare=False)
    """At every combination of the axes."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPE_BYTES)}, not {self.dtype!r}")
        if not self.points:
            raise ValueError("points must name at least one measurement")
        places = {(point.nodes, point.sessions, point.context) for point in self.points}
        if len(places) < len(self.points):
            raise ValueError("points must differ in nodes, sessions or context, and two of them do not")
        axes, costs = _lattice(self.points)
        object.__setattr__(self, "_axes", axes)
        object.__setattr__(self, "_costs", costs)

    def step_ms(self, nodes: float, sessions: float, context: float) -> float:
        """Milliseconds of a step; see `StepLoad`. Never less for more of anything."""
        costs = self._costs
        for axis, value in zip(self._axes, (max(nodes, sessions), sessions, context), strict=True):
            above = min(max(int(np.searchsorted(axis, value)), 1), len(axis) - 1)
            low, high = axis[above - 1], axis[above]
            share = min(max((value - low) / (high - low), 0.0), 1.0)
            costs = costs[above - 1] * (1.0 - share) + costs[above] * share
        return float(costs)


def read_hardware(path: str | Path) -> HardwareProfile:
    """A profile from its file.

    Raises:
        UserError: no such file, not JSON, another format or version, or a key that is unknown, missing or out of range.
    """
    where = Path(path).expanduser()
    try:
        document = json.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"hardware profile {where} cannot be read ({error.strerror}): check the path"
        ) from error
    except ValueError as error:
        raise UserError(
            f"hardware profile {where} is not JSON ({error}): scripts.bench_verifier makes one with --profile FILE"
        ) from error
    try:
        return _profile(document)
    except ValueError as error:
        raise UserError(f"hardware profile {where}: {error}") from error


def write_hardware(profile: HardwareProfile, path: str | Path) -> None:
    """Write a profile so that `read_hardware` gives an equal one.

    Raises:
        UserError: the file cannot be written.
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": profile.name,
        "device": profile.device,
        "software": profile.software,
        "model": asdict(profile.model),
        "dtype": profile.dtype,
        "memory_gb_per_s": profile.memory_gb_per_s,
        "points": [asdict(point) for point in profile.points],
    }
    try:
        Path(path).expanduser().write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the hardware profile {path}: {error}") from error


# ---- the cost between the points ----


def _lattice(points: Sequence[StepPoint]) -> tuple[tuple[Array, Array, Array], Array]:
    """The axes' values, each with one far beyond the last, and the cost at every combination."""
    places = np.array([(one.nodes, one.sessions, one.context) for one in points], dtype=np.float64)
    measured = [np.unique(column) for column in places.T]
    costs = np.full([len(axis) + 1 for axis in measured], np.nan)
    index = tuple(np.searchsorted(axis, column) for axis, column in zip(measured, places.T, strict=True))
    costs[index] = [one.step_ms for one in points]
    nodes, sessions, context = (np.append(axis, float(_BEYOND)) for axis in measured)
    # Nodes first: a step of fewer nodes than sessions does not exist, so it costs what its smallest one does.
    for number, axis in enumerate((nodes, sessions, context)):
        costs = np.apply_along_axis(_continued, number, costs, axis)
    for number in range(3):
        costs = np.maximum.accumulate(costs, axis=number)
    return (nodes, sessions, context), costs


def _continued(costs: Array, axis: Array) -> Array:
    """A line of the lattice with its gaps (NaN) filled; as it is if nothing on it is known."""
    known = np.flatnonzero(~np.isnan(costs))
    if not known.size:
        return costs
    filled: Array = np.interp(axis, axis[known], costs[known])
    if known.size > 1:
        before, last = known[-2:]
        slope = max(0.0, (costs[last] - costs[before]) / (axis[last] - axis[before]))
        filled[last:] = costs[last] + slope * (axis[last:] - axis[last])
    return filled


# ---- reading ----


class _RefusedError(ValueError):
    """What is wrong with a key of the file."""


def _profile(document: object) -> HardwareProfile:
    """Raises _RefusedError, which names the key and its range; ValueError by the profile itself."""
    top = _Keys(document, "")
    if top.text("format") != FORMAT:
        raise _RefusedError(f"format must be {FORMAT!r}")
    if top.count("version") != VERSION:
        raise _RefusedError(f"version must be {VERSION}; a file of another version is to be measured anew")
    shape = _Keys(top.take("model"), "model.")
    model = ModelShape(
        name=shape.text("name"),
        layers=shape.count("layers"),
        hidden_size=shape.count("hidden_size"),
        intermediate_size=shape.count("intermediate_size"),
        heads=shape.count("heads"),
        kv_heads=shape.count("kv_heads"),
        head_dim=shape.count("head_dim"),
        vocabulary_size=shape.count("vocabulary_size"),
        tied=shape.flag("tied"),
    )
    shape.end()
    points = top.take("points")
    if not isinstance(points, list):
        raise _RefusedError("points must be a list of measurements")
    bandwidth = top.take("memory_gb_per_s")
    profile = HardwareProfile(
        name=top.text("name"),
        device=top.text("device"),
        software=top.text("software"),
        model=model,
        dtype=top.text("dtype"),
        points=tuple(_point(_Keys(point, f"points[{number}].")) for number, point in enumerate(points)),
        memory_gb_per_s=None if bandwidth is None else _positive(bandwidth, "memory_gb_per_s"),
    )
    top.end()
    return profile


def _point(keys: _Keys) -> StepPoint:
    point = StepPoint(
        nodes=keys.count("nodes"),
        sessions=keys.count("sessions"),
        context=keys.count("context"),
        step_ms=_positive(keys.take("step_ms"), f"{keys.prefix}step_ms"),
    )
    keys.end()
    if point.nodes < point.sessions:
        raise _RefusedError(
            f"{keys.prefix}nodes must be at least sessions, {point.sessions}, not {point.nodes}: each brings one"
        )
    return point


class _Keys:
    """One JSON object, whose keys are taken one by one; what is left over is refused."""

    def __init__(self, value: object, prefix: str) -> None:
        if not isinstance(value, Mapping):
            raise _RefusedError(f"{prefix.rstrip('.') or 'the file'} must be an object of names and values")
        self.prefix = prefix
        self._left = dict(value)

    def take(self, key: str) -> Any:
        if key not in self._left:
            raise _RefusedError(f"{self.prefix}{key} is missing")
        return self._left.pop(key)

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise _RefusedError(f"{self.prefix}{key} must be a text, not {value!r}")
        return value

    def flag(self, key: str) -> bool:
        value = self.take(key)
        if not isinstance(value, bool):
            raise _RefusedError(f"{self.prefix}{key} must be true or false, not {value!r}")
        return value

    def count(self, key: str) -> int:
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < _BEYOND:
            raise _RefusedError(
                f"{self.prefix}{key} must be a whole number from 1 to {_BEYOND - 1}, not {value!r}"
            )
        return value

    def end(self) -> None:
        if self._left:
            raise _RefusedError(f"{self.prefix}{min(self._left)} is unknown")


def _positive(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _RefusedError(f"{name} must be a finite number above 0, not {value!r}")
    return float(value)
