"""Profiles: built in, from the user's own file, and as text between processes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from scripts.wan.__main__ import app, combine
from scripts.wan.profile_file import profile_from_json, profile_to_json, read_profiles
from scripts.wan.profiles import PROFILES, Handover, WanProfile, find_profile
from shared.errors import UserError
from shared.link import Jitter, Schedule

CAFE = """
[cafe]
rtt_ms = 45
jitter_ms = 12
jitter = "pareto"
down_kbit = 20000
up_kbit = 2000
loss_percent = 0.5
source = "measured on a Tuesday"
outage = { every_s = 30, lasts_ms = 400 }

[uneven]
rtt_ms = 100
up_delay_ms = 80
jitter_ms = 10
up_jitter_ms = 10
loss_percent = 1
up_loss_percent = 3
handover = { every_s = 15, lasts_ms = 200, extra_rtt_ms = 40, offset_s = 5 }
"""


@pytest.fixture
def write(tmp_path):
    def text_to_file(text: str):
        path = tmp_path / "profiles.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return text_to_file


def test_every_profile_adds_up():
    for profile in PROFILES.values():
        assert profile.up.delay_ms + profile.down.delay_ms == profile.rtt_ms
        assert profile.up.jitter_ms + profile.down.jitter_ms == profile.jitter_ms <= profile.rtt_ms
        assert profile.up.loss == profile.down.loss == profile.loss_percent / 100
        assert profile.source
    assert [name for name, profile in PROFILES.items() if profile.ideal] == ["ideal"]


def test_a_file_of_ones_own(write):
    found = read_profiles(write(CAFE))
    assert found["cafe"] == WanProfile(
        45.0,
        12.0,
        20_000.0,
        2_000.0,
        0.5,
        source="measured on a Tuesday",
        jitter=Jitter.PARETO,
        outage=Schedule(30.0, 400.0),
    )
    uneven = found["uneven"]
    assert (uneven.up.delay_ms, uneven.down.delay_ms) == (80.0, 20.0)
    assert (uneven.up.jitter_ms, uneven.down.jitter_ms) == (10.0, 0.0)
    assert (uneven.up.loss, uneven.down.loss) == (0.03, 0.01)
    assert uneven.handover == Handover(15.0, 200.0, 40.0, 5.0)
    assert uneven.up.handover == Schedule(15.0, 200.0, 5.0)
    assert uneven.up.handover_ms == 20.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[a]\nrtt = 5",
            r"\[a\]: unknown key rtt; there are rtt_ms \(0\.\.60000\), .*loss_percent \(0\.\.99\)",
        ),
        ("[a]\njitter_ms = 5", r"\[a\]: rtt_ms \(0\.\.60000\) is missing"),
        ("[a]\nrtt_ms = -1", r"rtt_ms -1: expected a number in 0\.\.60000"),
        ("[a]\nrtt_ms = nan", r"rtt_ms nan: expected a number in 0\.\.60000"),
        ("[a]\nrtt_ms = true", r"rtt_ms True: expected a number"),
        ("[a]\nrtt_ms = '5'", r"rtt_ms '5': expected a number"),
        ("[a]\nrtt_ms = 5\nloss_percent = 120", r"loss_percent 120: expected a number in 0\.\.99"),
        ("[a]\nrtt_ms = 5\njitter = 'gamma'", r"jitter 'gamma': expected one of uniform, normal, pareto"),
        ("[a]\nrtt_ms = 5\njitter = 1", r"jitter 1: expected one of uniform"),
        ("[a]\nrtt_ms = 5\nup_delay_ms = 6", r"\[a\]: delay_ms -1\.0 is outside 0"),
        ("[a]\nrtt_ms = 5\noutage = 3", r"outage 3: expected \{ every_s 0\.01\.\.1e\+06, lasts_ms"),
        ("[a]\nrtt_ms = 5\noutage = { every_s = 3 }", r"outage\.lasts_ms \(0\.\.1e\+09\) is missing"),
        (
            "[a]\nrtt_ms = 5\noutage = { every_s = 3, lasts_s = 1 }",
            r"unknown key outage\.lasts_s; outage is \{",
        ),
        (
            "[a]\nrtt_ms = 5\noutage = { every_s = 1, lasts_ms = 1000 }",
            r"lasts_ms 1000\.0 is outside 0\.\.1000",
        ),
        ("rtt_ms = 5", r"rtt_ms: expected a table, such as \[rtt_ms\]"),
        ("", "no profile in it"),
        ("[a", "not TOML"),
    ],
)
def test_what_a_file_may_not_say_is_named(write, text: str, message: str):
    with pytest.raises(UserError, match=message):
        read_profiles(write(text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_profiles(tmp_path / "none.toml")


def test_profiles_travel_between_processes(write):
    for profile in [*PROFILES.values(), *read_profiles(write(CAFE)).values()]:
        assert profile_from_json(profile_to_json(profile)) == profile


def test_an_unknown_profile_is_named_with_those_there_are(write):
    with pytest.raises(UserError, match=r"'modem'.*ideal, lan, wifi"):
        find_profile("modem")
    assert find_profile("cafe", read_profiles(write(CAFE))).rtt_ms == 45.0


def test_options_replace_a_profiles_figures(write):
    assert combine("cafe", write(CAFE), loss_percent=2.0, rtt_ms=None).up.loss == 0.02
    assert combine("lte", loss_percent=0.0) == replace(PROFILES["lte"], loss_percent=0.0)
    with pytest.raises(UserError, match="the network: delay_ms"):
        combine("uneven", write(CAFE), rtt_ms=10.0)


def test_profiles_are_printed_with_their_sources(write):
    printed = (
        CliRunner(env={"COLUMNS": "200"}).invoke(app, ["profiles", "--profile-file", str(write(CAFE))]).output
    )
    for words in ("lte-poor", "cafe", "measured on a Tuesday", "out for 400 ms", "100 (80 + 20)", "3 / 1"):
        assert words in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outage", "1,2000"], "--outage 1,2000: lasts_ms 2000.0 is outside"),
        (["--outage", "1"], "expected EVERY_S,LASTS_MS"),
        (["--handover", "1,2"], "expected EVERY_S,LASTS_MS,EXTRA_RTT_MS"),
        (["--handover", "1,x,3"], "expected EVERY_S,LASTS_MS,EXTRA_RTT_MS"),
        (["--handover", "1,2000,5"], "the network: lasts_ms"),
    ],
)
def test_options_that_cannot_be_are_the_users_business(arguments: list[str], message: str):
    result = CliRunner().invoke(app, ["proxy", "--target", "127.0.0.1:1", "--rtt-ms", "5", *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
