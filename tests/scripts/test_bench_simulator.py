"""The cost of the simulator: a small fleet is measured, and growth is fitted as it is."""

from __future__ import annotations

import json

import pytest

from scripts import bench_simulator
from scripts.bench_simulator import Cost, exponent, main


def cost(edges: int, cpu_s: float, tokens: int = 1000) -> Cost:
    return Cost(edges, 1, 1.0, tokens, 1, 0.05, 0.5, 1, cpu_s, cpu_s, 1.0, "")


def test_growth_is_linear_where_each_token_costs_the_same():
    assert exponent([cost(n, n / 100, 10 * n) for n in (125, 250, 500, 1000)]) == pytest.approx(1.0)
    assert exponent([cost(n, n * n / 100, 10 * n) for n in (125, 250, 500, 1000)]) == pytest.approx(2.0)
    assert exponent([cost(125, 1.0), cost(250, 1.0, tokens=0)]) is None


def test_a_small_fleet_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(bench_simulator, "THINK_MS", 1000.0)
    monkeypatch.setattr(bench_simulator, "_apart", bench_simulator.measure)
    assert (
        main(["--edges", "8", "--workers", "2", "--minutes", "0.05", "--growth-minutes", "0.02", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["fleet"]["tokens"] > 100
    assert [one["edges"] for one in found["growth"]] == [1, 2, 4, 8]
    assert 0 < found["fleet"]["active"] < 1


@pytest.mark.parametrize(
    "given", [["--edges", "0"], ["--minutes", "-1"], ["--minutes", "nan"], ["--nothing"]]
)
def test_what_makes_no_sense_is_one_line(given: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench_simulator: ")
    assert len(error.splitlines()) == 1
