"""Seeded worlds with every fault on. A failure prints the command that replays it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from shared.messages import FinishReason
from shared.pool import PoolScheduler
from shared.session.edge import Done, Failed
from shared.session.front import CloudFront
from shared.sim.fleet import Fleet
from shared.sim.fuzz import WorldReport, make_world, run_world
from shared.sim.server import Server

FAST = 1000
BLOCK = 125
EVENTS = (
    *("server crash", "server restart", "server drains", "broke", "failed", "broke the worker"),
    *("drains", "crashes", "freezes", "joined", "left", "Transfer"),
)
COUNTED = (
    *("vanished", "reconnected", "stale", "accepted", "rejected", "moved"),
    *("hedged", "helped", "lost steps", "checked"),
    *("attached", "attached and right", "turned away"),
)


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
@pytest.mark.parametrize("first", range(100_000, 103_000, 500))
def test_many_worlds(first: int):
    sweep(first, 500)


def test_a_world_is_its_seed():
    reports = [run_world(seed) for seed in range(25)]
    assert [run_world(seed) for seed in range(25)] == reports
    assert len({report.trace_hash for report in reports}) == 25


def test_a_world_is_the_same_in_every_process():
    program = "from shared.sim.fuzz import run_world; print([run_world(s).trace_hash for s in range(20)])"
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
    assert hashes == {str([run_world(seed).trace_hash for seed in range(20)])}


def test_the_worlds_hold_what_they_are_for(monkeypatch: pytest.MonkeyPatch):
    """Coverage of the search itself: every way to end, every fault, and enough of each to mean something."""
    seen: Counter[str] = Counter()
    pools: list[PoolScheduler] = []
    begin = Server._begin

    def noted(server: Server) -> tuple[CloudFront, Fleet]:
        front, fleet = begin(server)
        pools.append(front.pool)
        return front, fleet

    monkeypatch.setattr(Server, "_begin", noted)
    for seed in range(200):
        world = make_world(seed)
        world.run()
        happened = " ".join(what for _, what in world.trace)
        for what in EVENTS:
            seen[what] += what in happened
        for pool in pools:
            seen["hedged"] += pool.counts.hedged > 0
            seen["helped"] += pool.counts.helped > 0
            seen["lost steps"] += pool.counts.lost_steps > 0
            seen["checked"] += pool.checked > 0
        pools.clear()
        for edge in world.edges:
            counts = edge.session.counts
            seen["vanished"] += edge.outcome is None
            seen["moved"] += counts.moves > 0
            for one in edge.assistants:
                seen["attached"] += len(one.copy.log) > 0
                seen["attached and right"] += one.copy.counts.accepted > 0
                seen["turned away"] += isinstance(one.outcome, Failed)
            seen["reconnected"] += counts.reconnects > 0
            seen["stale"] += counts.stale > 0
            seen["accepted"] += counts.accepted > 0
            seen["rejected"] += counts.judged > counts.accepted
            if isinstance(edge.outcome, Done):
                seen[edge.outcome.reason.value] += 1
    rare = {"moved", "Transfer", "broke the worker"}
    for what in (*(reason.value for reason in FinishReason), *EVENTS, *COUNTED):
        assert seen[what] >= (3 if what in rare else 10), (what, seen)
