from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from edge_client.stats import Emulation, Percentiles, Timeline, Traffic, percentiles, stats_of
from shared.session.edge import EdgeCounts

MS = 1_000_000


def timeline(*commits: tuple[float, int], began: float = 100.0) -> Timeline:
    """Commits as (milliseconds, tokens)."""
    line = Timeline(round(began * MS))
    for at, tokens in commits:
        line.committed(round(at * MS), tokens)
    return line


def test_tokens_of_one_commit_come_together() -> None:
    line = timeline((130, 3), (150, 1), (200, 2))
    assert line.tokens == 6
    assert line.ttft_ms == 30
    assert line.tpot_ms == 70 / 5
    gaps = [0, 0, 20, 50, 0]
    assert line.itl_ms == Percentiles(*np.percentile(gaps, (50, 95, 99)).round(3))
    assert line.commit_gap_ms == Percentiles(*np.percentile([20, 50], (50, 95, 99)).round(3))
    assert line.itl_ms.p50 == 0
    assert line.commit_gap_ms.p50 == 35


def test_plain_streaming_has_the_same_gaps_between_tokens_and_commits() -> None:
    line = timeline((130, 1), (150, 1), (200, 1))
    assert line.itl_ms == line.commit_gap_ms
    assert line.tpot_ms == 35


NOTHING = Percentiles(None, None, None)


@pytest.mark.parametrize(
    ("line", "ttft", "tpot", "itl", "gap"),
    [
        (timeline(), None, None, NOTHING, NOTHING),
        (timeline((101, 1)), 1, None, NOTHING, NOTHING),
        (timeline((101, 2)), 1, 0, Percentiles(0, 0, 0), NOTHING),
        (timeline((101, 1), (103, 1)), 1, 2, Percentiles(2, 2, 2), Percentiles(2, 2, 2)),
        # A commit of which nothing counts (a stop string ended before it) is none.
        (timeline((101, 1), (103, 0)), 1, None, NOTHING, NOTHING),
    ],
)
def test_a_figure_that_does_not_exist_is_none(line, ttft, tpot, itl, gap) -> None:
    assert (line.ttft_ms, line.tpot_ms, line.itl_ms, line.commit_gap_ms) == (ttft, tpot, itl, gap)


def test_percentiles_are_linear_between_neighbours() -> None:
    assert percentiles([4.0, 1.0, 3.0, 2.0]) == Percentiles(2.5, 3.85, 3.97)


def stats(counts: EdgeCounts):
    return stats_of(
        timeline((101, 2)),
        counts,
        Traffic(up=10, down=20),
        rtt_ns=1_234_567,
        mode="stream",
        shape="tree",
        emulation=Emulation(0.0, None),
    )


def test_rates_are_over_what_was_judged_and_over_steps() -> None:
    made = stats(EdgeCounts(judged=8, accepted=6, steps=4, drafted=40, sent=30, verified=12, stale=5))
    assert (made.acceptance_rate, made.mean_accepted) == (0.75, 1.5)
    assert (made.drafted, made.sent, made.verified, made.stale) == (40, 30, 12, 5)
    assert (made.bytes_up, made.bytes_down, made.rtt_ms) == (10, 20, 1.235)


def test_rates_of_nothing_do_not_exist() -> None:
    made = stats(EdgeCounts())
    assert made.acceptance_rate is None
    assert made.mean_accepted is None
    assert stats(EdgeCounts(judged=1, steps=1)).acceptance_rate == 0.0


def test_stats_are_plain_json() -> None:
    text = json.dumps(dataclasses.asdict(stats(EdgeCounts())), allow_nan=False)
    assert json.loads(text)["itl_ms"] == {"p50": 0.0, "p95": 0.0, "p99": 0.0}
