"""The verifier's benchmark measures what it says, simulator and server read its profile, its checks can fail."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from cloud_server import ragged
from cloud_server.noise import DeviceNoise
from cloud_server.verifier import DRAFT_SLOTS, Verifier
from scripts.bench_verifier import __main__ as command
from scripts.bench_verifier import curve
from scripts.bench_verifier.bounds import Bounds, measure_bounds
from scripts.bench_verifier.check import check_flips, check_greedy, check_noise
from scripts.bench_verifier.curve import Grid, measure_curve
from scripts.bench_verifier.shapes import SHAPES, llama_config, maker, random_model
from scripts.bench_verifier.workload import Effort, Sessions, median_ms
from shared.errors import UserError
from shared.hardware import read_hardware
from shared.profiled import parse_profile
from shared.sim.predict import predict
from tests.shared.sim.progress import cloud_arm

CPU = torch.device("cpu")
TINY = SHAPES["tiny"]
ONCE = Effort(least=1, most=1, seconds=0.0, warm_up=0)
SMALL = Grid(nodes=(1, 4, 9), sessions=(1, 3), contexts=(32, 70), effort=ONCE)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(command, "QUICK", SMALL)
    monkeypatch.setattr(command, "FLIP_ROUNDS", 1)
    monkeypatch.setattr("scripts.bench_verifier.bounds.COPY_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr("scripts.bench_verifier.bounds.PRODUCT_SIZE", {"cpu": 64})
    # A small step, so that a random model's text is checked at every turn of the tree.
    monkeypatch.setattr("scripts.bench_verifier.check.NEW_TOKENS", 20)


def make(dtype: str | None = None, length: int = 1024):
    return random_model(TINY, "cpu", dtype, length)


def run(*arguments: str):
    return CliRunner().invoke(command.app, ["--device", "cpu", "--shape", "tiny", *arguments])


def test_a_run_ends_with_tables_json_and_a_profile_for_simulator_and_server(tmp_path):
    result = run("--json", str(tmp_path / "all.json"), "--profile", str(tmp_path / "tiny.json"))
    assert result.exit_code == 0, result.output
    assert "Context 70" in result.output
    assert "Argmaxes that differ from plain decoding, bfloat16" in result.output
    found = json.loads((tmp_path / "all.json").read_text())
    places = {(point["nodes"], point["sessions"], point["context"]) for point in found["points"]}
    assert places == {(n, s, c) for n, s, c in SMALL.points()}
    assert {report["dtype"] for report in found["flips"]} == {"float32", "bfloat16"}
    assert all(point["memory_ms"] > 0 and point["compute_ms"] > 0 for point in found["points"])
    measured = read_hardware(tmp_path / "tiny.json")
    assert measured.model == TINY
    profile = parse_profile(f"profiled:hardware={tmp_path / 'tiny.json'}")
    alone = predict(profile, cloud_arm(), rtt_ms=10.0, tokens=20)
    cheapest, dearest = (f(point.step_ms for point in measured.points) for f in (min, max))
    assert cheapest * 0.99 <= alone.tpot_ms <= dearest * 1.01


def test_an_interrupted_run_leaves_what_was_measured(tmp_path, monkeypatch):
    points = []

    def until_interrupted(*arguments) -> float:
        if len(points) == 3:
            raise KeyboardInterrupt
        points.append(arguments)
        return 7.0

    monkeypatch.setattr(curve, "median_ms", until_interrupted)
    result = run("--json", str(tmp_path / "all.json"), "--profile", str(tmp_path / "tiny.json"))
    assert result.exit_code == 130, result.output
    assert json.loads((tmp_path / "all.json").read_text())["interrupted"] is True
    assert [point.step_ms for point in read_hardware(tmp_path / "tiny.json").points] == [7.0] * 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--shape", "70b"], "choose from tiny, demo, 1b, 8b"),
        (["--dtype", "int8"], "int8"),
        (["--device", "tpu"], "tpu"),
        (["--model", "./nowhere"], "nowhere"),
    ],
)
def test_what_the_user_can_mend_is_said_in_one_line(arguments, named):
    result = run(*arguments)
    assert isinstance(result.exception, UserError)
    assert named in str(result.exception)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_counts_the_weights_of_its_model(name):
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(llama_config(SHAPES[name], 1024))
    assert sum(parameter.numel() for parameter in module.parameters()) == SHAPES[name].parameters


def test_real_shapes_are_of_the_size_that_their_names_say():
    assert SHAPES["8b"].parameters == pytest.approx(8.03e9, rel=1e-3)
    assert SHAPES["1b"].parameters == pytest.approx(1.236e9, rel=1e-3)
    assert SHAPES["8b"].kv_bytes("bfloat16") == 131_072


def test_a_models_own_shape_is_found(tmp_path):
    module = AutoModelForCausalLM.from_config(llama_config(TINY, 256))
    module.save_pretrained(tmp_path / "tiny")
    shape, _ = maker("ignored", str(tmp_path / "tiny"), "cpu")
    assert shape == TINY


def test_random_models_are_the_same_every_time_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    one, other = (make().module.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_step_that_computes_something_else_is_no_measurement(monkeypatch):
    sessions = Sessions(Verifier(make(), kv_limit_bytes=1 << 22), TINY.vocabulary_size)
    sessions.resize(2, 40)
    assert median_ms(sessions, 6, 2, ONCE, CPU) > 0
    stock = sessions.step
    monkeypatch.setattr(Sessions, "step", lambda self, nodes, *more: stock(nodes - 1, *more))
    with pytest.raises(AssertionError, match="computed 5"):
        median_ms(sessions, 6, 2, ONCE, CPU)


def test_what_does_not_fit_is_left_out_and_said():
    verifier = Verifier(
        make(length=70 + DRAFT_SLOTS), kv_limit_bytes=(DRAFT_SLOTS + 128) * TINY.kv_bytes("float32")
    )
    crowded = Grid(nodes=(1, 9), sessions=(1, 3, 8), contexts=(32, 70), effort=ONCE)
    found = []
    measure_curve(verifier, crowded, CPU, 0.0, found.append)
    assert {(point.sessions, point.context) for point in found if point} == {(1, 32), (3, 32), (1, 70)}
    assert None in found
    assert verifier.evictions == 0


def test_the_bounds_are_those_of_the_shape():
    bounds = Bounds(bytes_per_s=1e9, flop_per_s=1e12)
    memory = TINY.matrix_weights * 4 + 3 * 100 * TINY.kv_bytes("float32")
    assert bounds.memory_ms(TINY, "float32", 3, 100) == pytest.approx(memory / 1e6)
    operations = 2 * 10 * (TINY.matrix_weights + 2 * 2 * 64 * 100)
    assert bounds.compute_ms(TINY, 10, 100) == pytest.approx(operations / 1e9)
    measured = measure_bounds(CPU, torch.float32)
    assert all(math.isfinite(value) and value > 0 for value in (measured.bytes_per_s, measured.flop_per_s))


# ---- the checks, and that each can fail ----


def test_every_check_passes_here():
    result = run("--check")
    assert result.exit_code == 0, result.output
    assert result.output.strip().endswith("PASS")
    assert "FAIL" not in result.output
    assert "the accelerator's path on a CPU" in result.output


def test_negative_control_a_generator_that_differs_in_one_bit_fails(monkeypatch):
    stock = DeviceNoise.words_at
    monkeypatch.setattr(DeviceNoise, "words_at", lambda *arguments: stock(*arguments) ^ (1 << 12))
    assert not check_noise(CPU).passed


def test_negative_control_drafts_that_see_each_other_fail(monkeypatch):
    stock = ragged._seen

    def wrong(shares, rows, width):
        return [*stock(shares, rows, width), *range(rows * width)]

    assert check_greedy(make, portable=True).passed
    monkeypatch.setattr(ragged, "_seen", wrong)
    assert not check_greedy(make, portable=True).passed


def test_negative_control_a_fact_that_depends_on_its_company_is_seen(monkeypatch):
    stock = ragged.ForwardBuilder._rows

    def wrong(self, shares):
        (tokens, positions, slots), wanted, at = stock(self, shares)
        return (tokens, positions + (len(shares) > 1), slots), wanted, at

    monkeypatch.setattr(ragged.ForwardBuilder, "_rows", wrong)
    finding = check_flips(make, "float32")
    assert not finding.passed
