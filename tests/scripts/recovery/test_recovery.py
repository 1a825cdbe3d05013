"""What recovery costs and buys, on trials small enough for a test: the directions, not the figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edge_client.policies import DraftOptions, Mode
from scripts.recovery import __main__ as command
from scripts.recovery import studies
from scripts.recovery.studies import STUDIES, AlwaysTransfer, Case
from scripts.recovery.trial import Trial, simulate, workers
from shared.link import LinkProfile, Schedule
from shared.policy.hedging import HedgeAfter
from shared.policy.transfer import NoTransfers
from shared.pool import PoolPolicies
from shared.sim.workers import FleetPlan, Misfortune, WorkerPlan

SHORT = Trial(FleetPlan(workers(2)), clients=2, seconds=4.0)


def test_a_trial_is_the_same_every_time():
    assert simulate(SHORT, 1) == simulate(SHORT, 1) != simulate(SHORT, 2)


def test_moving_the_kv_spares_the_pause_of_a_prefill():
    drains = FleetPlan(workers(2, misfortune=Misfortune.DRAIN, misfortune_ms=2500.0), transfer_token_ms=0.01)
    trial = replace(SHORT, fleet=drains, prompt_tokens=1500, warm_up_s=2.2, event_ms=2500.0)
    again, moved = (
        simulate(replace(trial, policies=PoolPolicies(transfers=way)), 1)
        for way in (NoTransfers, AlwaysTransfer)
    )
    assert moved.pause_longest_ms < 2 * 30.0
    assert again.pause_longest_ms > 3 * moved.pause_longest_ms
    assert again.computed_per_token > moved.computed_per_token + 1.0
    assert again.gone_after_ms is not None
    assert moved.gone_after_ms is not None


def test_a_hedged_step_is_waited_for_less():
    frozen = FleetPlan(
        workers(2, misfortune=Misfortune.FREEZE, misfortune_ms=2000.0, freeze_ms=1000.0), 3000.0
    )
    trial = replace(SHORT, fleet=frozen)
    plain, hedged = (
        simulate(replace(trial, policies=policies), 1)
        for policies in (PoolPolicies(), PoolPolicies(hedging=HedgeAfter(2.0, 50.0)))
    )
    assert plain.given_up == 0
    assert plain.pause_longest_ms > 900.0
    assert hedged.given_up >= 1
    assert hedged.pause_longest_ms < 0.5 * plain.pause_longest_ms


def test_patience_bounds_the_pause_when_an_edge_falls_silent():
    up = LinkProfile(delay_ms=20.0, outage=Schedule(every_s=10.0, lasts_ms=600.0, offset_s=2.0))
    trial = Trial(
        FleetPlan((WorkerPlan(),)), clients=1, options=DraftOptions(mode=Mode.SYNC), up=up, seconds=4.0
    )
    pauses = {
        patience_ms: simulate(replace(trial, patience_us=patience_ms * 1000), 1).pause_longest_ms
        for patience_ms in (100, 2000)
    }
    assert pauses[100] < 250.0
    assert pauses[2000] > 500.0


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("quick", [True, False])
def test_no_two_cases_of_a_study_are_alike(name: str, quick: bool):
    cases = STUDIES[name](quick)
    assert len({(case.situation, case.protocol) for case in cases}) == len(cases)
    for case in cases:
        assert case.trial.warm_up_s < case.trial.seconds
        assert case.trial.event_ms is None or case.trial.event_ms < case.trial.seconds * 1000


def test_the_command_shows_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    tiny = replace(SHORT, seconds=1.5, warm_up_s=0.5)
    cases = [Case("waiting", "nothing is wrong", name, tiny) for name in ("one", "another")]
    monkeypatch.setattr(studies, "STUDIES", {})
    monkeypatch.setattr(command, "STUDIES", {"waiting": lambda _: cases})
    assert command.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "another" in capsys.readouterr().out
    written = json.loads((tmp_path / "recovery.json").read_text(encoding="utf-8"))
    assert [row["protocol"] for row in written["studies"]["waiting"]] == ["one", "another"]
    assert (tmp_path / "recovery-waiting.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_study_is_named(capsys):
    assert command.main(["--study", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
