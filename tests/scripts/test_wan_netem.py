"""The commands of the netem enforcer. Kernels without netem are common: what is run is tested, not the kernel."""

from __future__ import annotations

import pytest

from scripts.wan.choose import Enforcer, choose_enforcer, obstacle
from scripts.wan.link import running_link
from scripts.wan.netem import Condition, next_change, qdisc, queue_packets, topology
from scripts.wan.profiles import PROFILES, WanProfile
from scripts.wan.verify.edge import Plan
from scripts.wan.verify.trace import Pattern
from scripts.wan.verify.verify import measure
from shared.link import Jitter, LinkProfile, Schedule

QUIET = Condition(cut=False, away=False)
S = 1_000_000_000


@pytest.mark.parametrize(
    ("profile", "condition", "words"),
    [
        (LinkProfile(), QUIET, "limit 100000 delay 0ms loss random 0%"),
        (LinkProfile(47.5, 1.5, loss=0.0005), QUIET, "limit 100000 delay 47.5ms 1.5ms loss random 0.05%"),
        (
            LinkProfile(10, 4, jitter=Jitter.PARETO),
            QUIET,
            "limit 100000 delay 10ms 4ms distribution pareto loss random 0%",
        ),
        (PROFILES["lte"].up, QUIET, "limit 165 delay 35ms 12.5ms loss random 0.3% rate 8000kbit"),
        (
            LinkProfile(10, loss=0.01),
            Condition(cut=True, away=False),
            "limit 100000 delay 10ms loss random 100%",
        ),
        (
            PROFILES["leo"].down,
            Condition(cut=False, away=True),
            "limit 100000 delay 45ms 3.5ms loss random 0.5%",
        ),
    ],
)
def test_a_direction_is_one_command(profile: LinkProfile, condition: Condition, words: str):
    assert qdisc("add", "c", profile, condition) == f"tc qdisc add dev c root netem {words}"


def test_the_queue_counts_what_is_on_its_way():
    assert queue_packets(LinkProfile(100, 0, 12_000)) == 100 + 200  # a packet a millisecond


def test_the_path_leads_through_the_middle():
    commands = topology("/proc/1/fd/3", "/proc/1/fd/4")
    assert commands[:6] == [
        "ip link add e type veth peer name wan0 netns /proc/1/fd/3",
        "ip address add 100.64.0.2/30 dev e",
        "ip link set e up",
        "nsenter --net=/proc/1/fd/3 ip link set wan0 gso_max_segs 1 up",
        "nsenter --net=/proc/1/fd/3 ip address add 100.64.0.1/30 dev wan0",
        "nsenter --net=/proc/1/fd/3 ip route add 100.64.0.4/30 via 100.64.0.2",
    ]
    assert "nsenter --net=/proc/1/fd/4 ip route add 100.64.0.0/30 via 100.64.0.5" in commands
    assert not [command for command in commands if "netns add" in command]  # nothing with a name


@pytest.mark.parametrize(
    ("age", "change"),
    [(0, 2.0), (1.999, 2.0), (2.0, 2.5), (2.4, 2.5), (2.5, 12.0), (11.0, 12.0), (12.2, 12.5)],
)
def test_the_schedule_is_followed(age: float, change: float):
    schedule = Schedule(10.0, 500.0, offset_s=2.0)
    assert next_change(schedule, round(age * S)) == round(change * S)
    assert next_change(None, 0) is None


@pytest.mark.skipif(obstacle(Enforcer.NETEM) is not None, reason=f"netem: {obstacle(Enforcer.NETEM)}")
def test_netem_delays_packets():
    measured, _ = measure(
        WanProfile(40.0), choose_enforcer(Enforcer.NETEM), Plan("", None, Pattern(20, 5.0), 40.0)
    )
    trips = [probe.rtt_ms for probe in measured.probes if probe.rtt_ms is not None]
    assert min(trips) >= 40.0
    with running_link(WanProfile(40.0), choose_enforcer(Enforcer.NETEM)) as link:
        assert link.cut() == 0
