"""A hardware profile never says that more costs less, and its file is read strictly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from shared.errors import UserError
from shared.hardware import (
    HardwareProfile,
    ModelShape,
    StepPoint,
    read_hardware,
    write_hardware,
)

SHAPE = ModelShape(
    name="tiny",
    layers=2,
    hidden_size=64,
    intermediate_size=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary_size=256,
    tied=False,
)


def cost(nodes: int, sessions: int, context: int) -> float:
    """Flat up to 32 nodes, and linear in what is read of the cache."""
    return 10.0 + max(0, nodes - 32) * 0.1 + sessions * context * 1e-3


def profile(*points: StepPoint) -> HardwareProfile:
    return HardwareProfile("a test", "no device", "no software", SHAPE, "float32", points, 12.5)


def grid() -> tuple[StepPoint, ...]:
    return tuple(
        StepPoint(nodes, sessions, context, cost(nodes, sessions, context))
        for sessions in (1, 4, 16)
        for context in (128, 1024)
        for nodes in (1, 4, 16, 32, 64, 128)
        if nodes >= sessions
    )


def test_a_measured_point_costs_what_was_measured():
    known = profile(*grid())
    for point in grid():
        assert known.step_ms(point.nodes, point.sessions, point.context) == pytest.approx(point.step_ms)


def test_between_points_it_is_linear():
    known = profile(*grid())
    assert known.step_ms(96, 16, 128) == pytest.approx(cost(96, 16, 128))
    assert known.step_ms(48, 4, 576) == pytest.approx(cost(48, 4, 576))
    assert known.step_ms(64, 10, 128) == pytest.approx(cost(64, 10, 128))


def test_past_the_last_point_the_line_goes_on():
    known = profile(*grid())
    assert known.step_ms(512, 16, 128) == pytest.approx(cost(512, 16, 128))
    assert known.step_ms(128, 16, 8192) == pytest.approx(cost(128, 16, 8192))
    assert known.step_ms(128, 64, 1024) == pytest.approx(cost(128, 64, 1024))


def test_below_the_first_point_it_is_flat():
    known = profile(*grid())
    assert known.step_ms(0, 0, 0.0) == known.step_ms(1, 1, 128)


def test_an_axis_that_was_measured_at_one_value_is_flat():
    known = profile(StepPoint(8, 2, 128, 5.0))
    assert known.step_ms(1, 1, 1) == known.step_ms(500, 60, 8000) == 5.0


def test_noise_never_makes_more_cost_less():
    rng = random.Random(5)
    noisy = profile(
        *(
            StepPoint(point.nodes, point.sessions, point.context, point.step_ms * rng.uniform(0.5, 2.0))
            for point in grid()
            if rng.random() < 0.7
        )
    )
    for _ in range(2000):
        less = [rng.uniform(0, 200), rng.uniform(0, 40), rng.uniform(0, 3000)]
        more = [value * rng.choice((1.0, 1.0, rng.uniform(1.0, 3.0))) for value in less]
        assert noisy.step_ms(*less) <= noisy.step_ms(*more) * (1 + 1e-6)


def test_a_gap_takes_what_is_around_it():
    """What was not measured: the many sessions of the long context, as on a device with too little memory."""
    points = [point for point in grid() if not (point.sessions == 16 and point.context == 1024)]
    known = profile(*points)
    assert known.step_ms(64, 16, 1024) == pytest.approx(cost(64, 16, 1024))


def test_a_shape_counts_its_weights():
    attention = 64 * 16 * (4 + 2 + 2 + 4)
    assert SHAPE.matrix_weights == 2 * (attention + 3 * 64 * 128) + 64 * 256
    assert SHAPE.parameters == SHAPE.matrix_weights + 64 * 256 + 5 * 64
    assert SHAPE.kv_bytes("bfloat16") == 2 * 2 * 2 * 16 * 2


def test_a_file_is_read_as_it_was_written(tmp_path: Path):
    written = profile(*grid())
    write_hardware(written, tmp_path / "profile.json")
    assert read_hardware(tmp_path / "profile.json") == written


def document(tmp_path: Path) -> dict[str, Any]:
    write_hardware(profile(*grid()), tmp_path / "profile.json")
    return json.loads((tmp_path / "profile.json").read_text())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.update(colour="red"), "colour is unknown"),
        (lambda d: d.pop("dtype"), "dtype is missing"),
        (lambda d: d.update(version=2), "version must be 1"),
        (lambda d: d.update(format="else"), "format must be"),
        (lambda d: d.update(dtype="int8"), "dtype must be one of"),
        (lambda d: d.update(name=""), "name must be a text"),
        (lambda d: d.update(memory_gb_per_s=-1), "memory_gb_per_s must be a finite number above 0"),
        (lambda d: d.update(points=[]), "points must name at least one"),
        (lambda d: d.update(points={}), "points must be a list"),
        (lambda d: d["points"].append(d["points"][0]), "points must differ"),
        (lambda d: d["points"][3].update(step_ms=0), r"points\[3\]\.step_ms must be a finite number above 0"),
        (lambda d: d["points"][3].update(step_ms=float("inf")), r"points\[3\]\.step_ms"),
        (lambda d: d["points"][1].update(nodes=1.5), r"points\[1\]\.nodes must be a whole number from 1"),
        (lambda d: d["points"][1].update(nodes=True), r"points\[1\]\.nodes must be a whole number"),
        (lambda d: d["points"][1].update(rows=1), r"points\[1\]\.rows is unknown"),
        (lambda d: d["points"][0].update(sessions=9), r"points\[0\]\.nodes must be at least sessions"),
        (lambda d: d["points"].insert(0, 7), r"points\[0\] must be an object"),
        (lambda d: d["model"].update(tied=1), "model.tied must be true or false"),
        (lambda d: d["model"].pop("heads"), "model.heads is missing"),
        (lambda d: d["model"].update(experts=8), "model.experts is unknown"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_its_key(tmp_path: Path, change: Any, named: str):
    changed = document(tmp_path)
    change(changed)
    (tmp_path / "profile.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=named):
        read_hardware(tmp_path / "profile.json")


def test_no_file_and_no_json_are_the_users_to_mend(tmp_path: Path):
    with pytest.raises(UserError, match=r"none\.json"):
        read_hardware(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(UserError, match=r"text\.json"):
        read_hardware(tmp_path / "text.json")
    with pytest.raises(UserError, match="cannot write"):
        write_hardware(profile(*grid()), tmp_path / "no" / "folder.json")
