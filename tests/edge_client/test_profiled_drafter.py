"""A profile in the place of a drafter: the live edge guesses as the simulator's does, whatever the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_client.sources import open_drafter
from shared.acceptance import parse_pair
from shared.profiled import Profile, ProfiledPair, decode
from shared.sampling import SamplingParams

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
PROMPT = (3, 1, 4, 1, 5)


@pytest.mark.parametrize(
    "process",
    [
        "acceptance=0.7",
        "process=iid",
        "process=markov,stay_easy=0.8",
        f"process=trace,trace={DEMO / 'trace.npz'}",
    ],
)
def test_a_profiled_drafter_guesses_as_its_pair(process: str):
    slept: list[float] = []
    drafter = open_drafter(f"profiled:draft_ms=1000,{process}", "cpu", 1, slept.append)
    assert drafter is not None
    pair = parse_pair(f"profiled:draft_ms=1000,{process}")
    text = [*PROMPT, *decode(ProfiledPair(Profile()), PROMPT, 30)]
    for length in range(len(PROMPT), len(text)):
        branch = (text[length - 1], 7)
        found = drafter.forward(text, length, [(), branch], SamplingParams(), 4)
        assert found == [
            pair.candidates(pair.state(text[:length]), 4),
            pair.candidates(pair.state((*text[:length], *branch)), 4),
        ]
    assert all(0.0 < seconds <= 1.1 for seconds in slept)
