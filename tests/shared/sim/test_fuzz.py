"""Seeded worlds with every fault on. A failure prints the command that replays it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from shared.messages import FinishReason
from shared.session.edge import Done
from shared.sim.fuzz import WorldReport, make_world, run_world

FAST = 1500
BLOCK = 125


def sweep(first: int, count: int) -> list[WorldReport]:
    reports = []
    for seed in range(first, first + count):
        try:
            reports.append(run_world(seed))
        except Exception as error:
            error.add_note(f"replay: python -m scripts.simulate fuzz --seed {seed}")
            raise
    return reports


@pytest.mark.parametrize("first", range(0, FAST, BLOCK))
def test_worlds(first: int):
    reports = sweep(first, BLOCK)
    assert sum(report.tokens for report in reports) > 10 * BLOCK


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(100_000, 120_000, 2500))
def test_many_worlds(first: int):
    sweep(first, 2500)


def test_a_world_is_its_seed():
    for seed in range(40):
        assert run_world(seed) == run_world(seed)
    assert len({run_world(seed).trace_hash for seed in range(40)}) == 40


def test_a_world_is_the_same_in_every_process():
    program = "from shared.sim.fuzz import run_world; print([run_world(s).trace_hash for s in range(30)])"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "77")
    }
    assert hashes == {str([run_world(seed).trace_hash for seed in range(30)])}


def test_the_worlds_hold_what_they_are_for():
    """Coverage of the search itself: every way to end, every fault, and enough of each to mean something."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        world = make_world(seed)
        world.run()
        happened = " ".join(what for _, what in world.trace)
        for what in ("server crash", "server restart", "broke", "failed"):
            seen[what] += what in happened
        for edge in world.edges:
            counts = edge.session.counts
            seen["vanished"] += edge.outcome is None
            seen["reconnected"] += counts.reconnects > 0
            seen["stale"] += counts.stale > 0
            seen["accepted"] += counts.accepted > 0
            seen["rejected"] += counts.judged > counts.accepted
            if isinstance(edge.outcome, Done):
                seen[edge.outcome.reason.value] += 1
    for what in (
        *(reason.value for reason in FinishReason),
        "server crash",
        "server restart",
        "broke",
        "failed",
    ):
        assert seen[what] >= 10, (what, seen)
    for what in ("vanished", "reconnected", "stale", "accepted", "rejected"):
        assert seen[what] >= 10, (what, seen)
