"""The judge is judged: what is right passes, what is off by little more than the tolerance does not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scripts.wan.choose import CANNOT_SHOW, Choice, Enforcer, obstacle
from scripts.wan.profiles import PROFILES, Handover, WanProfile
from scripts.wan.verify.checks import (
    Check,
    check_delays,
    check_events,
    check_handshake,
    check_loss,
    check_rates,
)
from scripts.wan.verify.edge import Counted, Measured
from scripts.wan.verify.trace import Pattern, Probe, analyse, errors, imagined, passages, quantile, replay
from scripts.wan.verify.verify import brought_forward, measure, plan_for, verify_all, verify_profile
from shared.errors import UserError
from shared.link import Schedule

LTE = PROFILES["lte"]
PATTERN = Pattern(200, 20.0)
NO_TUN = obstacle(Enforcer.TUN)
needs_tun = pytest.mark.skipif(NO_TUN is not None, reason=f"tun: {NO_TUN}")


def perfect(
    profile: WanProfile, enforcer: Enforcer, pattern: Pattern = PATTERN, begins_ms: float = 0.0
) -> list[Probe]:
    """What an emulator without any error of its own would let through."""
    return replay(imagined(pattern, begins_ms), *passages(profile, enforcer, 0))


def worse(probes: list[Probe], up_ms: float, down_ms: float) -> list[Probe]:
    return [
        replace(
            one,
            up_ms=None if one.up_ms is None else one.up_ms + up_ms,
            rtt_ms=None if one.rtt_ms is None else one.rtt_ms + up_ms + down_ms,
        )
        for one in probes
    ]


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.passed is False}


@pytest.mark.parametrize("enforcer", [Enforcer.TUN, Enforcer.PROXY])
@pytest.mark.parametrize("profile", [LTE, PROFILES["lte-poor"], PROFILES["geo"]])
def test_what_the_model_asks_for_passes(profile: WanProfile, enforcer: Enforcer):
    probes = perfect(profile, enforcer)
    checks = check_delays(profile, enforcer, probes)
    assert failed(checks) == set()
    assert errors(probes, perfect(profile, enforcer))[-1] < 1e-6
    by_name = {check.name: check for check in checks}
    # The router's draws are the model's own: chance has no part in it.
    assert (by_name["RTT p50"].tolerance == 1.0) is (enforcer is Enforcer.TUN)


def test_a_link_that_is_off_fails():
    probes = perfect(LTE, Enforcer.TUN)
    assert failed(check_delays(LTE, Enforcer.TUN, worse(probes, 0.4, 0.4))) == set()
    assert failed(check_delays(LTE, Enforcer.TUN, worse(probes, 1.5, 0.0))) >= {
        "RTT p50",
        "up p50",
        "error p50",
    }
    assert failed(check_delays(LTE, Enforcer.TUN, worse(probes, 0.0, 3.0))) >= {
        "RTT p95",
        "down p50",
        "error p95",
    }
    # The right round trip, the wrong way around:
    assert failed(check_delays(LTE, Enforcer.TUN, worse(probes, 2.0, -2.0))) == {"up p50", "down p50"}


def test_a_proxy_that_is_off_fails():
    probes = perfect(LTE, Enforcer.PROXY)
    assert failed(check_delays(LTE, Enforcer.PROXY, worse(probes, 0.4, 0.4))) == set()
    assert failed(check_delays(LTE, Enforcer.PROXY, worse(probes, 1.5, 0.0))) == {"error p50"}


def test_a_link_with_the_wrong_jitter_fails():
    other = perfect(replace(LTE, jitter_ms=40.0), Enforcer.TUN)
    assert "jitter" in failed(check_delays(LTE, Enforcer.TUN, other))


def test_a_proxy_that_forgets_the_losses_fails():
    thin = WanProfile(50.0, loss_percent=5.0)
    without = perfect(replace(thin, loss_percent=0.0), Enforcer.PROXY)
    assert failed(check_delays(thin, Enforcer.PROXY, without)) >= {"late"}
    assert failed(check_delays(thin, Enforcer.PROXY, perfect(thin, Enforcer.PROXY))) == set()


def test_where_the_kernel_draws_chance_is_allowed_for():
    someone_elses = replay(imagined(PATTERN, 0.0), *passages(LTE, Enforcer.TUN, 77))
    assert failed(check_delays(LTE, Enforcer.NETEM, someone_elses)) == set()
    assert "RTT p50" in failed(check_delays(LTE, Enforcer.NETEM, worse(someone_elses, 8.0, 0.0)))


@pytest.mark.parametrize(
    ("arrived", "returned", "names"),
    [
        (9990, 9980, set()),
        (9970, 9940, set()),
        (9800, 9780, {"loss up"}),
        (9970, 9800, {"loss down"}),
        (10_000, 9970, {"loss up"}),
    ],
)
def test_losses_are_judged_by_their_number(arrived: int, returned: int, names: set[str]):
    assert failed(check_loss(replace(LTE, loss_percent=0.3), Counted(10_000, arrived, returned))) == names


def test_a_stream_shows_no_losses():
    checks = check_loss(LTE, None)
    assert [check.passed for check in checks] == [None, None]


def of_rates(packets: float, stream: float) -> Measured:
    return Measured((), None, packets, packets, stream, stream, 75.0)


def test_rates_are_judged_by_what_enforces_them():
    lte = replace(LTE, up_kbit=10_000, down_kbit=10_000)
    assert failed(check_rates(lte, of_rates(9900, 4000), Enforcer.TUN)) == set()
    assert failed(check_rates(lte, of_rates(9000, 9900), Enforcer.TUN)) == {"rate up", "rate down"}
    assert failed(check_rates(lte, of_rates(0, 9900), Enforcer.PROXY)) == set()
    assert failed(check_rates(lte, of_rates(0, 12_000), Enforcer.PROXY)) == {"rate up", "rate down"}


def test_a_handshake_that_is_not_delayed_is_told():
    assert check_handshake(LTE, of_rates(0, 0), Enforcer.TUN).passed
    assert not check_handshake(replace(LTE, rtt_ms=200.0), of_rates(0, 0), Enforcer.TUN).passed
    assert check_handshake(LTE, of_rates(0, 0), Enforcer.PROXY).passed is None


EVENTS = WanProfile(50.0, 7.0, outage=Schedule(100.0, 400.0, 1.0), handover=Handover(100.0, 200.0, 40.0, 2.0))
OFTEN = Pattern(700, 5.0)


@pytest.mark.parametrize("enforcer", [Enforcer.TUN, Enforcer.PROXY])
def test_events_are_seen_and_their_absence_too(enforcer: Enforcer):
    seen = perfect(EVENTS, enforcer, OFTEN, 300.0)
    checks = check_events(EVENTS, enforcer, OFTEN, seen)
    assert failed(checks) == set()
    assert {check.name for check in checks} == {"outage", "handover lasts", "handover adds"}
    nothing = perfect(replace(EVENTS, outage=None, handover=None), enforcer, OFTEN, 300.0)
    assert failed(check_events(EVENTS, enforcer, OFTEN, nothing)) == {check.name for check in checks}


def test_events_are_brought_forward_and_not_changed():
    soon = brought_forward(EVENTS)
    assert soon.outage is not None
    assert soon.handover is not None
    assert (soon.outage.lasts_ms, soon.handover.extra_rtt_ms) == (400.0, 40.0)
    assert soon.outage.offset_s == soon.handover.offset_s


def test_hardly_an_answer_is_no_figure():
    with pytest.raises(ValueError, match="only 3 of 20 probes came back"):
        analyse([Probe(0.0, 1.0, 2.0)] * 3 + [Probe(0.0, None, None)] * 17, 2.0)


def test_quantiles_are_interpolated():
    assert quantile([1.0, 2.0, 4.0], 0.75) == 3.0


@needs_tun
def test_every_packet_of_a_real_link_meets_the_fate_that_the_model_drew_for_it():
    """The proof itself: same losses, same jitter, packet by packet. A busy machine may be late, never early."""
    profile = WanProfile(30.0, 20.0, loss_percent=10.0)
    pattern = Pattern(60, 10.0)
    plan = replace(plan_for(profile, pattern), loss_probes=0, bulk_s=0.0, connects=0)
    choice = Choice(Enforcer.TUN, "", "")
    measured, traffic = measure(profile, choice, plan)
    asked = replay(measured.probes, *passages(profile, Enforcer.TUN, 0))
    assert [one.rtt_ms is None for one in measured.probes] == [one.rtt_ms is None for one in asked]
    assert 0 < sum(one.rtt_ms is None for one in asked) < 40
    late = errors(measured.probes, asked)
    assert late[0] >= 0.0
    assert quantile(late, 0.5) < 5.0
    assert traffic.packets_up is not None
    # Negative control: another seed's draws are not these.
    other = replay(measured.probes, *passages(profile, Enforcer.TUN, 1))
    assert [one.rtt_ms is None for one in measured.probes] != [one.rtt_ms is None for one in other]


def test_a_proxy_is_verified_and_the_figures_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.wan.verify.verify.BULK_S", 0.3)
    file = tmp_path / "figures.json"
    profile = WanProfile(20.0, 5.0, 8000, 8000, loss_percent=1.0)
    verify_all({"short": profile}, [Enforcer.PROXY], 30, file)
    (row,) = json.loads(file.read_text())
    assert (row["profile"], row["enforcer"]) == ("short", "proxy")
    by_name = {check["name"]: check for check in row["checks"]}
    assert by_name["RTT p50"]["achieved"] == pytest.approx(by_name["RTT p50"]["asked"], abs=8.0)
    assert by_name["loss up"]["achieved"] is None
    assert row["passed"] is all(check["passed"] is not False for check in row["checks"])


@pytest.mark.slow
@pytest.mark.parametrize("enforcer", [pytest.param(Enforcer.TUN, marks=needs_tun), Enforcer.PROXY])
def test_events_happen_on_a_real_link(enforcer: Enforcer):
    verification = verify_profile("events", EVENTS, Choice(enforcer, "", CANNOT_SHOW[enforcer]), 50)
    by_name = {check.name: check for check in verification.checks}
    assert by_name["outage"].achieved == pytest.approx(by_name["outage"].asked, abs=100.0)
    assert by_name["handover adds"].achieved == pytest.approx(by_name["handover adds"].asked, abs=15.0)


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        verify_all({"lan": PROFILES["lan"]}, None, 20, tmp_path / "none" / "figures.json")
